"""Which rows of a store are wanted: a range, a split of the contexts, and what their flags allow.

The answer is a bit per row (12 MB for 1e8 rows) and a count per unit of reading, made in one pass
over the flags in pieces of a few chunks; nothing else with an entry per row is ever held.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from saestore.activations.split import Split, split_contexts
from saestore.activations.store import ActivationStore
from saestore.errors import ConfigError


_AT_ONCE = 1 << 20
"""Rows looked at together."""


@dataclass(frozen=True)
class RowChoice:
    """Which rows a reader wants.

    Attributes:
        split: All contexts, those that training sees, or those held out.
        held_out: Share of contexts held out, 0 to 1.
        rows: First row and the row after the last; absent, the whole store.
        flags: Bits of the flags that a wanted row may have; 0 wants rows without any.
    """

    split: Split = "all"
    held_out: float = 0.0
    rows: tuple[int, int] | None = None
    flags: int = 0

    def range_in(self, store: ActivationStore) -> tuple[int, int]:
        """Return first row and the row after the last.

        Raises:
            ConfigError: The store has no such rows.
        """
        start, stop = self.rows or (0, store.n_rows)
        if not 0 <= start < stop <= store.n_rows:
            raise ConfigError(
                field="activations.rows",
                found=[start, stop],
                expected=f"a range within the {store.n_rows} rows of {store.ref.name!r}",
            )
        return start, stop

    def contexts(self, store: ActivationStore) -> Int64[np.ndarray, "context 2"]:
        """Return first row and length of the contexts of the split, cut to the range."""
        start, stop = self.range_in(store)
        contexts = store.context_table()
        first = np.clip(contexts[:, 0], start, stop)
        length = np.clip(contexts.sum(axis=1), start, stop) - first
        chosen = split_contexts(len(contexts), self.split, self.held_out) & (length > 0)
        found: Int64[np.ndarray, "context 2"] = np.stack([first, length], axis=1)[chosen]
        return found

    def whole_contexts(self, store: ActivationStore) -> Int64[np.ndarray, " context"]:
        """Return the contexts of the split that lie in the range whole."""
        start, stop = self.range_in(store)
        contexts = store.contexts()
        inside = (contexts[:, 0] >= start) & (contexts.sum(axis=1) <= stop)
        chosen = split_contexts(len(contexts), self.split, self.held_out)
        return np.flatnonzero(inside & chosen & (contexts[:, 1] > 0))

    def wanted(self, store: ActivationStore) -> Iterator[tuple[int, Bool[np.ndarray, " row"]]]:
        """Yield pieces of the store: their first row and which of their rows are wanted."""
        start, stop = self.range_in(store)
        contexts = store.context_table()
        chosen = split_contexts(len(contexts), self.split, self.held_out)
        ends = contexts.sum(axis=1)
        refused = np.uint8(~self.flags & 0xFF)
        for first in range(0, store.n_rows, _AT_ONCE):
            end = min(first + _AT_ONCE, store.n_rows)
            if end <= start or first >= stop:
                yield first, np.zeros(end - first, np.bool_)
                continue
            wanted = (store.flags(first, end) & refused) == 0
            if self.split != "all" and store.record.scattered:
                owners = np.searchsorted(contexts[:, 0], store.order(first, end), side="right") - 1
                wanted &= chosen[owners]
            elif self.split != "all":
                here = slice(
                    int(np.searchsorted(ends, first, side="right")),
                    int(np.searchsorted(contexts[:, 0], end, side="left")),
                )
                lengths = np.minimum(ends[here], end) - np.maximum(contexts[here, 0], first)
                wanted &= np.repeat(chosen[here], lengths)
            wanted[: max(start - first, 0)] = False
            wanted[max(stop - first, 0) :] = False
            yield first, wanted


@dataclass(frozen=True)
class Wanted:
    """The wanted rows of a store by units of reading.

    Attributes:
        unit_rows: Rows of a unit, a power of two.
        units: The units with wanted rows, ascending.
        counts: Their wanted rows.
        bits: Which rows of each are wanted, packed.
        rows: All wanted rows.
    """

    unit_rows: int
    units: Int64[np.ndarray, " unit"]
    counts: Int64[np.ndarray, " unit"]
    bits: UInt8[np.ndarray, "unit byte"]
    rows: int

    @classmethod
    def of(cls, store: ActivationStore, choice: RowChoice, *, unit_rows: int) -> "Wanted":
        """Return the rows that a reader wants.

        Raises:
            ConfigError: There is none.
            DamagedArtefactError: A chunk of the flags does not match its crc32c.
        """
        per_piece, counts, bits = [], [], []
        rest = np.empty(0, np.bool_)  # a unit may be longer than a piece
        for first, piece in choice.wanted(store):
            flat = np.concatenate([rest, piece])
            whole = len(flat) // unit_rows * unit_rows
            if first + len(piece) == store.n_rows:
                whole = -(-len(flat) // unit_rows) * unit_rows
                flat = np.append(flat, np.zeros(whole - len(flat), np.bool_))
            rest, marks = flat[whole:], flat[:whole].reshape(-1, unit_rows)
            found = marks.sum(axis=1)
            per_piece.append(found)
            some = found > 0
            counts.append(found[some])
            bits.append(np.packbits(marks[some], axis=1))
        per_unit = np.concatenate(per_piece)
        rows = int(per_unit.sum())
        if rows == 0:
            raise ConfigError(
                field="activations",
                found=f"no kept row in split {choice.split!r} of {store.ref.name!r}",
                expected="at least one row",
                hint="use a larger store, or another share for activations.held_out",
            )
        return cls(
            unit_rows,
            np.flatnonzero(per_unit),
            np.concatenate(counts),
            np.concatenate(bits),
            rows,
        )

    def marks(self, index: Int64[np.ndarray, " unit"]) -> Bool[np.ndarray, "unit row"]:
        """Return which rows of some units, counted among `units`, are wanted."""
        return np.unpackbits(self.bits[index], axis=1, count=self.unit_rows).astype(np.bool_)
