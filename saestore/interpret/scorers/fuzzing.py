"""Are the right tokens marked? Of all scorers the closest to how people judge explanations.

Positives are marked where the feature fires; of the negatives, other contexts in which it fires, as many
tokens are marked on which it does not. Both kinds show the feature's subject, so only where it fires tells
them apart. A feature that fires on every token of its contexts has no negatives.

Source: Paulo et al. 2024 (arXiv:2410.13928).
"""

from collections.abc import Sequence
from typing import final

import numpy as np
from typing_extensions import override

from saestore.features import TokenPiece
from saestore.interpret import marks
from saestore.interpret.draw import Draw
from saestore.interpret.evidence import Evidence, Pick, Snippet
from saestore.interpret.metrics import DECILES
from saestore.interpret.scorers.base import Item
from saestore.interpret.scorers.examples import shuffled
from saestore.interpret.scorers.judging import Judging
from saestore.mixing import mixed
from saestore_schemas.interpret import FuzzingScorer


OTHER_TOKENS = "other_tokens"
"""Why a negative is one."""


@final
class Fuzzing(Judging):
    """Shows contexts in which the feature fires, with the right tokens marked or others."""

    def __init__(self, settings: FuzzingScorer) -> None:
        """Take its settings."""
        super().__init__(settings)
        self._settings = settings

    @override
    def choose(self, draw: Draw) -> Sequence[Pick]:
        wanted = self._settings.positives + self._settings.negatives
        return draw.strata(wanted, DECILES, "score")

    @override
    def items(self, evidence: Evidence, *, seed: int) -> Sequence[Item]:
        turns = self._turns(evidence.snippets, seed)
        found = []
        for place, (snippet, positive) in enumerate(zip(evidence.snippets, turns, strict=True)):
            if positive or _silent(snippet.example.tokens):
                decile = snippet.pick.stratum if positive else None
                kind = None if positive else OTHER_TOKENS
                found.append(Item(place, snippet, positive, decile, kind))
        return shuffled(found, seed)

    @override
    def text(self, item: Item, evidence: Evidence, *, seed: int) -> str:
        tokens = item.snippet.example.tokens
        if item.label:
            return marks.line(tokens, self._firing(item.snippet, evidence))
        pick, silent = item.snippet.pick, _silent(tokens)
        wanted = len(self._firing(item.snippet, evidence))
        key = mixed(seed, evidence.page.feature, pick.context)
        chosen = np.random.default_rng(key).permutation(len(silent))[:wanted]
        return marks.line(tokens, {silent[each] for each in chosen.tolist()})

    def _turns(self, snippets: Sequence[Snippet], seed: int) -> list[bool]:
        """Return which contexts are positives: in every decile the share that was asked for."""
        positives = self._settings.positives
        every = positives + self._settings.negatives
        order = np.random.default_rng((seed, 1)).permutation(len(snippets)).tolist()
        ranked = sorted(order, key=lambda at: snippets[at].pick.stratum or 0)
        turns = [False] * len(snippets)
        for rank, at in enumerate(ranked):
            turns[at] = (rank + 1) * positives // every > rank * positives // every
        return turns

    def _firing(self, snippet: Snippet, evidence: Evidence) -> list[int]:
        above = self._settings.highlight_above
        return marks.firing(snippet.example.tokens, maximum=evidence.maximum, above=above)


def _silent(tokens: Sequence[TokenPiece]) -> list[int]:
    """Return tokens that can be seen, were analysed, and on which nothing fires, nor on a part of them."""
    found: list[int] = []
    for at, token in enumerate(tokens):
        if token.special or token.text:
            seen = token.kept and not token.special and not token.value
            found += [at] if seen else []
        elif token.value and found[-1:] and not any(t.text for t in tokens[found[-1] + 1 : at]):
            found.pop()
    return found
