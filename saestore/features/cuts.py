"""Contexts cut into tokens, as numbers: each different token once, by its number.

A page shows some thousand tokens, of which a few hundred are different: what is done for each token is done
by whole arrays, and only for different ones by Python.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int32, Int64, Shaped, UInt8

from saestore.features import arrow
from saestore.features.page import TokenPiece
from saestore.features.pieces import Shown, Vocabulary, silent


SPECIAL, KEPT = 1, 2
"""Marks of a token."""

SHOWN = (
    "context",
    "source",
    "n_positions",
    "token_ids",
    "ignored",
    "segments",
    "text",
    "char_offsets",
)
"""Columns of `contexts` that are needed."""

_BITS = 20
"""Bits of a position in a context."""


@dataclass(frozen=True)
class Windows:
    """Parts of contexts to be shown, one entry each.

    Attributes:
        slots: Contexts, by their slots.
        peaks: Positions that they are about: which document is named.
        starts: Positions of the first tokens shown.
        lengths: Tokens shown.
    """

    slots: Int64[np.ndarray, " window"]
    peaks: Int64[np.ndarray, " window"]
    starts: Int64[np.ndarray, " window"]
    lengths: Int64[np.ndarray, " window"]


class Cuts:
    """Contexts cut into tokens; numbers and slots are this object's own."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Hold none.

        Args:
            vocabulary: Says which tokens are special.
        """
        self._vocabulary = vocabulary
        self._ordinary = _Numbers()
        self._odd: dict[tuple[str, int], int] = {}
        self.pieces: list[TokenPiece] = self._ordinary.pieces
        """The different tokens, by their numbers, as if nothing fired there."""
        self._objects = _Growing(np.object_)  # the same: arrays of objects give many at once
        self.forget()

    def forget(self) -> None:
        """Hold no contexts; numbers of tokens stay."""
        self._first = _Growing(np.int64)  # of each slot: where its tokens begin
        self._length = _Growing(np.int64)
        self._tokens = _Growing(np.int32)
        self._sources: list[str] = []
        self._starts = _Growing(np.int64)  # of each segment: its slot and its start in one number
        self._documents = _Growing(np.uint64)
        self._ids: list[str] = []

    @property
    def n_tokens(self) -> int:
        """Tokens of all contexts held."""
        return len(self._tokens.values)

    def add(self, table: pa.Table) -> Int64[np.ndarray, " context"]:
        """Hold some more contexts, given by their lines; return their slots, counted from 0."""
        slots = len(self._sources) + np.arange(table.num_rows)
        lengths = arrow.plain(table["n_positions"]).astype(np.int64)
        ends = np.cumsum(lengths)
        self._first.add(self.n_tokens + ends - lengths)
        self._length.add(lengths)
        self._tokens.add(self._numbered(table, lengths))
        fresh = self.pieces[len(self._objects.values) :]
        self._objects.add(np.array(fresh, np.object_))
        self._sources += map(str, table["source"].to_pylist())
        homes, n_homes = _flat(table["segments"])
        at = np.repeat(slots, n_homes)
        self._starts.add(at << _BITS | arrow.plain(homes.field("start")).astype(np.int64))
        self._documents.add(arrow.plain(homes.field("document")))
        self._ids += map(str, homes.field("document_id").to_pylist())
        return slots

    def numbers(
        self, windows: Windows
    ) -> tuple[Int32[np.ndarray, " position"], Int64[np.ndarray, " _"]]:
        """Return the numbers of the tokens in windows, one after the other, and where each ends, from 0."""
        ends = np.concatenate([[0], np.cumsum(windows.lengths)])
        first = self._first.values[windows.slots] + windows.starts - ends[:-1]
        at = np.repeat(first, windows.lengths) + np.arange(ends[-1])
        found: Int32[np.ndarray, " position"] = self._tokens.values[at]
        return found, ends

    def token(self, slot: int, position: int) -> str:
        """Return the text at a position of a context; empty behind its end."""
        if position >= self._length.values[slot]:
            return ""
        return self.pieces[int(self._tokens.values[self._first.values[slot] + position])].text

    def homes(self, windows: Windows) -> dict[str, Any]:
        """Return tokens and source of the contexts of windows, and the documents at their peaks.

        Between segments, as at a BOS, the document is the one before, or the first.
        """
        slots, keys = windows.slots, self._starts.values
        first = np.searchsorted(keys, slots << _BITS)
        home = np.searchsorted(keys, slots << _BITS | windows.peaks, side="right") - 1
        home = np.maximum(home, first)
        return {
            "n_positions": self._length.values[slots],
            "source": [self._sources[slot] for slot in slots.tolist()],
            "document": self._documents.values[home],
            "document_id": [self._ids[at] for at in home.tolist()],
        }

    def shown(self, windows: Windows) -> Shown:
        """Return what windows show of their contexts."""
        numbers, ends = self.numbers(windows)
        homes = self.homes(windows)
        return Shown(
            tokens=partial(self._objects.values.take, numbers),
            firsts=ends[:-1].tolist(),
            n_positions=homes["n_positions"].tolist(),
            sources=homes["source"],
            documents=homes["document"].tolist(),
            document_ids=homes["document_id"],
        )

    def _numbered(
        self, table: pa.Table, lengths: Int64[np.ndarray, " context"]
    ) -> Int32[np.ndarray, " position"]:
        """Return the numbers of the tokens of some contexts, one after the other."""
        marks = self._marks(table, lengths)
        different, which = _texts(table, lengths)
        known = np.fromiter(map(self._ordinary.__getitem__, different), np.int32, len(different))
        found: Int32[np.ndarray, " position"] = known[which]
        odd = np.flatnonzero(marks != KEPT)
        keys, at = np.unique(which[odd].astype(np.int64) << 2 | marks[odd], return_inverse=True)
        others = [self._marked(different[key >> 2], key & 3) for key in keys.tolist()]
        found[odd] = np.array(others, np.int32)[at]
        return found

    def _marks(
        self, table: pa.Table, lengths: Int64[np.ndarray, " context"]
    ) -> UInt8[np.ndarray, " position"]:
        ignored, n_ignored = _flat(table["ignored"])
        ids = arrow.plain(_flat(table["token_ids"])[0])
        marks = self._vocabulary.specials(ids) * np.uint8(SPECIAL) | np.uint8(KEPT)
        starts = np.cumsum(lengths) - lengths
        marks[np.repeat(starts, n_ignored) + arrow.plain(ignored)] &= SPECIAL
        found: UInt8[np.ndarray, " position"] = marks
        return found

    def _marked(self, text: str, mark: int) -> int:
        number = self._odd.setdefault((text, mark), len(self.pieces))
        if number == len(self.pieces):
            self.pieces.append(silent(text, bool(mark & SPECIAL), bool(mark & KEPT)))
        return number


class _Numbers(dict[str, int]):
    """Numbers of the tokens that are neither special nor ignored, by their text; those asked for are added."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[TokenPiece] = []

    def __missing__(self, text: str) -> int:
        number = self[text] = len(self.pieces)
        self.pieces.append(silent(text, False, True))  # noqa: FBT003 - as keys of a cache
        return number


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


def _flat(lists: Any) -> tuple[Any, Int64[np.ndarray, " _"]]:
    """Return the elements of all lists of a column, and how many each has."""
    column = lists.combine_chunks()
    ends = arrow.plain(column.offsets)
    return column.flatten(), np.diff(ends.astype(np.int64))


def _texts(
    table: pa.Table, lengths: Int64[np.ndarray, " context"]
) -> tuple[list[str], Int32[np.ndarray, " position"]]:
    """Return the different texts of the tokens of some contexts, and which each token has."""
    if not len(lengths):
        return [], np.empty(0, np.int32)
    first, data, starts = arrow.characters(table["text"])
    # offsets count characters of their context, and there is one more of them than tokens
    edges = arrow.plain(_flat(table["char_offsets"])[0]).astype(np.int64)
    edges = edges + np.repeat(first[:-1], lengths + 1)
    edges = edges if starts is None else starts[edges]
    # between two contexts there is an empty piece, which is no token
    between = np.cumsum(lengths + 1) - 1
    pieces = arrow.texts(np.append(edges, edges[-1:]), data).dictionary_encode()
    which: Int32[np.ndarray, " position"] = np.delete(arrow.plain(pieces.indices), between)
    return [*map(str, pieces.dictionary.to_pylist())], which
