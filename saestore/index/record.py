"""The record of one feature: its lines of every table, with the tokens that they name, in few bytes.

A record is one row of an Arrow record batch whose columns are lists: of the feature's lines of each table,
of the different tokens that its examples show, and of the tokens that its lines name. The schema is the
analysis's; a record is the message without it, compressed.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from saestore.features import arrow
from saestore.features.lines import Line
from saestore.features.pieces import Stretch, ordinary, silent
from saestore.features.stored import Stored
from saestore.index.stretches import KEPT, SPECIAL, Stretches, distinct


TEXTS, MARKS, TOKENS = "shown_texts", "shown_marks", "named_tokens"
"""Columns beside the tables: of the different tokens shown their texts and whether they are special (1)
and kept (2), and the tokens that lines name."""

NOT_OF_FEATURES = ("contexts", "documents", "vocabulary")
NOT_ON_PAGES = ("firings_by_feature", "firings_by_context", "head_firings")

_NAMING = ("logits", "token_stats")
"""Tables with a column `token_id`."""

_CODEC = pa.Codec("zstd", compression_level=1)

_NAMED: Any = pa.struct(
    [("token_id", pa.uint32()), ("token", pa.string()), ("n_rows", pa.uint64())]
)
_PLACES: tuple[tuple[str, Any], ...] = (
    ("n_positions", pa.uint16()),
    ("source", pa.string()),
    ("document", pa.uint64()),
    ("document_id", pa.string()),
    ("shown", pa.list_(pa.field("item", pa.uint32(), nullable=False))),
)
"""What is added to a line of `examples`: what the context is, and the numbers of the tokens shown."""


class Records:
    """Makes the records of one analysis."""

    def __init__(self, stored: Stored) -> None:
        self._stored = stored
        self._stretches = Stretches(stored)
        apart = {*NOT_OF_FEATURES, *NOT_ON_PAGES}
        self._tables = sorted(set(stored.readers) - apart)
        vocabulary = stored.readers["vocabulary"].whole(["token_id", "token", "n_rows"])
        self._vocabulary = vocabulary.combine_chunks()
        self._ids = np.from_dlpack(self._vocabulary["token_id"].combine_chunks())

    def lines(self, features: range) -> dict[str, pa.Table]:
        """Return the lines of some features in every table of the record."""
        return {name: self._stored.readers[name].rows("feature", features) for name in self._tables}

    def batch(self, features: range, lines: Mapping[str, pa.Table]) -> pa.RecordBatch:
        """Return one row of each of some features, which follow one another.

        Args:
            features: Which.
            lines: Their lines.
        """
        ends = {name: _ends(table, features) for name, table in lines.items()}
        held, numbers, different = self._held(lines["examples"], ends["examples"])
        whole = {**lines, "examples": held}
        if "attention" in lines:
            whole["attention"] = self._with_texts(lines["attention"], lines["examples"])
        columns: dict[str, pa.Array[Any]] = {
            name: _nested(table, ends[name]) for name, table in whole.items()
        }
        texts, marks = self._stretches.pieces
        columns[TEXTS] = _lists(different, texts.take(numbers))
        columns[MARKS] = _lists(different, marks.take(numbers))
        columns[TOKENS] = self._named(lines, ends)
        return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))

    def _held(
        self, examples: pa.Table, ends: Int64[np.ndarray, " _"]
    ) -> "tuple[pa.Table, pa.Array[Any], Int64[np.ndarray, ' _']]":
        """Return examples with what they show; the numbers of each feature's different tokens, their ends."""
        context, peak, start, length = (
            _integers(examples, name)
            for name in ("context", "peak_position", "window_start", "window_length")
        )
        slots = self._stretches.slots(context)
        numbers, bounds = self._stretches.shown(slots, start, length)
        shown = np.empty(len(numbers), np.uint32)
        places = np.empty(len(self._stretches), np.int64)
        found, sizes = [np.empty(0, np.int64)], [0]
        for low, high in pairwise(bounds[ends].tolist()):
            different, shown[low:high] = distinct(numbers[low:high], places)
            found.append(different)
            sizes.append(len(different))
        more = {**self._stretches.homes(slots, peak), "shown": _lists(bounds, shown)}
        for name, dtype in _PLACES:
            examples = examples.append_column(
                pa.field(name, dtype), arrow.column(more[name], dtype)
            )
        return examples, arrow.column(np.concatenate(found), pa.int64()), np.cumsum(sizes)

    def _with_texts(self, attention: pa.Table, examples: pa.Table) -> pa.Table:
        """Return lines of `attention` with the text of what is read; empty where no example shows it."""
        context, key = (_integers(attention, name) for name in ("context", "key"))
        shown = np.isin(context, _integers(examples, "context"))
        slots = np.full(len(context), -1, np.int64)
        slots[shown] = self._stretches.slots(context[shown])
        texts = [
            self._stretches.token(slot, position) if slot >= 0 else ""
            for slot, position in zip(slots.tolist(), key.tolist(), strict=True)
        ]
        return attention.append_column("text", arrow.column(texts, pa.string()))

    def _named(
        self, lines: Mapping[str, pa.Table], ends: Mapping[str, Int64[np.ndarray, " _"]]
    ) -> "pa.Array[Any]":
        """Return the tokens that the lines of each feature name, ascending."""
        n = lines["features"].num_rows
        top = lines["features"]["top_token_id"].combine_chunks()
        sources = [(top.drop_null(), np.flatnonzero(np.asarray(top.is_valid())))]
        for name in _NAMING:
            if name in lines:
                owner = np.repeat(np.arange(n), np.diff(ends[name]))
                sources.append((lines[name]["token_id"].combine_chunks(), owner))
        keys = [
            owner.astype(np.int64) << 32 | np.from_dlpack(ids).astype(np.int64)
            for ids, owner in sources
        ]
        unique = np.unique(np.concatenate(keys))
        ids = unique & 0xFFFFFFFF
        at = np.searchsorted(self._ids, ids).clip(max=max(0, len(self._ids) - 1))
        known = self._vocabulary.take(at[self._ids[at] == ids] if len(self._ids) else [])
        owners = (unique >> 32)[self._ids[at] == ids] if len(self._ids) else unique[:0]
        fields = [known[field.name].combine_chunks() for field in _NAMED]
        offsets = np.searchsorted(owners, np.arange(n + 1))
        return _lists(offsets, pa.StructArray.from_arrays(fields, fields=list(_NAMED)))


