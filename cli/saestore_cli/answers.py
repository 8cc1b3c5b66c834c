"""A question's parts, and its answer as CSV, JSON, JSON lines or Parquet."""

import io
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from saestore.errors import ConfigError, StorageError
from saestore.plain import plain
from saestore_cli.options import TableFormat, seconds


if TYPE_CHECKING:
    from saestore.features import Limits
    from saestore_cli.output import Output


SUFFIXES = {
    ".csv": TableFormat.CSV,
    ".json": TableFormat.JSON,
    ".jsonl": TableFormat.JSONL,
    ".ndjson": TableFormat.JSONL,
    ".parquet": TableFormat.PARQUET,
    ".txt": TableFormat.TABLE,
}
"""What a file's name says about its format."""


@dataclass(frozen=True)
class Question:
    """A question: SQL, or the name of one that is ready."""

    text: str
    named: bool
    params: dict[str, str]


def question(text: str | None, params: list[str], analysis: str | None) -> Question:
    """Return the question a command line asks: one word is a name, anything else is SQL.

    Raises:
        ConfigError: There is none, a parameter is malformed, or `--in` stands beside SQL.
    """
    if not text or not text.strip():
        raise ConfigError(
            field="query",
            expected="SQL, or the name of a query that is ready",
            hint="`saestore query --list` lists them; SQL stands in quotes",
            problem="there is no question",
        )
    named = re.fullmatch(r"[A-Za-z_][\w-]*", text.strip()) is not None
    if analysis is not None and not named:
        raise ConfigError(
            field="--in",
            found=analysis,
            expected="a named query beside it",
            hint="in SQL say WHERE series = '...' AND dictionary = '...'",
        )
    return Question(text.strip(), named, dict(_parameter(each) for each in params))


_SIZE = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>[MG]i?B?)", re.IGNORECASE)
_GIB = 1024


def limits(memory: str | None, threads: int | None, time_limit: str | None) -> "Limits":
    """Return what a question may take.

    Raises:
        ConfigError: The memory is no size, or the time no duration.
    """
    from saestore.api.config import machine_settings
    from saestore.features import Limits

    return Limits(
        memory_mib=None if memory is None else _mib(memory),
        threads=threads or machine_settings().threads,
        seconds=None if time_limit is None else seconds(time_limit),
    )


def _mib(size: str) -> int:
    match = _SIZE.fullmatch(size.strip())
    found = 0.0
    if match is not None:
        unit = _GIB if match["unit"].upper().startswith("G") else 1
        found = float(match["number"]) * unit
    if found < 1:
        raise ConfigError(
            field="--memory",
            found=size,
            expected="a number with MiB or GiB behind it, 1 MiB or more",
            hint="for example 512MiB or 4GiB",
        )
    return int(found)


def _parameter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigError(
            field="--param",
            found=text,
            expected="NAME=VALUE",
            hint="for example: --param feature=17",
        )
    return name, value


def format_of(form: TableFormat | None, out: Path | None, *, json: bool) -> TableFormat:
    """Return how to write an answer.

    Raises:
        ConfigError: Parquet was asked for without a file.
    """
    if form is None and out is not None:
        form = SUFFIXES.get(out.suffix.lower(), TableFormat.CSV)
    if form is None:
        form = TableFormat.JSON if json else TableFormat.TABLE
    if form is TableFormat.PARQUET and out is None:
        raise ConfigError(
            field="--format",
            found="parquet",
            expected="a file to write to",
            hint="add --out FILE.parquet",
        )
    return form


@dataclass(frozen=True)
class Taken:
    """What was taken of an answer.

    Attributes:
        rows: Its rows: of what goes to a file those written, else all.
        shown: Those that are shown; None where they are in the file.
    """

    rows: int
    shown: pa.Table | None


@dataclass(frozen=True)
class Shown:
    """How answers are shown.

    Attributes:
        output: Where, unless in a file.
        form: Their form.
        out: The file, or None.
        limit: At most so many rows; 0 or None, all.
    """

    output: "Output"
    form: TableFormat
    out: Path | None
    limit: int | None

    def show(self, table: pa.Table) -> None:
        """Show one answer.

        Raises:
            StorageError: The file cannot be written.
        """
        self.tell(self.take(table.schema, iter(table.to_batches())))

    def take(self, schema: pa.Schema, pieces: Iterator[pa.RecordBatch]) -> Taken:
        """Write an answer to the file as it comes, or keep what will be shown of it.

        Raises:
            StorageError: The file cannot be written.
        """
        if self.out is not None and self.form is not TableFormat.TABLE:
            return Taken(poured(schema, _first(pieces, self.limit), self.form, self.out), None)
        kept: list[pa.RecordBatch] = []
        rows = 0
        for piece in pieces:
            if not self.limit or rows < self.limit:
                kept.append(piece)
            rows += piece.num_rows
        shown = pa.Table.from_batches(kept, schema)
        return Taken(rows, shown.slice(0, self.limit) if self.limit else shown)

    def tell(self, taken: Taken) -> None:
        """Show what was taken, or say where it is.

        Raises:
            StorageError: The file cannot be written.
        """
        rows = taken.rows
        if taken.shown is not None:
            if self.form is TableFormat.TABLE and self.out is None:
                self.output.table(taken.shown, total=rows)
                return
            write(taken.shown, self.form, self.out)
            rows = taken.shown.num_rows
        if self.out is not None:
            self.output.wrote(self.out, rows=rows)


