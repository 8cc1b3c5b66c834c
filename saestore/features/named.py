"""Named queries: SQL files with a header that says what they answer and which parameters they take.

    -- Which contexts excite a feature most, and where.
    -- feature int: which feature
    -- n int = 20: how many contexts

A query runs inside one analysis: its views hold nothing else, so it needs no keys in its joins.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import pyarrow as pa

from saestore.errors import QueryError, nearest
from saestore.features.connect import answer, connect_to
from saestore.features.find import analysis_named, only_analysis
from saestore.features.limits import Limits
from saestore.lake import Lake


@dataclass(frozen=True)
class Parameter:
    """One parameter of a named query.

    Attributes:
        name: As in `--param name=value` and `$name`.
        type: `int`, `float` or `str`.
        default: Its default, or None when it must be given.
        doc: What it means.
    """

    name: str
    type: str
    default: int | float | str | None
    doc: str


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


_TYPES = {"int": int, "float": float, "str": str}

_PARAMETER = re.compile(
    r"(?P<name>\w+) (?P<type>int|float|str)(?: = (?P<default>[^:]+))?: (?P<doc>.+)"
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
            default = None if given is None else kind(given.strip())
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
    wanted = _query(name)
    values = _values(wanted, params or {})
    ref = only_analysis(lake) if analysis is None else analysis_named(lake, analysis)
    with connect_to(lake, [ref], question=wanted.sql, limits=limits) as connection:
        return answer(connection, wanted.sql, values, limits=limits)


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
    return {name: _value(query, param, params.get(name)) for name, param in known.items()}


def _value(query: NamedQuery, param: Parameter, given: Any) -> int | float | str:
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
        value: int | float | str = _TYPES[param.type](given)
    except (TypeError, ValueError) as error:
        raise QueryError(
            f"parameter {param.name} of {query.name}: found {given!r}; expected {param.type}",
            found=given,
            expected=param.type,
            hint=f"{param.name}: {param.doc}",
        ) from error
    return value
