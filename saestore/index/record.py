"""The record of one feature: its lines of every table, with the tokens that they name, in few bytes.

A record is one row of an Arrow record batch whose columns are lists: of the feature's lines of each table,
and of the tokens that its examples show. A token shown is its row of the vocabulary, where it looks as the
vocabulary says: nearly always. Others, such as those that are left out or that complete a character, are
numbered behind these, and the record has them itself. The schema and the vocabulary are the analysis's; a
record is the message without them, compressed.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int32, Int64, Integer, Shaped

from saestore.features import arrow
from saestore.features.cuts import KEPT, SPECIAL, Windows
from saestore.features.lines import Line, of_subsamples
from saestore.features.page import TokenPiece
from saestore.features.pieces import Columns, Shown, Vocabulary, silent
from saestore.features.stored import Stored
from saestore.features.stretches import Stretches


SHOWN, TEXTS, MARKS = "shown", "odd_texts", "odd_marks"
"""Columns beside the tables: the numbers of all tokens shown; of those that the vocabulary lacks the texts and
whether they are special (1) and kept (2)."""

NOT_OF_FEATURES = ("contexts", "documents", "vocabulary")
NOT_ON_PAGES = ("firings_by_feature", "firings_by_context", "head_firings")

_ROOM = 1 << 27
"""Tokens of contexts that are kept while records are made: 512 MiB, a million contexts of 128."""

_CODEC = pa.Codec("zstd", compression_level=1)

_PLACES: tuple[tuple[str, Any], ...] = (
    ("n_positions", pa.uint16()),
    ("source", pa.string()),
    ("document", pa.uint64()),
    ("document_id", pa.string()),
    ("first", pa.uint32()),
)
"""What is added to a line of `examples`: what the context is, and which token shown is its first."""


class Records:
    """Makes the records of one analysis."""

    def __init__(self, stored: Stored) -> None:
        self._stored = stored
        self._stretches = Stretches(
            stored.readers["contexts"], stored.vocabulary, room=_ROOM, near=True
        )
        apart = {*NOT_OF_FEATURES, *NOT_ON_PAGES}
        self._tables = sorted(set(stored.readers) - apart)
        known = stored.vocabulary
        self._n_tokens = len(known.ids)
        looks = zip(known.tokens, known.special.tolist(), strict=True)
        self._looks: dict[tuple[str, bool], int] = {}
        for row, look in enumerate(looks):
            self._looks.setdefault(look, row)
        self._rows = np.empty(0, np.int64)  # of each token in `cuts`, -1 where none looks so

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
        examples, lengths = lines["examples"], _integers(lines["examples"], "window_length")
        bounds = np.concatenate([[0], np.cumsum(lengths)])
        windows = self._windows(examples, lengths)
        whole = {**lines, "examples": self._placed(examples, windows, bounds, ends["examples"])}
        if "attention" in lines:
            whole["attention"] = self._with_texts(lines["attention"], examples)
        columns: dict[str, pa.Array[Any]] = {
            name: _nested(table, ends[name]) for name, table in whole.items()
        }
        columns |= self._shown(windows, bounds[ends["examples"]])
        return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))

    def _windows(self, examples: pa.Table, lengths: Int64[np.ndarray, " _"]) -> Windows:
        context, peak, start = (
            _integers(examples, name) for name in ("context", "peak_position", "window_start")
        )
        return Windows(self._stretches.slots(context), peak, start, lengths)

    def _placed(
        self,
        examples: pa.Table,
        windows: Windows,
        bounds: Int64[np.ndarray, " _"],
        ends: Int64[np.ndarray, " _"],
    ) -> pa.Table:
        """Return examples with what their contexts are, and where their tokens begin among those of a feature."""
        of_feature = np.repeat(bounds[ends[:-1]], np.diff(ends))
        more = {**self._stretches.cuts.homes(windows), "first": bounds[:-1] - of_feature}
        for name, dtype in _PLACES:
            examples = examples.append_column(
                pa.field(name, dtype), arrow.column(more[name], dtype)
            )
        return examples

    def _shown(self, windows: Windows, ends: Int64[np.ndarray, " _"]) -> "dict[str, pa.Array[Any]]":
        """Return the columns of the tokens shown."""
        numbers, _ = self._stretches.cuts.numbers(windows)
        pieces = self._stretches.cuts.pieces
        shown = self._known(pieces)[numbers]
        odd: list[TokenPiece] = []
        sizes = [0]
        places = np.empty(len(pieces), np.int64)
        behind = self._n_tokens
        for low, high in pairwise(ends.tolist()):
            here = low + np.flatnonzero(shown[low:high] < 0)
            different, which = distinct(numbers[here], places)
            shown[here] = behind + which
            odd += [pieces[number] for number in different.tolist()]
            sizes.append(len(odd))
        bounds = np.array(sizes)
        texts = [piece.text for piece in odd]
        marks = [SPECIAL * piece.special | KEPT * piece.kept for piece in odd]
        return {
            SHOWN: _lists(ends, arrow.column(shown, pa.uint32())),
            TEXTS: _lists(bounds, arrow.column(texts, pa.string())),
            MARKS: _lists(bounds, arrow.column(marks, pa.uint8())),
        }

    def _known(self, pieces: Sequence[TokenPiece]) -> Int64[np.ndarray, " _"]:
        """Return the row of the vocabulary of each token; -1 where none looks so."""
        more = [
            self._looks.get((piece.text, piece.special), -1) if piece.kept else -1
            for piece in pieces[len(self._rows) :]
        ]
        self._rows = np.concatenate([self._rows, np.array(more, np.int64)])
        return self._rows

    def _with_texts(self, attention: pa.Table, examples: pa.Table) -> pa.Table:
        """Return lines of `attention` with the text of what is read; empty where no example shows it."""
        context, key = (_integers(attention, name) for name in ("context", "key"))
        shown = np.isin(context, _integers(examples, "context"))
        slots = np.full(len(context), -1, np.int64)
        slots[shown] = self._stretches.slots(context[shown])
        texts = [
            self._stretches.cuts.token(slot, position) if slot >= 0 else ""
            for slot, position in zip(slots.tolist(), key.tolist(), strict=True)
        ]
        return attention.append_column("text", arrow.column(texts, pa.string()))


def packed(batch: pa.RecordBatch) -> Iterator[tuple[int, bytes]]:
    """Yield the record of each row: its size before it is compressed, and it."""
    for row in range(batch.num_rows):
        message = batch.slice(row, 1).serialize()
        yield message.size, _CODEC.compress(message, asbytes=True)


def packed_vocabulary(known: Vocabulary) -> tuple[int, bytes]:
    """Return the tokens of an analysis: their size before they are compressed, and they."""
    columns = (known.ids, known.tokens, known.special, known.rows)
    arrays = [
        arrow.column(column, dtype) for column, dtype in zip(columns, _LOOKS.types, strict=True)
    ]
    message = pa.RecordBatch.from_arrays(arrays, schema=_LOOKS).serialize()
    return message.size, _CODEC.compress(message, asbytes=True)


def unpacked_vocabulary(size: int, packed: bytes) -> pa.Table:
    """Return the table of what `packed_vocabulary` made.

    Raises:
        OSError: It is damaged.
        ValueError: Likewise.
    """
    batch = pa.ipc.read_record_batch(_CODEC.decompress(packed, size), _LOOKS)
    return pa.Table.from_batches([batch])


_TYPES: tuple[Any, ...] = (pa.uint32(), pa.string(), pa.bool_(), pa.uint64())
_LOOKS = pa.schema(list(zip(Vocabulary.COLUMNS, _TYPES, strict=True)))


class Looks:
    """How the tokens of a vocabulary look where nothing fires, by their rows, each made when first asked for.

    Threads may share it.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.n = len(vocabulary.ids)
        self._pieces = np.empty(self.n + 1, np.object_)
        self._made = np.zeros(self.n + 1, np.bool_)  # after the piece, as threads share it
        self._pieces[self.n] = silent("", False, True)  # noqa: FBT003 - as keys of a cache
        self._made[self.n] = True

    def of(self, rows: Integer[np.ndarray, " position"]) -> Shaped[np.ndarray, " position"]:
        """Return tokens; behind the last there is an empty one."""
        rows = np.minimum(rows, self.n)
        missing = rows[~self._made[rows]]
        known = self.vocabulary
        for row in np.unique(missing).tolist() if len(missing) else ():
            self._pieces[row] = TokenPiece(
                text=known.tokens[row], value=0.0, special=bool(known.special[row]), kept=True
            )
            self._made[row] = True
        return self._pieces.take(rows)


