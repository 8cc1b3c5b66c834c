"""What SQL over a lake may do: read the lake's files, and nothing else.

Three walls. The engine opens files below the lake only, resolved, so that a link out of it leads
nowhere; it has no network, loads no extension, and its settings are locked. A statement is looked at
before it runs: it must be one that reads. And it runs in a transaction that cannot write, because
`WITH ... (DELETE ... RETURNING *)` counts as reading.

The second wall matters most: within an allowed folder the engine itself would write, by COPY and ATTACH.
"""

import re

import duckdb

from saestore.errors import QueryError
from saestore.features import views
from saestore.features.limits import Limits
from saestore.features.views import KEEP_FIRINGS, KEEPS_NONE
from saestore.lake import Lake


_READS = {duckdb.StatementType.SELECT}
"""Statements that read: SELECT, FROM, VALUES, WITH, DESCRIBE, SUMMARIZE and SHOW are all of this
type."""

_EXPLAIN = re.compile(
    # words only between the brackets: a comment in there would hide where the statement begins
    r"\s*EXPLAIN(\s+ANALYZE\b|\s*\(\s*(ANALYZE|FORMAT)\b[\w\s,]*\))?(?P<inner>.*)",
    re.IGNORECASE | re.DOTALL,
)

VERIFY = "`saestore verify --all` names every damaged file: restore them, or remove the artefact"


def allow_only(connection: duckdb.DuckDBPyConnection, lake: Lake, limits: Limits) -> None:
    """Let a connection read below a lake alone. Its settings stay open: see `lock`."""
    root = lake.storage.full_url
    if lake.storage.local is None:
        connection.register_filesystem(lake.storage.fs)
    for setting in (
        *limits.settings(),
        "autoinstall_known_extensions = false",
        "autoload_known_extensions = false",
        "allow_community_extensions = false",
        "allow_persistent_secrets = false",
        "python_enable_replacements = false",
        # it would stand in the answer, on stdout
        "enable_progress_bar = false",
        "TimeZone = 'UTC'",
        # footers of the lake's files, which never change, are read once
        "parquet_metadata_cache = true",
        f"allowed_directories = [{views.literal(root.rstrip('/') + '/')}]",
        "enable_external_access = false",
    ):
        connection.execute(f"SET {setting}")


def lock(connection: duckdb.DuckDBPyConnection) -> None:
    """Let nothing change the settings of a connection any more."""
    connection.execute("SET lock_configuration = true")


def check(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Refuse what does more than read.

    Raises:
        QueryError: It is not one statement, or does not only read.
        duckdb.Error: It is no SQL.
    """
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise QueryError(
            f"found {len(statements)} statements; expected one",
            found=len(statements),
            expected="one statement",
            hint="ask one question at a time; WITH joins several steps into one",
        )
    kind = _kind(statements[0])
    explained = _EXPLAIN.fullmatch(sql) if kind == duckdb.StatementType.EXPLAIN else None
    if explained is not None:
        # EXPLAIN ANALYZE runs what it explains
        check(connection, explained["inner"])
    elif kind not in _READS:
        name = "this" if kind is None else kind.name
        raise QueryError(
            f"{name} is not a question: queries only read",
            found=name,
            expected="SELECT, FROM, WITH, DESCRIBE, SUMMARIZE, SHOW or EXPLAIN",
            hint="save an answer with `saestore query ... --out FILE.parquet`",
        )


def _kind(statement: duckdb.Statement) -> duckdb.StatementType | None:
    """Return what a statement does; None where DuckDB's Python module has no name for it."""
    try:
        return statement.type
    except ValueError:
        return None


def refused(error: duckdb.Error, sql: str) -> QueryError:
    """Return an error of the engine as ours: its message, and what to do now."""
    message = str(error).strip()
    if KEEPS_NONE in message:
        message = message.partition(": ")[2]
        return QueryError(message, found=sql, expected="analyses that keep them", hint=KEEP_FIRINGS)
    return QueryError(
        message, found=sql, expected="SQL that DuckDB understands", hint=_hint(error, message)
    )


def engine_error(message: str) -> duckdb.Error:
    """Return the engine's error of which only the message is left.

    >>> type(engine_error("Out of Memory Error: failed to allocate")).__name__
    'OutOfMemoryException'
    """
    for kind, spelt in _SPELT.items():
        if message.startswith(spelt):
            return kind(message)
    return duckdb.Error(message)


def late(sql: str, limits: Limits) -> QueryError:
    """Return the error of a question whose time is up."""
    return QueryError(
        f"stopped after {limits.seconds:g} s: its time is up",
        found=sql,
        expected="an answer within the time limit",
        hint="ask about fewer features or contexts, or give it a longer --time-limit",
    )


def _hint(error: duckdb.Error, message: str) -> str:
    for kind, hint in _HINTS.items():
        if isinstance(error, kind):
            return hint
    if ".parquet" in message or "Parquet" in message:
        return VERIFY
    return "the SQL is DuckDB's: https://duckdb.org/docs/stable/sql/introduction"


_HINTS: dict[type[duckdb.Error], str] = {
    duckdb.PermissionException: "queries read this lake only: no other files, no network, no "
    "extensions; what a link in the lake points to must lie in the lake",
    duckdb.OutOfMemoryException: "ask for fewer columns or rows, or give it more --memory; fewer "
    "--threads take less",
    duckdb.BinderException: "`DESCRIBE features` lists a view's columns; `SHOW TABLES` lists the views",
    duckdb.CatalogException: f"views: {', '.join(views.VIEWS)}",
    duckdb.InvalidInputException: "give every $parameter a value, and no others; settings are locked",
    duckdb.TransactionException: "queries only read: nothing can be changed",
}

_SPELT: dict[type[duckdb.Error], str] = {
    duckdb.PermissionException: "Permission Error",
    duckdb.OutOfMemoryException: "Out of Memory Error",
    duckdb.InvalidInputException: "Invalid Input Error",
}
"""How messages begin of what can go wrong while rows are found."""
