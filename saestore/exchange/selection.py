"""What of a store is exported: whole contexts, grouped into files of bounded size.

Arrays in, arrays out. Contexts keep the store's order; those that lie side by side are read
together.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from saestore.activations import ActivationStore, Split, split_contexts
from saestore.errors import ConfigError


@dataclass(frozen=True)
class Range:
    """A half-open range, from 0; an end that is None is the store's."""

    start: int = 0
    stop: int | None = None

    @classmethod
    def parse(cls, text: str, *, field: str) -> "Range":
        """Return the range that `A:B` means; `A:`, `:B` and `:` leave an end open.

        >>> Range.parse("10:", field="contexts")
        Range(start=10, stop=None)

        Raises:
            ConfigError: It is no such range.
        """
        start, colon, stop = text.partition(":")
        try:
            found = cls(int(start or 0), int(stop) if stop else None)
        except ValueError:
            found = cls(-1)
        if not colon or found.start < 0 or (found.stop is not None and found.stop <= found.start):
            raise ConfigError(
                field=field,
                found=text,
                expected="A:B with A below B, such as 0:1000",
                hint="leave an end out for all that is there: 1000: or :1000",
            )
        return found


@dataclass(frozen=True)
class Selection:
    """Some contexts of a store.

    Attributes:
        contexts: Their numbers in the store, ascending.
        table: First row and length of each of them.
        segments: Their segments: contexts counted within the selection, documents within
            `documents`.
        documents: The documents they name; all of the store's, if all contexts are chosen.
    """

    contexts: Int64[np.ndarray, " context"]
    table: Int64[np.ndarray, "context 2"]
    segments: Int64[np.ndarray, "segment 6"]
    documents: pa.Table

    @property
    def rows(self) -> int:
        """Rows of all of them."""
        return int(self.table[:, 1].sum())


@dataclass(frozen=True)
class Group:
    """Contexts that one file holds.

    Attributes:
        start: The first, counted in the selection.
        stop: The one after the last.
        table: First row in the store and length of each.
    """

    start: int
    stop: int
    table: Int64[np.ndarray, "context 2"]

    @property
    def rows(self) -> int:
        """Rows of all of them."""
        return int(self.table[:, 1].sum())

    def local(self) -> Int64[np.ndarray, "context 2"]:
        """Return first row in the file and length of each."""
        lengths = self.table[:, 1]
        return np.stack([np.cumsum(lengths) - lengths, lengths], axis=1)

    def runs(self, *, at_once: int) -> Iterator[tuple[int, int]]:
        """Yield the store's rows in order, as ranges of bounded length."""
        ends = self.table.sum(axis=1)
        breaks = np.flatnonzero(self.table[1:, 0] != ends[:-1]) + 1
        for first, last in zip([0, *breaks], [*breaks, len(ends)], strict=True):
            row, end = int(self.table[first, 0]), int(ends[last - 1])
            while row < end:
                stop = min(row + at_once, end)
                yield row, stop
                row = stop


def select(
    store: ActivationStore,
    *,
    contexts: Range | None = None,
    rows: Range | None = None,
    split: Split = "all",
    held_out: float = 0.0,
) -> Selection:
    """Return the contexts in a range that belong to a split.

    Args:
        store: The store.
        contexts: Range of contexts.
        rows: Range of rows: contexts that begin in it, whole. Ranges that meet share none.
        split: All of them, those that training sees, or those held out.
        held_out: Share of contexts held out.

    Raises:
        ConfigError: There are none.
    """
    table = store.contexts()
    chosen = split_contexts(len(table), split, held_out)
    if contexts is not None:
        number = np.arange(len(table))
        chosen = chosen & (number >= contexts.start)
        chosen &= number < (len(table) if contexts.stop is None else contexts.stop)
    if rows is not None:
        chosen = chosen & (table[:, 0] >= rows.start)
        chosen &= table[:, 0] < (store.n_rows if rows.stop is None else rows.stop)
    numbers = np.flatnonzero(chosen)
    if not len(numbers):
        raise ConfigError(
            field="contexts",
            problem="nothing is chosen",
            expected=f"some of the {len(table):,} contexts ({store.n_rows:,} rows) of "
            f"{store.ref.name}",
            hint="change --contexts, --rows or --split",
        )
    segments = store.segments()
    documents = store.documents()
    if len(numbers) < len(table):
        place = np.full(len(table), -1)
        place[numbers] = np.arange(len(numbers))
        segments = segments[place[segments[:, 0]] >= 0].copy()
        segments[:, 0] = place[segments[:, 0]]
        named, segments[:, 3] = np.unique(segments[:, 3], return_inverse=True)
        documents = documents.take(pa.array(named))
        index = documents.schema.get_field_index("document")
        renumbered = pa.array(np.arange(len(named)), pa.uint64())
        documents = documents.set_column(index, documents.schema.field(index), renumbered)
    return Selection(numbers, table[numbers], segments, documents)


def groups(selection: Selection, *, rows: int) -> list[Group]:
    """Return the contexts in files of at most so many rows; a longer context has a file of its own."""
    found, start, held = [], 0, 0
    lengths = selection.table[:, 1]
    for number, length in enumerate(lengths):
        if held and held + length > rows:
            found.append(Group(start, number, selection.table[start:number]))
            start, held = number, 0
        held += int(length)
    found.append(Group(start, len(lengths), selection.table[start:]))
    return found
