"""Arrow tables from numpy columns, by schema, and back into arrays."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int64, Shaped, UInt8


def column(values: Any, dtype: pa.DataType, *, null: np.ndarray | None = None) -> "pa.Array[Any]":
    """Return an Arrow array.

    Args:
        values: A numpy array, a list, or an Arrow array of that or a safely castable type.
        dtype: Its type.
        null: Where it is null.
    """
    if isinstance(values, pa.Array):
        return values if values.type == dtype else values.cast(dtype)
    array: pa.Array[Any] = pa.array(values, type=dtype, mask=null)
    return array


def rows(schema: pa.Schema, columns: Mapping[str, Any]) -> pa.Table:
    """Return a table with the schema's columns, in its order.

    Args:
        schema: Names and types.
        columns: Each column's values; others are left out.
    """
    return pa.table([column(columns[field.name], field.type) for field in schema], schema=schema)


def lists(schema: pa.Schema, name: str, ends: np.ndarray, values: Any) -> "pa.Array[Any]":
    """Return a list column from its flat values.

    Args:
        schema: Schema that holds the column.
        name: Which column.
        ends: One more than there are lists: where each starts, and the end.
        values: The elements of all lists.
    """
    dtype: Any = schema.field(name).type
    offsets = column(ends.astype(np.int32), pa.int32())
    array: Any = pa.ListArray
    found: pa.Array[Any] = array.from_arrays(offsets, column(values, dtype.value_type), type=dtype)
    return found


def repeated(text: str, n: int) -> "pa.Array[Any]":
    """Return a column that says the same n times."""
    return column([text], pa.string()).take(np.zeros(n, np.int64))


def plain(column: Any) -> Shaped[np.ndarray, " _"]:
    """Return a column of numbers without nulls; pyarrow's own `to_numpy` would import pandas."""
    return np.from_dlpack(_whole(column))


@dataclass(frozen=True)
class Ragged:
    """Lists of numbers.

    Attributes:
        ends: Where each list begins, and the end of the last.
        values: The elements of all lists.
    """

    ends: Int64[np.ndarray, " _"]
    values: Shaped[np.ndarray, " _"]

    @classmethod
    def of(cls, lists: Sequence[Sequence[Any]]) -> "Ragged":
        """Return some lists of numbers."""
        ends = np.cumsum([0, *map(len, lists)], dtype=np.int64)
        return cls(ends, np.array(list(chain.from_iterable(lists))))


def columns(names: Iterable[str], arrays: Iterable[Any]) -> dict[str, Any]:
    """Return columns as what is quick to work with.

    Args:
        names: Their names.
        arrays: They: Arrow arrays, chunked or not.

    Returns:
        By name, of numbers an array, of lists of numbers `Ragged`, of all else, and where anything is null, a list.
    """
    return dict(zip(names, map(_quick, arrays), strict=True))


def _quick(column: Any) -> Any:
    array = _whole(column)
    kind = array.type
    if not array.null_count:
        if _numeric(kind):
            return np.from_dlpack(array)
        if pa.types.is_list(kind) and _numeric(kind.value_type) and not array.values.null_count:
            ends = np.from_dlpack(array.offsets).astype(np.int64)
            values = np.from_dlpack(array.values)[ends[0] : ends[-1]]
            return Ragged(ends - ends[0], values)
    return array.to_pylist()


def _numeric(kind: Any) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def characters(
    texts: Any,
) -> tuple[Int64[np.ndarray, " _"], UInt8[np.ndarray, " _"], Int64[np.ndarray, " _"] | None]:
    """Return where texts begin and the last one ends, counted in characters, and what they are made of.

    Args:
        texts: A column of them, without nulls.

    Returns:
        The bounds; the bytes of all texts; the first byte of each character, and the end: None where every
        character is one byte.
    """
    array = _whole(texts)
    _, ends, held = array.buffers()
    bounds = np.frombuffer(ends, np.int32)[array.offset : array.offset + len(array) + 1]
    data = np.frombuffer(held or b"", np.uint8)[bounds[0] : bounds[-1]]
    edges = (bounds - bounds[0]).astype(np.int64)
    if not len(data) or data.max() < _CONTINUES:
        return edges, data, None
    starts = np.append(np.flatnonzero((data & 0xC0) != _CONTINUES), len(data))
    return np.searchsorted(starts, edges), data, starts


_CONTINUES = 0x80
"""The two upper bits of a byte of UTF-8 that goes on with a character; smaller bytes are one each."""


def texts(edges: Int64[np.ndarray, " _"], data: UInt8[np.ndarray, " _"]) -> "pa.Array[Any]":
    """Return the texts between bytes that follow one another."""
    array: Any = pa.StringArray
    held: tuple[Any, Any] = edges.astype(np.int32), data
    found: pa.Array[Any] = array.from_buffers(len(edges) - 1, *map(pa.py_buffer, held))
    return found


def _whole(column: Any) -> Any:
    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
