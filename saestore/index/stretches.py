"""What examples show of their contexts, as numbers: each different token once, by its number.

A feature shows some thousand tokens, of which a few hundred are different. Texts of contexts are cut into
tokens once, whatever number of features shows them, and with those that lie in the same row group, as long
as there is room: features show contexts from everywhere.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int32, Int64, Shaped

from saestore.features import arrow
from saestore.features.parquet import CONTEXTS_GROUP
from saestore.features.stored import SHOWN, Stored


SPECIAL, KEPT = 1, 2
"""Marks of a token."""

_ROOM = 1 << 27
"""Tokens of contexts that are kept: 512 MiB, a million contexts of 128."""


class Stretches:
    """Contexts of one analysis as numbers of tokens; numbers are this object's own."""

    def __init__(self, stored: Stored) -> None:
        self._stored = stored
        self._numbers: dict[tuple[str, int], int] = {}
        self._texts: list[str] = []
        self._marks: list[int] = []
        self._forget()

    def _forget(self) -> None:
        self._slots = np.empty(0, np.int64)  # of each context, -1 where it is not kept
        self._first = _Growing(np.int64)  # of each slot: where its tokens begin
        self._length = _Growing(np.int64)
        self._tokens = _Growing(np.int32)
        self._sources: list[str] = []
        self._starts = _Growing(np.int64)  # of each segment: its slot and its start in one number
        self._documents = _Growing(np.uint64)
        self._ids: list[str] = []

    def __len__(self) -> int:
        """Return how many different tokens there are so far."""
        return len(self._texts)

    @property
    def pieces(self) -> "tuple[pa.Array[Any], pa.Array[Any]]":
        """The different tokens, by their numbers: texts, and marks."""
        return arrow.column(self._texts, pa.string()), arrow.column(self._marks, pa.uint8())

    def text(self, number: int) -> str:
        """Return the text of a token."""
        return self._texts[number]

    def slots(self, contexts: Int64[np.ndarray, " _"]) -> Int64[np.ndarray, " _"]:
        """Return where some contexts are kept; true until others are asked for."""
        wanted = np.unique(contexts)
        missing = wanted[self._where(wanted) < 0]
        if len(missing):
            groups = np.unique(missing // CONTEXTS_GROUP)
            near = (groups[:, None] * CONTEXTS_GROUP + np.arange(CONTEXTS_GROUP)).ravel()
            held = len(self._tokens.values)
            table = self._read(near[self._where(near) < 0])
            if held + _n_tokens(table) > _ROOM:  # what is wanted, alone if need be
                table = self._read(missing)
                if held and held + _n_tokens(table) > _ROOM:
                    self._forget()
                    table = self._read(wanted)
            self._cut(table)
        return self._where(contexts)

    def shown(
        self,
        slots: Int64[np.ndarray, " _"],
        start: Int64[np.ndarray, " _"],
        length: Int64[np.ndarray, " _"],
    ) -> tuple[Int32[np.ndarray, " position"], Int64[np.ndarray, " _"]]:
        """Return the numbers of the tokens in some windows, one after the other, and where each ends, from 0."""
        ends = np.concatenate([[0], np.cumsum(length)])
        at = np.repeat(self._first.values[slots] + start - ends[:-1], length) + np.arange(ends[-1])
        found: Int32[np.ndarray, " position"] = self._tokens.values[at]
        return found, ends

    def token(self, slot: int, position: int) -> str:
        """Return the text at a position of a context; empty behind its end."""
        if position >= self._length.values[slot]:
            return ""
        return self.text(int(self._tokens.values[self._first.values[slot] + position]))

    def homes(
        self, slots: Int64[np.ndarray, " _"], positions: Int64[np.ndarray, " _"]
    ) -> dict[str, Any]:
        """Return tokens and source of some contexts, and the documents at positions in them.

        Between segments, as at a BOS, the document is the one before, or the first.
        """
        keys = self._starts.values
        first = np.searchsorted(keys, slots << _BITS)
        home = np.searchsorted(keys, slots << _BITS | positions, side="right") - 1
        home = np.maximum(home, first)
        return {
            "n_positions": self._length.values[slots],
            "source": _taken(self._sources, slots),
            "document": self._documents.values[home],
            "document_id": _taken(self._ids, home),
        }

    def _where(self, contexts: Int64[np.ndarray, " _"]) -> Int64[np.ndarray, " _"]:
        more = int(contexts.max(initial=-1)) + 1 - len(self._slots)
        if more > 0:
            self._slots = np.concatenate([self._slots, np.full(more, -1, np.int64)])
        found: Int64[np.ndarray, " _"] = self._slots[contexts]
        return found

    def _read(self, contexts: Int64[np.ndarray, " _"]) -> pa.Table:
        return self._stored.readers["contexts"].rows("context", contexts.tolist(), SHOWN)

    def _cut(self, table: pa.Table) -> None:
        """Keep some contexts, cut into tokens."""
        slots = len(self._sources) + np.arange(table.num_rows)
        self._slots[_plain(table["context"])] = slots
        lengths = _plain(table["n_positions"]).astype(np.int64)
        ends = np.cumsum(lengths)
        self._first.add(len(self._tokens.values) + ends - lengths)
        self._length.add(lengths)
        self._tokens.add(self._numbered(table, lengths))
        self._sources += map(str, table["source"].to_pylist())
        homes, n_homes = _flat(table["segments"])
        at = np.repeat(slots, n_homes)
        self._starts.add(at << _BITS | _plain(homes.field("start")).astype(np.int64))
        self._documents.add(_plain(homes.field("document")))
        self._ids += map(str, homes.field("document_id").to_pylist())

    def _numbered(
        self, table: pa.Table, lengths: Int64[np.ndarray, " _"]
    ) -> Int32[np.ndarray, " position"]:
        """Return the numbers of the tokens of some contexts, one after the other."""
        ids = _plain(_flat(table["token_ids"])[0])
        ignored, n_ignored = _flat(table["ignored"])
        starts = np.cumsum(lengths) - lengths
        marks = np.where(self._stored.vocabulary.specials(ids), SPECIAL, 0) | KEPT
        marks[np.repeat(starts, n_ignored) + _plain(ignored)] &= ~KEPT
        offsets = _plain(_flat(table["char_offsets"])[0])
        found = np.empty(len(ids), np.int32)
        number = self._number
        low = 0
        for at, text in enumerate(map(str, table["text"].to_pylist())):
            high = low + int(lengths[at])
            edges = offsets[low + at : high + at + 1].tolist()
            pieces = map(text.__getitem__, map(slice, edges, edges[1:]))
            found[low:high] = [*map(number, pieces, marks[low:high].tolist())]
            low = high
        return found

    def _number(self, text: str, mark: int) -> int:
        number = self._numbers.setdefault((text, mark), len(self._texts))
        if number == len(self._texts):
            self._texts.append(text)
            self._marks.append(mark)
        return number


_BITS = 20
"""Bits of a position in a context."""


class _Growing:
    """An array that is added to, mostly without copying it."""

    def __init__(self, dtype: type[np.generic]) -> None:
        self._room = np.empty(0, dtype)
        self._n = 0

    @property
    def values(self) -> Shaped[np.ndarray, " _"]:
        return self._room[: self._n]

    def add(self, values: Shaped[np.ndarray, " _"]) -> None:
        n = self._n + len(values)
        if n > len(self._room):
            room = np.empty(max(n, len(self._room) * 3 // 2), self._room.dtype)
            room[: self._n] = self.values
            self._room = room
        self._room[self._n : n] = values
        self._n = n


def _n_tokens(table: pa.Table) -> int:
    return int(_plain(table["n_positions"]).sum(dtype=np.int64))


def _flat(lists: Any) -> tuple[Any, Int64[np.ndarray, " _"]]:
    """Return the elements of all lists of a column, and how many each has."""
    column = lists.combine_chunks()
    ends = _plain(column.offsets)
    return column.flatten(), np.diff(ends.astype(np.int64))


def _plain(column: Any) -> Shaped[np.ndarray, " _"]:
    """Return a column without nulls; pyarrow's own `to_numpy` would import pandas."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return np.from_dlpack(whole)


def _taken(texts: list[str], places: Int64[np.ndarray, " _"]) -> "pa.Array[Any]":
    different, which = np.unique(places, return_inverse=True)
    known = arrow.column([texts[place] for place in different.tolist()], pa.string())
    return known.take(which)


def distinct(
    numbers: Int32[np.ndarray, " position"], places: Int64[np.ndarray, " _"]
) -> tuple[Int64[np.ndarray, " _"], Int64[np.ndarray, " position"]]:
    """Return the different numbers in the order they first stand in, and where each is among them.

    Args:
        numbers: Numbers of tokens.
        places: Room for one entry of each number there is; what is in it does not matter.
    """
    places[numbers[::-1]] = np.arange(len(numbers) - 1, -1, -1)  # the first of equal ones is last
    stands_first = np.zeros(len(numbers), np.bool_)
    stands_first[places[numbers]] = True
    first = np.flatnonzero(stands_first)
    found = numbers[first].astype(np.int64)
    places[found] = np.arange(len(found))
    return found, places[numbers]
