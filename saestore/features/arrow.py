"""Arrow tables from numpy columns, by schema."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa


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
