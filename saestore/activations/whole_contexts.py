"""Rows with the contexts they lie in: what a reader of sequences takes, counted in rows all the same.

A reader names rows; what is read for them is their contexts, whole, each once. Rows of a context that
nobody named are there to be attended to.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64
from torch import Tensor


@runtime_checkable
class InContexts(Protocol):
    """Rows that lie in contexts, such as those of a store."""

    def contexts(self) -> Int64[np.ndarray, "context 2"]:
        """Return first row and length of each context."""
        ...

    def segments(self) -> Int64[np.ndarray, "segment 6"]:
        """Return context, start, length, document and offsets of each segment."""
        ...


@dataclass(frozen=True)
class Surroundings:
    """The contexts that some rows lie in.

    Attributes:
        runs: The ranges of rows to read: first, and the one after the last.
        offsets: Where each context begins among the rows read, and where the last ends.
        documents: Which document of its context each of these rows belongs to, from 1; 0 before the
            first one. A row between documents belongs to the one before it.
        wanted: Where each named row is among them.
    """

    runs: tuple[tuple[int, int], ...]
    offsets: Int64[np.ndarray, " _"]
    documents: Int64[np.ndarray, " row"]
    wanted: Int64[np.ndarray, " _"]


@dataclass(frozen=True)
class RowsInContexts:
    """Rows that were read, with the contexts they lie in.

    Attributes:
        hooks: All rows of the contexts at each hookpoint.
        around: Where they stand, and which are wanted.
    """

    hooks: Mapping[str, Tensor]
    around: Surroundings


class WholeContexts:
    """The contexts of a store, to be found by rows.

    Attributes:
        table: First row and length of each.
    """

    def __init__(self, store: InContexts) -> None:
        """Read the tables of contexts and documents.

        Raises:
            UnsupportedError: It is a scattered copy, in which no context's rows stand together.
        """
        self.table = store.contexts()
        self._segments = store.segments()

    @property
    def longest(self) -> int:
        """Rows of the longest."""
        return int(self.table[:, 1].max(initial=0))

    def around(
        self, rows: Int64[np.ndarray, " row"], owners: Int64[np.ndarray, " row"] | None = None
    ) -> Surroundings:
        """Return the contexts of some rows, in the order in which these come.

        Args:
            rows: Numbers in the store; those of one context follow one another.
            owners: The context of each; absent, it is looked up.
        """
        if owners is None:
            owners = np.searchsorted(self.table[:, 0], rows, side="right") - 1
        fresh = np.flatnonzero(np.diff(owners, prepend=-1))
        contexts = owners[fresh]
        starts, lengths = self.table[contexts, 0], self.table[contexts, 1]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        named = np.diff(np.append(fresh, len(rows)))
        wanted = rows - np.repeat(starts - offsets[:-1], named)
        breaks = np.flatnonzero(starts[1:] != starts[:-1] + lengths[:-1]) + 1
        bounds = np.concatenate([[0], breaks, [len(starts)]]) if len(starts) else np.zeros(1, int)
        runs = tuple(
            (int(starts[a]), int(starts[b - 1] + lengths[b - 1]))
            for a, b in pairwise(bounds.tolist())
        )
        return Surroundings(runs, offsets, self._documents(contexts, offsets), wanted)

    def _documents(
        self, contexts: Int64[np.ndarray, " context"], offsets: Int64[np.ndarray, " _"]
    ) -> Int64[np.ndarray, " row"]:
        """Return how many documents of its context begin at or before each row."""
        owners = self._segments[:, 0]
        first = np.searchsorted(owners, contexts, side="left")
        counts = np.searchsorted(owners, contexts, side="right") - first
        each = np.arange(counts.sum()) + np.repeat(first - (np.cumsum(counts) - counts), counts)
        begun = np.zeros(int(offsets[-1]) + 1, np.int64)
        np.add.at(begun, np.repeat(offsets[:-1], counts) + self._segments[each, 1], 1)
        total = np.cumsum(begun)[:-1]
        before = np.concatenate([[0], total])[offsets[:-1]]
        return np.asarray(total - np.repeat(before, np.diff(offsets)), np.int64)
