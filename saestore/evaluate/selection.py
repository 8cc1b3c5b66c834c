"""Which rows are evaluated, in which blocks.

Blocks are fixed stretches of the store, whatever else is set, so that a row is always encoded
beside the same rows and gives the same bytes. Where not all contexts of a split can be used, the
ones used are spread evenly over it: the first ones would be the first documents only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int64, UInt8


BLOCK_ROWS = 4096
"""Rows of the store in one block: enough for a matrix product, 16 MB of activations at d 1024."""

GAP = 256
"""Rows that nobody wants are read along when fewer stand between wanted ones: the usual chunk."""

FLAGS_AT_ONCE = 1 << 20
"""Rows whose flags are read together: a chunk of flags holds many blocks."""


@runtime_checkable
class Rows(Protocol):
    """What is read of an activation store to choose rows."""

    @property
    def n_rows(self) -> int:
        """Rows of the store."""
        ...

    def flags(self, start: int, stop: int) -> UInt8[np.ndarray, " row"]:
        """Return the rows' flags."""
        ...


@dataclass(frozen=True)
class Block:
    """Kept rows of one stretch of the store.

    Attributes:
        rows: Their numbers in the store, ascending.
        contexts: The context of each.
        runs: The ranges of rows to read: first, and the one after the last.
        places: Where each row is among those read, one run after the other.
    """

    rows: Int64[np.ndarray, " row"]
    contexts: Int64[np.ndarray, " row"]
    runs: tuple[tuple[int, int], ...]
    places: Int64[np.ndarray, " row"]

    @classmethod
    def of(cls, rows: Int64[np.ndarray, " row"], contexts: Int64[np.ndarray, " row"]) -> "Block":
        """Return a block of some rows, at least one."""
        breaks = np.flatnonzero(np.diff(rows) > GAP) + 1
        first = np.concatenate([[0], breaks])
        starts, stops = rows[first], rows[np.append(breaks, len(rows)) - 1] + 1
        begins = np.cumsum(stops - starts) - (stops - starts)  # place of each run's first row
        run = np.repeat(np.arange(len(first)), np.diff(np.append(first, len(rows))))
        runs = tuple(zip(starts.tolist(), stops.tolist(), strict=True))
        return cls(rows, contexts, runs, rows - starts[run] + begins[run])


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
    allowed: int = 0,
) -> Iterator[Block]:
    """Yield the kept rows of the chosen contexts block by block, at most `limit` rows in all.

    Args:
        store: Where flags are read.
        contexts: First row and length of every context of the store.
        chosen: Contexts to use, ascending.
        limit: Upper bound on the rows; None for no bound.
        allowed: Bits that the flags of a row may have; rows with others are left out.
    """
    first = contexts[chosen, 0]
    end = first + contexts[chosen, 1]
    touched = {
        block
        for begin, stop in zip(first, end, strict=True)
        for block in range(begin // BLOCK_ROWS, -(-stop // BLOCK_ROWS))
    }
    left = np.iinfo(np.int64).max if limit is None else limit

    refused = np.uint8(~allowed & 0xFF)

    @lru_cache(maxsize=1)
    def flags(piece: int) -> UInt8[np.ndarray, " row"]:
        begin = piece * FLAGS_AT_ONCE
        return store.flags(begin, min(begin + FLAGS_AT_ONCE, store.n_rows))

    for block in sorted(touched):
        start, stop = block * BLOCK_ROWS, (block + 1) * BLOCK_ROWS
        # A context may begin in one block and end in another: each block takes its part.
        inside = slice(np.searchsorted(end, start, "right"), np.searchsorted(first, stop, "left"))
        begins, ends = np.maximum(first[inside], start), np.minimum(end[inside], stop)
        rows = np.concatenate([np.arange(b, e) for b, e in zip(begins, ends, strict=True)])
        owners = np.repeat(chosen[inside], ends - begins)
        piece = start // FLAGS_AT_ONCE  # a multiple of the block: no block has two
        marks = flags(piece)[rows - piece * FLAGS_AT_ONCE] & refused
        kept = np.flatnonzero(marks == 0)[:left]
        left -= len(kept)
        if len(kept):
            yield Block.of(rows[kept], owners[kept])
        if left == 0:
            return
