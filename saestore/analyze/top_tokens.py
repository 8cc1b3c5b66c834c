"""The token that a feature fires on most often."""

from typing import Any

import numpy as np
from jaxtyping import Float64, UInt32

from saestore.analyze.block import FeatureBlock
from saestore.analyze.scope import Scope
from saestore.analyze.segment_loops import over_runs
from saestore.compiled import compiled


def top_tokens(
    block: FeatureBlock, scope: Scope
) -> tuple[UInt32[np.ndarray, " feature"], Float64[np.ndarray, " feature"]]:
    """Return each feature's most frequent token, the smaller id on ties, and its share of the firings.

    Both are 0 of a feature that never fires.
    """
    found, most = np.zeros(block.n, np.uint32), np.zeros(block.n, np.int64)
    rows = block.context, block.position, scope.start, np.asarray(scope.tokens)
    over_runs(_count, block.offsets, rows, len(scope.rows_of_token), found, most)
    return found, most / np.maximum(block.counts, 1)


@compiled
def _count(  # noqa: PLR0917 - arrays of one loop
    first: int, stop: int, offsets: Any, rows: Any, vocab: int, found: Any, most: Any
) -> None:
    context, position, starts, tokens = rows
    n, touched = np.zeros(vocab, np.int64), np.zeros(vocab, np.int64)
    for feature in range(first, stop):
        seen = 0
        for firing in range(offsets[feature], offsets[feature + 1]):
            token = tokens[starts[context[firing]] + position[firing]]
            if n[token] == 0:
                touched[seen] = token
                seen += 1
            n[token] += 1
        for at in range(seen):
            token = touched[at]
            if n[token] > most[feature] or (n[token] == most[feature] and token < found[feature]):
                found[feature], most[feature] = token, n[token]
            n[token] = 0
