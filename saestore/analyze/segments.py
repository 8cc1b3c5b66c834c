"""Reductions over runs: what is computed for each feature from its complete, sorted firings.

A run is a stretch of an array; `offsets` gives the runs' ends, one more than there are runs, and
runs may be empty. Every routine reads one run at a time in stored order, so a result never depends
on which other runs stand beside it. Float sums are numpy's pairwise float64 sums over one run:
partial sums of different workers are never merged.
"""

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, Shaped, UInt32, UInt64

from saestore.analyze.segment_loops import order_runs


_LONG = 400
"""Elements of a run from which on, in the mean, all are put in order in less time without comparing."""


def run_of(offsets: Int64[np.ndarray, " _"]) -> Int64[np.ndarray, " firing"]:
    """Return for each element the index of its run."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def sums(
    values: Float64[np.ndarray, " firing"], offsets: Int64[np.ndarray, " _"]
) -> Float64[np.ndarray, " feature"]:
    """Return the sum of each run; 0 for an empty one."""
    return _reduce(np.add, values, offsets)


def totals(
    flags: Bool[np.ndarray, " firing"], offsets: Int64[np.ndarray, " _"]
) -> Int64[np.ndarray, " feature"]:
    """Return how many flags are set in each run."""
    before = np.concatenate([[0], np.cumsum(flags, dtype=np.int64)])
    found: np.ndarray = before[offsets[1:]] - before[offsets[:-1]]
    return found


def maxima(
    values: Shaped[np.ndarray, " firing"], offsets: Int64[np.ndarray, " _"]
) -> Shaped[np.ndarray, " feature"]:
    """Return the largest element of each run; 0 for an empty one."""
    return _reduce(np.maximum, values, offsets)


def minima(
    values: Shaped[np.ndarray, " firing"], offsets: Int64[np.ndarray, " _"]
) -> Shaped[np.ndarray, " feature"]:
    """Return the smallest element of each run; 0 for an empty one."""
    return _reduce(np.minimum, values, offsets)


def sorted_within(
    keys: UInt32[np.ndarray, " firing"], offsets: Int64[np.ndarray, " _"]
) -> UInt32[np.ndarray, " firing"]:
    """Return the keys ascending inside each run, the runs in place."""
    composite = np.sort(_composite(keys, offsets))
    return (composite & np.uint64(0xFFFFFFFF)).astype(np.uint32)


def order_within(
    keys: UInt32[np.ndarray, " firing"], offsets: Int64[np.ndarray, " _"]
) -> Int64[np.ndarray, " firing"]:
    """Return the indices that put each run in ascending order, ties as they stand."""
    if len(keys) >= _LONG * (len(offsets) - 1):
        return order_runs(keys, offsets)
    order: np.ndarray = np.argsort(_composite(keys, offsets), kind="stable")
    return order


def rank_within(offsets: Int64[np.ndarray, " _"]) -> Int64[np.ndarray, " firing"]:
    """Return for each element its place in its run, from 0."""
    rank: np.ndarray = np.arange(offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets))
    return rank


def as_keys(values: Float32[np.ndarray, " firing"]) -> UInt32[np.ndarray, " firing"]:
    """Return the bits of positive floats: they sort as the floats do."""
    bits: np.ndarray = np.ascontiguousarray(values).view(np.uint32)
    return bits


def permille(
    values: Float32[np.ndarray, " firing"], offsets: Int64[np.ndarray, " _"], p: int
) -> Float32[np.ndarray, " feature"]:
    """Return each run's discrete quantile: element number max(1, ceil(p n / 1000)); 0 if empty.

    Args:
        values: Ascending inside each run.
        offsets: The runs.
        p: Permille, 0 to 1000; all arithmetic is on integers.
    """
    counts = np.diff(offsets)
    number = np.maximum(1, (p * counts + 999) // 1000)
    found = np.zeros(len(counts), np.float32)
    some = counts > 0
    found[some] = values[(offsets[:-1] + number - 1)[some]]
    return found


def ragged(
    start: Int64[np.ndarray, " pair"], stop: Int64[np.ndarray, " pair"]
) -> tuple[Int64[np.ndarray, " firing"], Int64[np.ndarray, " _"]]:
    """Return the indices of all stretches end to end, and the offsets that part them."""
    lengths = stop - start
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], lengths), offsets


def _composite(
    keys: UInt32[np.ndarray, " firing"], offsets: Int64[np.ndarray, " _"]
) -> UInt64[np.ndarray, " firing"]:
    runs: np.ndarray = run_of(offsets).astype(np.uint64) << np.uint64(32)
    runs |= keys
    return runs


def _reduce(how: np.ufunc, values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    some = np.diff(offsets) > 0
    found = np.zeros(len(some), dtype=values.dtype)
    if some.any():
        # Empty runs hold nothing, so the next full run's start ends the one before.
        found[some] = how.reduceat(values, offsets[:-1][some])
    return found