def alone(option: str, **others: Any) -> None:
    """Refuse what makes no sense beside an option.

    Raises:
        ConfigError: One of the others was given.
    """
    for name, given in others.items():
        if given:
            raise ConfigError(
                field=name if name == "question" else f"--{name}",
                found=given,
                expected=f"nothing of it beside {option}",
                hint=f"leave it out, or leave out {option}",
            )


def write(table: pa.Table, form: TableFormat, out: Path | None) -> None:
    """Write a table to a file, or to stdout.

    Raises:
        StorageError: The file cannot be written.
    """
    pieces = iter(table.to_batches())
    if out is not None:
        poured(table.schema, pieces, form, out)
        return
    for text in _texts(table.schema, pieces, form):
        sys.stdout.write(text)


def poured(
    schema: pa.Schema, pieces: Iterator[pa.RecordBatch], form: TableFormat, out: Path
) -> int:
    """Write an answer to a file as it comes; return its rows.

    What stood there is replaced when all is written: a question that fails leaves it.

    Raises:
        StorageError: The file cannot be written.
    """
    rows = 0

    def counted() -> Iterator[pa.RecordBatch]:
        nonlocal rows
        for piece in pieces:
            rows += piece.num_rows
            yield piece

    try:
        with _replacing(out) as path:
            if form is TableFormat.PARQUET:
                with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd") as file:
                    for table in _row_groups(schema, counted()):
                        file.write_table(table, row_group_size=_GROUP)
            else:
                with path.open("w", encoding="utf-8") as text:
                    text.writelines(_texts(schema, counted(), form))
    except OSError as error:
        message = f"cannot write {out}: {error.strerror or error}"
        raise StorageError(message, hint="name a file in a folder that exists") from error
    return rows


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """Return where to write what replaces a file in the end; a pipe or a device is written to itself."""
    if out.exists() and not out.is_file():
        yield out
        return
    whole = out.resolve()
    partial = whole.with_name(f".{whole.name}.{os.getpid()}.part")
    try:
        yield partial
        partial.replace(whole)
    finally:
        partial.unlink(missing_ok=True)


_GROUP = 1 << 20
"""Rows of a row group of Parquet."""
_HELD = 256 << 20
"""Bytes after which one ends before it is full: rows may hold long texts."""


def _row_groups(schema: pa.Schema, pieces: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    held: list[pa.RecordBatch] = []
    rows = size = 0
    for piece in pieces:
        held.append(piece)
        rows, size = rows + piece.num_rows, size + piece.nbytes
        if rows >= _GROUP or size >= _HELD:
            yield pa.Table.from_batches(held, schema)
            held, rows, size = [], 0, 0
    if held:
        yield pa.Table.from_batches(held, schema)


def _first(pieces: Iterator[pa.RecordBatch], limit: int | None) -> Iterator[pa.RecordBatch]:
    """Return the first rows, all without a limit; no more is asked for."""
    left = limit or None
    for piece in pieces:
        yield piece if left is None else piece.slice(0, left)
        if left is not None:
            left -= piece.num_rows
            if left <= 0:
                return


def into(table: pa.Table, out: Path) -> None:
    """Write a table to a file of the format that its name says, CSV if it says none.

    Raises:
        StorageError: The file cannot be written.
    """
    write(table, SUFFIXES.get(out.suffix.lower(), TableFormat.CSV), out)


def _texts(schema: pa.Schema, pieces: Iterator[pa.RecordBatch], form: TableFormat) -> Iterator[str]:
    """Return an answer as text, piece by piece; a table is one piece."""
    if form is TableFormat.TABLE:
        from saestore_cli.console import table_text

        yield table_text(pa.Table.from_batches(list(pieces), schema))
    elif form is TableFormat.CSV:
        yield _csv(schema.empty_table(), header=True)
        for piece in pieces:
            yield _csv(pa.Table.from_batches([piece]), header=False)
    else:
        # one object a line; of JSON with what makes a list of them
        start, between, end = ("[", ",\n", "]\n") if form is TableFormat.JSON else ("", "\n", "")
        yield start
        first = True
        for piece in pieces:
            for row in piece.to_pylist():
                yield ("" if first else between) + json.dumps(plain(row), ensure_ascii=False)
                first = False
        yield end if form is TableFormat.JSON or first else "\n"


def _csv(table: pa.Table, *, header: bool) -> str:
    sink = io.BytesIO()
    pyarrow.csv.write_csv(_flat(table), sink, pyarrow.csv.WriteOptions(include_header=header))
    return sink.getvalue().decode()


def _flat(table: pa.Table) -> pa.Table:
    """Return a table whose nested and binary columns are JSON text, for CSV."""
    columns = []
    for name in table.column_names:
        column = table.column(name)
        if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
            values = [None if v is None else json.dumps(plain(v)) for v in column.to_pylist()]
            column = pa.chunked_array([pa.array(values, pa.string())])
        columns.append(column)
    return pa.table(columns, names=table.column_names)
