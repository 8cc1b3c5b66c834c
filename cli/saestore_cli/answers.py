"""A question's parts, and its answer as CSV, JSON, JSON lines or Parquet."""

import datetime as dt
import decimal
import io
import json
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from saestore.errors import ConfigError, StorageError
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
        shown = table.slice(0, self.limit) if self.limit else table
        if self.form is TableFormat.TABLE and self.out is None:
            self.output.table(shown, total=table.num_rows)
            return
        write(shown, self.form, self.out)
        if self.out is not None:
            self.output.wrote(self.out, rows=shown.num_rows)


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
    if out is None:
        sys.stdout.write(_text(table, form))
        return
    try:
        if form is TableFormat.PARQUET:
            pyarrow.parquet.write_table(table, out, compression="zstd")
        else:
            out.write_text(_text(table, form), encoding="utf-8")
    except OSError as error:
        message = f"cannot write {out}: {error.strerror or error}"
        raise StorageError(message, hint="name a file in a folder that exists") from error


def into(table: pa.Table, out: Path) -> None:
    """Write a table to a file of the format that its name says, CSV if it says none.

    Raises:
        StorageError: The file cannot be written.
    """
    write(table, SUFFIXES.get(out.suffix.lower(), TableFormat.CSV), out)


def _text(table: pa.Table, form: TableFormat) -> str:
    if form in {TableFormat.JSON, TableFormat.JSONL}:
        rows = [json.dumps(plain(row), ensure_ascii=False) for row in table.to_pylist()]
        if form is TableFormat.JSONL:
            return "".join(f"{row}\n" for row in rows)
        joined = ",\n".join(rows)
        return f"[{joined}]\n"
    if form is TableFormat.CSV:
        sink = io.BytesIO()
        pyarrow.csv.write_csv(_flat(table), sink)
        return sink.getvalue().decode()
    from saestore_cli.console import table_text

    return table_text(table)


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


def plain(value: Any) -> Any:
    """Return a value as JSON can say it: undefined numbers null, bytes as hexadecimal."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (dt.date, dt.time, dt.timedelta, decimal.Decimal, Path)):
        return str(value)
    return value
