"""What a feature that attends reads: `keys => query`, for Lorsa.

Its firing is the sum of what it reads from each key, so the keys say what it moves and from where. It needs
the table `attention`, which covers the analysis's examples alone: contexts come from those.
"""

from collections.abc import Sequence
from typing import final

from typing_extensions import override

from saestore.errors import UnsupportedError
from saestore.features import Example, FeaturePage
from saestore.interpret import marks
from saestore.interpret.draw import Draw
from saestore.interpret.evidence import Evidence, Pick, Snippet
from saestore.interpret.explainers.prompted import Prompted
from saestore_schemas.interpret import ZPatternExplainer


@final
class ZPattern(Prompted):
    """Shows the strongest of the analysis's examples, with the keys that each reads from."""

    def __init__(self, settings: ZPatternExplainer) -> None:
        """Take its settings."""
        super().__init__(settings)
        self._settings = settings

    @override
    def choose(self, draw: Draw) -> Sequence[Pick]:
        known = _reading(draw.page)
        if draw.page.n_firings and not known:
            raise UnsupportedError(
                f"the explainer zpattern shows what a feature reads, and {_named(draw.page)} has no table "
                "of that",
                found="no line of `attention`",
                expected="an analysis of a dictionary that attends (lorsa)",
                hint="take explainers of another kind, such as quantile, for other dictionaries",
            )
        strongest = sorted(known.values(), key=lambda example: (-example.peak, example.context))
        ours = [each for each in strongest if draw.part_of(each.context) == "explain"]
        return [Pick(e.context, e.peak_position) for e in ours[: self._settings.examples]]

    @override
    def lines(self, evidence: Evidence) -> Sequence[str]:
        known = _reading(evidence.page)
        found = ["Texts in which it fires, strongest first:", ""]
        for number, snippet in enumerate(evidence.snippets, 1):
            found += self.shown(number, snippet, evidence.maximum)
            found.append(f"    {self._reads(known[snippet.pick.context], snippet)}")
        return found

    def _reads(self, example: Example, snippet: Snippet) -> str:
        """Return what a firing is made of: keys with their distance and share, and the query."""
        total = sum(read.value for read in example.reads)
        keys = [
            f"{marks.quoted(read.text)} {_distance(example.peak_position - read.position)} "
            f"{read.value / total if total else 0.0:.0%}"
            for read in example.reads
            if read.position is not None
        ][: self._settings.reads]
        shown = snippet.example
        query = marks.words(shown.tokens)[shown.peak_position - shown.window_start]
        return f"{', '.join(keys) or 'many keys, none of them much'} => {query}"


def _reading(page: FeaturePage) -> dict[int, Example]:
    """Return the examples of which it is known what the feature reads, by context."""
    return {
        example.context: example
        for group in page.groups
        for example in group.examples
        if example.reads
    }


def _distance(tokens: int) -> str:
    return "(itself)" if not tokens else f"({tokens} before)"


def _named(page: FeaturePage) -> str:
    return f"{page.series}/{page.dictionary}/{page.analysis}"
