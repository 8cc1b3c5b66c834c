"""Which rows are evaluated, in which blocks.

Blocks are fixed stretches of the store, whatever else is set, so that a row is always encoded
beside the same rows and gives the same bytes. Where not all contexts of a split can be used, the
ones used are spread evenly over it: the first ones would be the first documents only.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8


BLOCK_ROWS = 4096
"""Rows of the store in one block: enough for a matrix product, 16 MB of activations at d 1024."""


@runtime_checkable
class Rows(Protocol):
    """What is read of an activation store."""

    def read(self, hookpoint: str, start: int, stop: int) -> Float32[np.ndarray, "row d"]:
        """Return the rows of one hookpoint."""
        ...

    def flags(self, start: int, stop: int) -> UInt8[np.ndarray, " row"]:
        """Return the rows' flags."""
        ...


class Block(NamedTuple):
    """Kept rows of one stretch of the store.

    Attributes:
        rows: Their numbers in the store, ascending.
        contexts: The context of each.
    """

    rows: Int64[np.ndarray, " row"]
    contexts: Int64[np.ndarray, " row"]


def spread(items: int, wanted: int) -> Int64[np.ndarray, " _"]:
    """Return `wanted` of the numbers 0 to items-1, evenly spread, or all if there are fewer."""
    if wanted >= items:
        return np.arange(items)
    places: Int64[np.ndarray, " _"] = (2 * np.arange(wanted) + 1) * items // (2 * wanted)
    return places


def choose(
    contexts: Int64[np.ndarray, "context 2"], split: Bool[np.ndarray, " context"], rows: int | None
) -> Int64[np.ndarray, " _"]:
    """Return the contexts of a split to use so that they have about `rows` rows.

    Args:
        contexts: First row and length of every context of the store.
        split: Which contexts belong to the split.
        rows: Upper bound; None for no bound.
    """
    members = np.flatnonzero(split)
    total = int(contexts[members, 1].sum())
    if rows is None or total <= rows:
        return members
    return np.take(members, spread(len(members), max(1, len(members) * rows // total)))


def blocks(
    store: Rows,
    contexts: Int64[np.ndarray, "context 2"],
    chosen: Int64[np.ndarray, " _"],
    *,
    limit: int | None,
) -> Iterator[Block]:
    """Yield the kept rows of the chosen contexts block by block, at most `limit` rows in all.

    Args:
        store: Where flags are read; rows with any flag are left out.
        contexts: First row and length of every context of the store.
        chosen: Contexts to use, ascending.
        limit: Upper bound on the rows; None for no bound.
    """
    first = contexts[chosen, 0]
    end = first + contexts[chosen, 1]
    touched = {
        block
        for begin, stop in zip(first, end, strict=True)
        for block in range(begin // BLOCK_ROWS, -(-stop // BLOCK_ROWS))
    }
    left = np.iinfo(np.int64).max if limit is None else limit
    for block in sorted(touched):
        start, stop = block * BLOCK_ROWS, (block + 1) * BLOCK_ROWS
        # A context may begin in one block and end in another: each block takes its part.
        inside = slice(np.searchsorted(end, start, "right"), np.searchsorted(first, stop, "left"))
        begins, ends = np.maximum(first[inside], start), np.minimum(end[inside], stop)
        rows = np.concatenate([np.arange(b, e) for b, e in zip(begins, ends, strict=True)])
        owners = np.repeat(chosen[inside], ends - begins)
        kept = np.flatnonzero(store.flags(int(rows[0]), int(rows[-1]) + 1)[rows - rows[0]] == 0)
        kept = kept[:left]
        left -= len(kept)
        if len(kept):
            yield Block(rows[kept], owners[kept])
        if left == 0:
            return


def read_rows(
    store: Rows, hookpoint: str, rows: Int64[np.ndarray, " row"]
) -> Float32[np.ndarray, "row d"]:
    """Return some rows of one block: one read over their stretch, then a selection."""
    stretch = store.read(hookpoint, int(rows[0]), int(rows[-1]) + 1)
    wanted: Float32[np.ndarray, "row d"] = stretch[rows - rows[0]]
    return wanted
