"""Which contexts are held out: a hash of the context's index, so that no list has to be kept.

The same contexts are held out for every seed, window and batch size, and a larger store keeps the
choices of a smaller one.
"""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Int64

from saestore.mixing import splitmix64


Split = Literal["all", "train", "held_out"]
"""All kept rows, those of contexts that training sees, or those it never sees."""


def held_out(n_contexts: int, share: float) -> Bool[np.ndarray, " context"]:
    """Return which contexts are held out.

    Args:
        n_contexts: Contexts of the store.
        share: Expected share of them, 0 to 1.
    """
    bits = splitmix64(np.arange(n_contexts, dtype=np.uint64))
    return bits < np.uint64(min(int(share * 2.0**64), 2**64 - 1))


def split_contexts(n_contexts: int, split: Split, share: float) -> Bool[np.ndarray, " context"]:
    """Return which contexts belong to a split."""
    if split == "all":
        return np.ones(n_contexts, bool)
    out = held_out(n_contexts, share)
    return out if split == "held_out" else ~out


def rows_of(
    contexts: Int64[np.ndarray, "context 2"], chosen: Bool[np.ndarray, " context"], n_rows: int
) -> Bool[np.ndarray, " row"]:
    """Return which rows lie in the chosen contexts."""
    return np.repeat(chosen, contexts[:, 1]) if len(contexts) else np.zeros(n_rows, bool)
