"""The one source of randomness in sampling: a hash, so that SQL can repeat every draw.

A context's rank is that of `splitmix64(seed xor context)`; a feature reads the ranks from an offset
of its own, `splitmix64(splitmix64(seed) xor feature) mod C`. Its random order is then
`(shuffle_rank - sample_offset) mod C`: a uniform sample without replacement, another for each
feature, the same for every layout of workers. The price: two features' orders are rotations of one
permutation, so they are not independent of each other.
"""

import numpy as np
from jaxtyping import UInt32

from saestore.mixing import MASK, splitmix64


def shuffle_ranks(contexts: int, *, seed: int) -> UInt32[np.ndarray, " context"]:
    """Return each context's rank by its hash, ties by context."""
    key = np.array([seed & MASK], dtype=np.uint64)
    hashes = splitmix64(np.arange(contexts, dtype=np.uint64) ^ key)
    ranks = np.empty(contexts, dtype=np.uint32)
    ranks[np.argsort(hashes, kind="stable")] = np.arange(contexts, dtype=np.uint32)
    return ranks


def sample_offsets(
    first: int, features: int, *, contexts: int, seed: int
) -> UInt32[np.ndarray, " feature"]:
    """Return where the random orders of features `first` to `first + features - 1` start.

    Args:
        first: First feature.
        features: How many.
        contexts: Contexts analysed, C; with none every offset is 0.
        seed: Seed of the analysis.
    """
    key = splitmix64(np.array([seed & MASK], dtype=np.uint64))
    hashes = splitmix64(np.arange(first, first + features, dtype=np.uint64) ^ key)
    return (hashes % np.uint64(max(contexts, 1))).astype(np.uint32)
