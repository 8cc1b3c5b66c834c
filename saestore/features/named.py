"""Named queries: SQL files with a header that says what they answer and which parameters they take.

    -- Which contexts excite a feature most, and where.
    -- feature int: which feature
    -- n int = 20: how many contexts

Types are `int`, `float`, `str`, and `ints` and `strs` for lists of them. Without a default a parameter
must be given; `''` and `[]` are empty ones.

A query runs inside one analysis: its views hold nothing else, so it needs no keys in its joins.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, TypeVar

import pyarrow as pa

from saestore.errors import QueryError, nearest
from saestore.features.connect import Take, answer, over, pour
from saestore.features.explain import Explained, explain
from saestore.features.find import chosen
from saestore.features.limits import Limits
from saestore.lake import Lake


T = TypeVar("T")

Value = int | float | str | tuple[int, ...] | tuple[str, ...]
"""A parameter's value."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a named query.

    Attributes:
        name: As in `--param name=value` and `$name`.
        type: `int`, `float`, `str`, `ints` or `strs`.
        default: Its default, or None when it must be given.
        doc: What it means.
    """

    name: str
    type: str
    default: Value | None
    doc: str

    @property
    def written(self) -> str:
        """Its default as a header writes it; empty when it must be given."""
        return "" if self.default is None else str(self.default or _EMPTY.get(self.type, 0))


@dataclass(frozen=True)
class NamedQuery:
    """A question that is ready.

    Attributes:
        name: As in `saestore query NAME`.
        doc: What it answers, one sentence.
        params: Its parameters.
        sql: Its SQL, with `$name` for parameters.
    """

    name: str
    doc: str
    params: tuple[Parameter, ...]
    sql: str


_EMPTY = {"str": "''", "ints": "[]", "strs": "[]"}


def _each(of: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    """Return what makes a list: of a list, of JSON, or of what stands between commas."""

    def made(given: Any) -> tuple[Any, ...]:
        if isinstance(given, str):
            listed = given.lstrip().startswith("[")
            given = json.loads(given) if listed else given.split(",") if given else ()
        if not isinstance(given, Iterable):
            raise TypeError(given)
        return tuple(of(each) for each in given)

    return made


_TYPES: Mapping[str, Callable[[Any], Any]] = {
    "int": int,
    "float": float,
    "str": str,
    "ints": _each(int),
    "strs": _each(str),
}

_SAID = {
    "int": "int",
    "float": "float",
    "str": "text",
    "ints": "whole numbers with commas between",
    "strs": "texts with commas between, or a JSON list where one holds a comma",
}
"""What each type is called in errors."""

_PARAMETER = re.compile(
    rf"(?P<name>\w+) (?P<type>{'|'.join(_TYPES)})(?: = (?P<default>[^:]+))?: (?P<doc>.+)"
)


@cache
def _all() -> dict[str, NamedQuery]:
    folder = resources.files("saestore.features") / "sql"
    found = {}
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".sql"):
            name = file.name.removesuffix(".sql")
            found[name] = parse(name, file.read_text(encoding="utf-8"))
    return found


def named_queries() -> dict[str, NamedQuery]:
    """Return the named queries by name, sorted."""
    return dict(_all())


def parse(name: str, text: str) -> NamedQuery:
    """Return the query of one SQL file.

    Args:
        name: Its name.
        text: Comment lines with its sentence and its parameters, then the SQL.
    """
    lines = text.splitlines()
    head = 0
    while head < len(lines) and lines[head].startswith("--"):
        head += 1
    doc, params = [], []
    for line in lines[:head]:
        comment = line.removeprefix("--").strip()
        match = _PARAMETER.fullmatch(comment)
        if match is None:
            doc.append(comment)
        else:
            given = match["default"]
            kind = _TYPES[match["type"]]
            default = None if given is None else kind(given.strip().strip("'"))
            params.append(Parameter(match["name"], match["type"], default, match["doc"]))
    sql = "\n".join(lines[head:]).strip().removesuffix(";")
    return NamedQuery(name, " ".join(doc), tuple(params), sql)


def run_named(
    lake: Lake,
    name: str,
    params: Mapping[str, Any] | None = None,
    *,
    analysis: str | None = None,
    limits: Limits | None = None,
) -> pa.Table:
    """Answer a named query inside one analysis.

    Args:
        lake: The lake.
        name: Name of the query.
        params: Its parameters; text is converted to the parameter's type.
        analysis: `SERIES/NAME` or `SERIES/NAME/ANALYSIS`; absent, the only one there is.
        limits: What it may take; absent, the defaults.

    Raises:
        QueryError: No such query or parameter, a parameter is missing or of the wrong type, or it
            is not clear which analysis is meant.
        ArtefactNotFoundError: No such analysis.
    """
    sql, values = bound(name, params)
    return over(
        lake,
        [chosen(lake, analysis)],
        sql,
        lambda connection: answer(connection, sql, values, limits=limits),
        limits=limits,
    )


def stream_named(
    lake: Lake,
    name: str,
    take: Take[T],
    params: Mapping[str, Any] | None = None,
    *,
    analysis: str | None = None,
    limits: Limits | None = None,
) -> T:
    """Answer a named query inside one analysis, and hand the answer on while it is found.

    Raises:
        QueryError: As of `run_named`.
        ArtefactNotFoundError: No such analysis.
    """
    sql, values = bound(name, params)
    return over(
        lake,
        [chosen(lake, analysis)],
        sql,
        lambda connection: pour(connection, sql, values, take, limits=limits),
        limits=limits,
    )


def explain_named(
    lake: Lake,
    name: str,
    params: Mapping[str, Any] | None = None,
    *,
    analysis: str | None = None,
    limits: Limits | None = None,
) -> Explained:
    """Answer a named query inside one analysis, and return how instead of what.

    Raises:
        QueryError: As of `run_named`.
        ArtefactNotFoundError: No such analysis.
    """
    sql, values = bound(name, params)
    return explain(lake, sql, values, analyses=[chosen(lake, analysis)], limits=limits)


def bound(name: str, params: Mapping[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
    """Return a named query's SQL and the values of all its parameters.

    Raises:
        QueryError: No such query or parameter, or a parameter is missing or of the wrong type.
    """
    wanted = _query(name)
    return wanted.sql, _values(wanted, params or {})


def _query(name: str) -> NamedQuery:
    known = _all()
    if name not in known:
        close = nearest(name, list(known))
        raise QueryError(
            f"no query named {name!r}",
            found=name,
            expected=f"one of {len(known)} named queries",
            hint=f"did you mean {', '.join(close)}?" if close else f"there are: {', '.join(known)}",
        )
    return known[name]


def _values(query: NamedQuery, params: Mapping[str, Any]) -> dict[str, Any]:
    known = {param.name: param for param in query.params}
    for name in params:
        if name not in known:
            close = nearest(name, list(known))
            there = ", ".join(known) or "none"
            raise QueryError(
                f"query {query.name} has no parameter {name!r}",
                found=name,
                expected=there,
                hint=f"did you mean {', '.join(close)}?" if close else f"its parameters: {there}",
            )
    found = {name: _value(query, param, params.get(name)) for name, param in known.items()}
    # DuckDB knows lists, and takes a tuple for a row
    return {n: list(value) if isinstance(value, tuple) else value for n, value in found.items()}


def _value(query: NamedQuery, param: Parameter, given: Any) -> Value:
    if given is None:
        if param.default is None:
            raise QueryError(
                f"query {query.name} needs the parameter {param.name!r}: {param.doc}",
                found="no value",
                expected=param.type,
                hint=f"give it: --param {param.name}=...",
            )
        return param.default
    try:
        value: Value = _TYPES[param.type](given)
    except (TypeError, ValueError) as error:
        raise QueryError(
            f"parameter {param.name} of {query.name}: found {given!r}; expected {_SAID[param.type]}",
            found=given,
            expected=_SAID[param.type],
            hint=f"{param.name}: {param.doc}",
        ) from error
    return value
