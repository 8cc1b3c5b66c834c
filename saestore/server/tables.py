"""An answer to SQL as far as a browser can take it: so many rows, so many bytes."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from saestore.errors import QueryError
from saestore.features import Limits, Take
from saestore.plain import plain
from saestore_schemas.server import ServerSettings
from saestore_schemas.wire import AnswerColumn, TableAnswer


def limits(settings: ServerSettings) -> Limits:
    """Return what one question may take."""
    return Limits(
        memory_mib=settings.sql_memory_mib,
        spill_mib=settings.sql_memory_mib,
        threads=settings.sql_threads,
        seconds=settings.sql_seconds,
    )


def answered(
    settings: ServerSettings, wanted: int | None, ask: Callable[[Take[TableAnswer]], TableAnswer]
) -> TableAnswer:
    """Return an answer, no larger than the settings say.

    Args:
        settings: How large.
        wanted: Rows wanted, at most; None, as many as are given.
        ask: Asks, and lets the answer be taken while it is found.

    Raises:
        QueryError: It was refused, or its time is up.
    """
    began = time.perf_counter()
    most = min(wanted or settings.sql_rows, settings.sql_rows)

    def take(schema: pa.Schema, pieces: Iterator[pa.RecordBatch]) -> TableAnswer:
        rows, truncated = _rows(pieces, most, settings.sql_answer_mib << 20)
        return TableAnswer(
            columns=[AnswerColumn(name=f.name, type=str(f.type)) for f in schema],
            rows=rows,
            truncated=truncated,
            seconds=time.perf_counter() - began,
        )

    return ask(take)


def _cells(column: "pa.Array[Any]", name: str) -> list[Any]:
    """Return a column as JSON can say it.

    Raises:
        QueryError: It holds times that no calendar of Python's has.
    """
    try:
        return list(plain(column.to_pylist()))
    except (OverflowError, ValueError) as error:
        raise QueryError(
            f"{name} holds what cannot be shown: {error}",
            found=str(column.type),
            expected="times from year 1 to 9999",
            hint=f"ask for it as text: {name}::VARCHAR",
        ) from error


def _rows(
    pieces: Iterator[pa.RecordBatch], most: int, room: int
) -> tuple[list[tuple[Any, ...]], bool]:
    """Return the first rows, and whether there are more."""
    rows: list[tuple[Any, ...]] = []
    for piece in pieces:
        fits = min(piece.num_rows, most - len(rows))
        # a row of the piece is about as large as any other of it
        size = piece.nbytes / max(1, piece.num_rows)
        fits = min(fits, int(room / size) if size else fits)
        columns = [
            _cells(column, name)
            for column, name in zip(piece.slice(0, fits).columns, piece.schema.names, strict=True)
        ]
        rows += zip(*columns, strict=True) if columns else ()
        room -= int(size * fits)
        if fits < piece.num_rows:
            return rows, True
    return rows, False
