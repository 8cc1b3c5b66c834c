"""An answer to SQL as far as a browser can take it: so many rows, so many bytes."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from saestore.errors import QueryError
from saestore.features import Limits, stream, stream_named
from saestore.lake import Lake
from saestore.plain import plain
from saestore_schemas.server import ServerSettings
from saestore_schemas.wire import AnswerColumn, TableAnswer


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        text: SQL, or the name of a question that is ready.
        params: Values of its parameters.
        rows: Rows wanted, at most; None, as many as are given.
        analysis: The analysis that a ready question is about; None, the only one there is.
        ready: Whether it is a ready one.
    """

    text: str
    params: Mapping[str, Any]
    rows: int | None = None
    analysis: str | None = None
    ready: bool = False


@dataclass(frozen=True)
class Bounds:
    """What a question may take.

    Attributes:
        limits: Of the machine.
        rows: Rows of its answer, at most.
        bytes: Bytes of it, about, at most.
    """

    limits: Limits
    rows: int
    bytes: int

    @classmethod
    def of(cls, settings: ServerSettings) -> "Bounds":
        """Return those that settings say."""
        limits = Limits(
            memory_mib=settings.sql_memory_mib,
            spill_mib=settings.sql_memory_mib,
            threads=settings.sql_threads,
            seconds=settings.sql_seconds,
        )
        return cls(limits, settings.sql_rows, settings.sql_answer_mib << 20)


def answered(lake: Lake, bounds: Bounds, question: Question) -> TableAnswer:
    """Return the answer to a question, no larger than it may be.

    Raises:
        QueryError: It was refused, or its time is up.
    """
    began = time.perf_counter()
    most = min(question.rows or bounds.rows, bounds.rows)

    def take(schema: pa.Schema, pieces: Iterator[pa.RecordBatch]) -> TableAnswer:
        rows, truncated = _rows(pieces, most, bounds.bytes)
        return TableAnswer(
            columns=[AnswerColumn(name=f.name, type=str(f.type)) for f in schema],
            rows=rows,
            truncated=truncated,
            seconds=time.perf_counter() - began,
        )

    if not question.ready:
        return stream(lake, question.text, take, question.params, limits=bounds.limits)
    return stream_named(
        lake,
        question.text,
        take,
        question.params,
        analysis=question.analysis,
        limits=bounds.limits,
    )


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