class Form:
    """How the records of an analysis are laid out.

    Attributes:
        schema: Their schema.
        columns: The columns of each table: asking Arrow takes longer than reading some of them.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        kinds: Mapping[str, Any] = {field.name: field.type.value_type for field in schema}
        self.columns = {
            name: tuple(field.name for field in kind)
            for name, kind in kinds.items()
            if pa.types.is_struct(kind)
        }


def unpacked(
    size: int, record: bytes, form: Form, looks: Looks, given: Mapping[str, Sequence[Line]]
) -> "Record":
    """Return a record.

    Args:
        size: Its size before it was compressed.
        record: It.
        form: How those of the analysis are laid out.
        looks: The analysis's tokens.
        given: What people and models say of the feature: its lines of `annotations`, `interpretations` and
            `interpretation_scores`.

    Raises:
        OSError: It is damaged.
        ValueError: Likewise.
    """
    return Record(content(size, record, form.schema), form, looks, given)


def content(size: int, record: bytes, schema: pa.Schema) -> pa.RecordBatch:
    """Return what a record holds: one row, of the lines of each table, and of the tokens.

    Raises:
        OSError: It is damaged.
        ValueError: Likewise.
    """
    return pa.ipc.read_record_batch(_CODEC.decompress(record, size), schema)


class Record:
    """A feature's lines as its page is built from them.

    Reading any of them raises what `unpacked` raises where the record is damaged.
    """

    def __init__(
        self, batch: pa.RecordBatch, form: Form, looks: Looks, given: Mapping[str, Sequence[Line]]
    ) -> None:
        self.vocabulary = looks.vocabulary
        self._batch = batch
        self._form = form
        self._given = given
        self._looks = looks

    def rows(self, table: str) -> Sequence[Line]:
        """Return its lines of a table in stored order; none where the analysis has no such table."""
        if table in self._given or table not in self._form.columns:
            return self._given.get(table, ())
        found: Sequence[Line] = self._lines(table).to_pylist()
        return found

    def columns(self, table: str) -> Columns:
        """Return the same by columns; none where the analysis has no such table."""
        return self._columns(table, self._lines(table)) if table in self._form.columns else {}

    def examples(self, subsamples: Collection[str] | None) -> Columns:
        """Return the columns of its `examples` that belong to some subsamples; absent, to any."""
        return self._columns("examples", of_subsamples(self._lines("examples"), subsamples))

    def shown(self, examples: Columns) -> Shown:
        """Return what some of its `examples` show of their contexts."""
        first, n_positions, document = (
            examples[name].tolist() for name in ("first", "n_positions", "document")
        )
        source, document_id = examples["source"], examples["document_id"]
        numbers, others = arrow.plain(self._lines(SHOWN)), self._others()
        if len(numbers) and int(numbers.max()) >= self._looks.n + len(others):
            raise ValueError("it shows tokens that it does not have")
        tokens = partial(self._tokens, numbers, others)
        return Shown(tokens, first, n_positions, source, document, document_id)

    def _columns(self, table: str, lines: Any) -> Columns:
        names = self._form.columns[table]
        return arrow.columns(names, map(lines.field, range(len(names))))

    def piece(self, context: int, position: int) -> str:
        """Return the text at a position that its `attention` reads."""
        return str(self._texts[context, position])

    @cached_property
    def _texts(self) -> Mapping[tuple[int, int], str]:
        return {(line["context"], line["key"]): line["text"] for line in self.rows("attention")}

    def _lines(self, name: str) -> Any:
        """Return the elements of the one list of a column: what lies behind it is that list's."""
        column: Any = self._batch[name]
        return column.values

    def _others(self) -> list[TokenPiece]:
        """Return the tokens that it shows and the vocabulary has not."""
        texts, marks = (self._lines(name).to_pylist() for name in (TEXTS, MARKS))
        return [
            silent(text, bool(mark & SPECIAL), bool(mark & KEPT))
            for text, mark in zip(texts, marks, strict=True)
        ]

    def _tokens(
        self, numbers: Integer[np.ndarray, " position"], others: Sequence[TokenPiece]
    ) -> Shaped[np.ndarray, " position"]:
        """Return the tokens that it shows, as if nothing fired there."""
        found, n = self._looks.of(numbers), self._looks.n
        odd = np.flatnonzero(numbers >= n)
        for at, which in zip(odd.tolist(), (numbers[odd] - n).tolist(), strict=True):
            found[at] = others[which]
        return found


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