def packed(batch: pa.RecordBatch) -> Iterator[tuple[int, bytes]]:
    """Yield the record of each row: its size before it is compressed, and it."""
    for row in range(batch.num_rows):
        message = batch.slice(row, 1).serialize()
        yield message.size, _CODEC.compress(message, asbytes=True)


def unpacked(
    size: int, record: bytes, schema: pa.Schema, given: Mapping[str, Sequence[Line]]
) -> "Record":
    """Return a record.

    Args:
        size: Its size before it was compressed.
        record: It.
        schema: That of the analysis.
        given: What people and models say of the feature: its lines of `annotations`, `interpretations` and
            `interpretation_scores`.

    Raises:
        OSError: It is damaged.
        ValueError: Likewise.
    """
    return Record({**content(size, record, schema), **given})


def content(size: int, record: bytes, schema: pa.Schema) -> Mapping[str, Any]:
    """Return what a record holds: the lines of each table, and the tokens.

    Raises:
        OSError: It is damaged.
        ValueError: Likewise.
    """
    batch = pa.ipc.read_record_batch(_CODEC.decompress(record, size), schema)
    (row,) = batch.to_pylist()
    return row


class Record:
    """A feature's lines as its page is built from them."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self._row = row
        texts, marks = row[TEXTS], row[MARKS]
        self._pieces = ordinary(texts)
        for at, mark in enumerate(marks):
            if mark != KEPT:
                self._pieces[at] = silent(texts[at], bool(mark & SPECIAL), bool(mark & KEPT))
        self._tokens = {each["token_id"]: each for each in row[TOKENS]}
        self._texts = {
            (each["context"], each["key"]): each["text"] for each in row.get("attention", ())
        }

    def rows(self, table: str) -> Sequence[Line]:
        """Return its lines of a table in stored order; none where the analysis has no such table."""
        found: Sequence[Line] = self._row.get(table, ())
        return found

    def token(self, token_id: int) -> str:
        """Return how a token is shown that one of its lines names."""
        known = self._tokens.get(token_id)
        return f"#{token_id}" if known is None else str(known["token"])

    def n_rows(self, token_id: int) -> int:
        """Return how many kept rows hold a token of its `token_stats`."""
        return int(self._tokens[token_id]["n_rows"] or 0)

    def stretch(self, line: Line) -> Stretch:
        """Return what one of its `examples` shows of its context."""
        return Stretch(
            n_positions=line["n_positions"],
            source=line["source"],
            document=line["document"],
            document_id=line["document_id"],
            tokens=[*map(self._pieces.__getitem__, line["shown"])],
        )

    def piece(self, context: int, position: int) -> str:
        """Return the text at a position that its `attention` reads."""
        return str(self._texts[context, position])


def _integers(table: pa.Table, column: str) -> Int64[np.ndarray, " _"]:
    found: Int64[np.ndarray, " _"] = np.from_dlpack(table[column].combine_chunks()).astype(np.int64)
    return found


def _ends(table: pa.Table, features: range) -> Int64[np.ndarray, " _"]:
    """Return where the lines of each feature start, and the end of all."""
    keys = np.from_dlpack(table["feature"].combine_chunks())
    bounds = np.arange(features.start, features.stop + 1)
    ends: Int64[np.ndarray, " _"] = np.searchsorted(keys, bounds)
    return ends


def _nested(table: pa.Table, ends: Int64[np.ndarray, " _"]) -> "pa.Array[Any]":
    """Return the lines of each feature as one list of structs."""
    fields = [field for field in table.schema if field.name != "feature"]
    columns = [table[field.name].combine_chunks() for field in fields]
    plain = [pa.field(field.name, field.type, field.nullable) for field in fields]
    return _lists(ends, pa.StructArray.from_arrays(columns, fields=plain))


def _lists(ends: Int64[np.ndarray, " _"], values: Any) -> "pa.Array[Any]":
    array: Any = pa.ListArray
    found: pa.Array[Any] = array.from_arrays(
        arrow.column(ends.astype(np.int32), pa.int32()), values
    )
    return found
