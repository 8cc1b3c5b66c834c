"""The token that a feature fires on most often."""

import numpy as np
from jaxtyping import Float64, UInt32

from saestore.analyze import segments
from saestore.analyze.block import FeatureBlock
from saestore.analyze.scope import Scope


def top_tokens(
    block: FeatureBlock, scope: Scope
) -> tuple[UInt32[np.ndarray, " feature"], Float64[np.ndarray, " feature"]]:
    """Return each feature's most frequent token, the smaller id on ties, and its share of the firings.

    Both are 0 of a feature that never fires.
    """
    rows = scope.start[block.context] + block.position
    ids = np.asarray(scope.tokens[rows]).view(np.uint32)
    token = segments.sorted_within(ids, block.offsets)
    fresh = np.ones(len(token), dtype=bool)
    fresh[1:] = token[1:] != token[:-1]
    fresh[block.offsets[:-1][block.counts > 0]] = True
    start = np.flatnonzero(fresh)
    runs = np.diff(np.append(start, len(token)))
    bounds = np.searchsorted(start, block.offsets).astype(np.int64)
    most = segments.maxima(runs, bounds)
    at = segments.first_of(most, runs, bounds)
    found = np.zeros(block.n, np.uint32)
    some = block.counts > 0
    found[some] = token[start[at[some]]]
    return found, most / np.maximum(block.counts, 1)
