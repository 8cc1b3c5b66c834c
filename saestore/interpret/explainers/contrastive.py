"""Contexts in which a feature fires beside such in which it nearly could have: what makes the difference?

Longer than the strongest contexts alone. Use it where explanations come out too broad.
"""

from collections.abc import Sequence
from typing import final

from typing_extensions import override

from saestore.interpret import marks
from saestore.interpret.draw import Draw
from saestore.interpret.evidence import Evidence, Negative, Pick
from saestore.interpret.explainers.prompted import Prompted
from saestore_schemas.interpret import ContrastiveExplainer


_ORDER: tuple[Negative, ...] = ("near", "same_token", "silent")
"""Kinds of negatives: of each, what the ones before leave."""


@final
class Contrastive(Prompted):
    """Shows the contexts in which a feature is strongest, and then hard negatives."""

    def __init__(self, settings: ContrastiveExplainer) -> None:
        """Take its settings."""
        super().__init__(settings)
        self._settings = settings

    @override
    def choose(self, draw: Draw) -> Sequence[Pick]:
        positives = draw.top(self._settings.examples, "explain")
        return [*positives, *self._negatives(draw)] if positives else []

    @override
    def lines(self, evidence: Evidence) -> Sequence[str]:
        found = self.numbered("Texts in which it fires, strongest first:", evidence)
        n = sum(snippet.pick.negative is None for snippet in evidence.snippets)
        negatives = [snippet for snippet in evidence.snippets if snippet.pick.negative is not None]
        found += ["", "Texts in which it does not fire:", ""]
        for number, snippet in enumerate(negatives, n + 1):
            found.append(f"[{number}] {marks.line(snippet.example.tokens)}")
        return found if negatives else found[:-3]

    def _negatives(self, draw: Draw) -> list[Pick]:
        found: dict[int, Pick] = {}
        n = self._settings.negatives
        for kind in _ORDER:
            if len(found) < n:
                # as many as asked for may be there already
                for pick in draw.hard(n + len(found), kind, "explain"):
                    found.setdefault(pick.context, pick)
        return list(found.values())[:n]
