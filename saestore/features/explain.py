"""What answering a question took: its plan, and how much of each table was read.

A question about one feature is quick because most of a table is left out: the files say which features
each row group holds. Here one sees whether that worked.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import duckdb

from saestore.features.connect import over, reading
from saestore.features.limits import Limits
from saestore.lake import Lake, Ref


@dataclass(frozen=True)
class Step:
    """One operator of a plan.

    Attributes:
        name: DuckDB's name of it.
        details: What it does, by DuckDB's names.
        rows: Rows that it passed on.
        seconds: Time in it, added over threads.
        steps: What it took its rows from.
    """

    name: str
    details: Mapping[str, str]
    rows: int
    seconds: float
    steps: tuple["Step", ...]


@dataclass(frozen=True)
class Scan:
    """One table, or file of the lake, that was read.

    Attributes:
        table: Its name.
        of: The artefact that it belongs to.
        filters: Conditions that were tested while reading, those found on the way included.
        row_groups: Row groups in its files.
        row_groups_read: Those that were read; the smallest and largest values in the files' footers
            rule out the others.
        rows: Rows read that met the conditions.
    """

    table: str
    of: str
    filters: str
    row_groups: int
    row_groups_read: int
    rows: int


@dataclass(frozen=True)
class Explained:
    """How a question was answered.

    Attributes:
        plan: Its last operator, with all before it.
        scans: What was read, in the plan's order.
        bytes_read: Bytes that came from files; what was in memory from before is not counted.
    """

    plan: Step
    scans: tuple[Scan, ...]
    bytes_read: int


def explain(
    lake: Lake,
    sql: str,
    params: Mapping[str, Any] | None = None,
    *,
    analyses: Iterable[Ref] | None = None,
    limits: Limits | None = None,
) -> Explained:
    """Answer a question, and return how instead of what.

    Args:
        lake: The lake.
        sql: One statement that reads.
        params: Values of its `$name`s.
        analyses: Which analyses its views hold; absent, all.
        limits: What it may take; absent, the defaults.

    Raises:
        QueryError: It does not only read, DuckDB refused it, or its time is up.
        DamagedArtefactError: A table is missing or cut.
        KeyboardInterrupt: Ctrl-C.
    """
    held = lake.refs("features") if analyses is None else analyses
    root = lake.storage.full_url
    return over(
        lake,
        held,
        sql,
        lambda connection: explained(connection, sql, params or {}, root=root, limits=limits),
        limits=limits,
    )


def explained(
    connection: duckdb.DuckDBPyConnection,
    sql: str,
    params: Mapping[str, Any],
    *,
    root: str,
    limits: Limits | None = None,
) -> Explained:
    """Return what `explain` does, over a connection to the lake at a root.

    Raises:
        QueryError: It does not only read, DuckDB refused it, or its time is up.
        KeyboardInterrupt: Ctrl-C.
    """

    def ask() -> Any:
        relation = connection.sql(f"EXPLAIN (ANALYZE, FORMAT json)\n{sql}", params=dict(params))
        return json.loads(relation.to_arrow_table()["explain_value"][0].as_py())

    profile = reading(connection, sql, limits or Limits(), ask)
    (top,) = profile["operator"]
    while top["type"] in _WRAPPERS:
        (top,) = top["children"]
    return Explained(_step(top), tuple(_scans(top, root)), profile["io"]["total_bytes_read"])


_WRAPPERS = {"RESULT_COLLECTOR", "EXPLAIN_ANALYZE"}
"""What stands around a plan because it is explained."""

_HIDDEN = {"Estimated Cardinality", "Function", "Filename(s)", "Total Files Read"}
"""Details that say nothing, or that a scan says better."""

_FILE = re.compile(r"(?P<of>.+?)/(?P<table>[^/]+?)(/part-[^/]*)?\.parquet")


def _step(node: Mapping[str, Any]) -> Step:
    details = {name: _text(value) for name, value in node["extra_info"].items()}
    return Step(
        name=node["type"],
        details={name: value for name, value in details.items() if value and name not in _HIDDEN},
        rows=node["intermediate_rows"],
        seconds=node["timing"],
        steps=tuple(_step(child) for child in node.get("children", ())),
    )


def _scans(node: Mapping[str, Any], root: str) -> Iterator[Scan]:
    if "total_row_groups_to_scan" in node:
        info = node["extra_info"]
        # the root first: a folder's name may hold what stands between names
        listed = _text(info.get("Filename(s)", "")).removeprefix(root.rstrip("/") + "/")
        path = listed.split(", ", 1)[0]
        match = _FILE.fullmatch(path)
        filters = (_text(info.get(name, "")) for name in ("Filters", "Dynamic Filters"))
        yield Scan(
            table=match["table"] if match else path,
            of=match["of"] if match else "",
            filters=", ".join(each for each in filters if each),
            row_groups=node["total_row_groups_to_scan"],
            row_groups_read=node["row_groups_scanned"],
            rows=node["rows_scanned"],
        )
    for child in node.get("children", ()):
        yield from _scans(child, root)


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
