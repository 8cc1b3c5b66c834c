"""Strongest contexts, and what a feature does to the tokens that come next.

Some features are about what they make the model say. Source: Gur-Arieh et al. 2025 (arXiv:2501.08319), that
outputs explain such features better than inputs; ours shows both and lets the model choose.
"""

from collections.abc import Iterator, Sequence
from typing import final

from typing_extensions import override

from saestore.features import FeaturePage, LogitTable, LogitToken
from saestore.interpret import marks
from saestore.interpret.draw import Draw
from saestore.interpret.evidence import Evidence, Pick
from saestore.interpret.explainers.prompted import Prompted
from saestore_schemas.interpret import LogitsExplainer


_NEXT = 1
"""Shift of the tokens that come right after a firing."""


@final
class Logits(Prompted):
    """Shows the contexts in which a feature is strongest, and three lists of tokens."""

    def __init__(self, settings: LogitsExplainer) -> None:
        """Take its settings."""
        super().__init__(settings)
        self._settings = settings

    @override
    def choose(self, draw: Draw) -> Sequence[Pick]:
        return draw.top(self._settings.examples, "explain")

    @override
    def lines(self, evidence: Evidence) -> Sequence[str]:
        lists = [*self._moved(evidence.page), *self._following(evidence.page)]
        return [*self.numbered("Texts in which it fires, strongest first:", evidence), "", *lists]

    def _moved(self, page: FeaturePage) -> Iterator[str]:
        n = self._settings.tokens
        if not page.logits:
            yield "Which tokens it promotes is not known."
        for table in page.logits:
            what = _called(page, table)
            yield f"Tokens it promotes most ({what}): {_scored(table.promoted[:n])}"
            yield f"Tokens it suppresses most ({what}): {_scored(table.suppressed[:n])}"

    def _following(self, page: FeaturePage) -> Iterator[str]:
        for table in page.tokens:
            if table.shift == _NEXT and table.tokens:
                shares = ", ".join(
                    f"{marks.quoted(each.token)} {each.share:.0%}"
                    for each in table.tokens[: self._settings.tokens]
                )
                yield f"Tokens that come right after its firings: {shares}"


def _called(page: FeaturePage, table: LogitTable) -> str:
    """Return the name of a score; of several heads with the hookpoint that is written to."""
    several = len({each.head for each in page.logits}) > 1
    if not several:
        return f"score {table.score}"
    where = page.provenance.hookpoints
    place = where[table.head] if table.head < len(where) else f"head {table.head}"
    return f"score {table.score} at {place}"


def _scored(tokens: Sequence[LogitToken]) -> str:
    return ", ".join(f"{marks.quoted(each.token)} {each.value:.2f}" for each in tokens) or "none"
