"""Columns of tabular sources: text, id and metadata, and the errors when one is missing."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from saestore.errors import ConfigError, nearest


_SURROGATE = re.compile("[\ud800-\udfff]")

_KINDS: tuple[tuple[type, pa.DataType], ...] = (
    (bool, pa.bool_()),
    (int, pa.int64()),
    (float, pa.float64()),
    (str, pa.string()),
)


def require(names: Sequence[str], known: Sequence[str], *, field: str, file: str) -> None:
    """Check that every name is a column.

    Raises:
        ConfigError: One is not; the nearest columns are given.
    """
    for name in names:
        if name not in known:
            close = nearest(name, list(known))
            raise ConfigError(
                file=file,
                field=field,
                found=name,
                expected=f"one of the columns {', '.join(known) or '(there are none)'}",
                hint=f"did you mean {', '.join(close)}?" if close else f"set {field}",
            )


def text_of(value: Any, *, field: str, file: str) -> str:
    """Return a document's text; null is the empty document.

    Raises:
        ConfigError: The value is not text.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ConfigError(
            file=file,
            field=field,
            found=type(value).__name__,
            expected="text",
            hint=f"choose the key or column that holds the document's text with {field}",
        )
    return encodable(value)


def encodable(text: str) -> str:
    """Return text that UTF-8 can say: JSON may hold half a surrogate pair, shown as U+FFFD."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def infer(names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> pa.Schema:
    """Return the metadata columns' types as the rows show them.

    Integers among floats are floats; anything mixed or nested is kept as JSON text.
    """
    seen: dict[str, set[pa.DataType]] = {name: set() for name in names}
    for row in rows:
        for name in names:
            value = row.get(name)
            if value is not None:
                kind = next((arrow for python, arrow in _KINDS if isinstance(value, python)), None)
                seen[name].add(kind or pa.string())
    return pa.schema([pa.field(name, _joined(kinds)) for name, kinds in seen.items()])


def _joined(kinds: set[pa.DataType]) -> pa.DataType:
    if len(kinds) == 1:
        return next(iter(kinds))
    if kinds == {pa.int64(), pa.float64()}:
        return pa.float64()
    return pa.string()


def fitted(name: str, kind: pa.DataType, value: Any, *, where: str, setting: str) -> Any:
    """Return a metadata value in its column's type.

    Raises:
        ConfigError: It does not fit the type that the first rows showed.
    """
    if value is None:
        return None
    if pa.types.is_string(kind):
        said = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return encodable(said)
    if pa.types.is_floating(kind) and type(value) in {int, float}:
        return float(value)
    if (pa.types.is_boolean(kind), pa.types.is_integer(kind)) == (
        isinstance(value, bool),
        type(value) is int,
    ):
        return value
    raise ConfigError(
        file=where,
        field=setting,
        found=f"{name} = {value!r}",
        expected=f"{kind}, as in the lines before",
        hint=f"make {name!r} one type throughout, or leave it out of {setting}",
    )
