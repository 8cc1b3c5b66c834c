"""DuckDB over the lake: views over every analysis, read-only, and nothing outside the lake.

The connection may read files below the lake and nothing else: no other folder, no network, no
extensions, and its settings are locked. `query` further accepts only statements that read, because
DuckDB's own switch would let COPY write below an allowed folder.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import duckdb
import pyarrow as pa

from saestore.errors import DamagedArtefactError, FormatVersionError, QueryError
from saestore.features import views
from saestore.fingerprint import canonical
from saestore.lake import Lake, Ref, layout


_READS = {duckdb.StatementType.SELECT}
"""Statements that read: SELECT, FROM, VALUES, WITH, DESCRIBE, SUMMARIZE and SHOW are all of this
type."""

_EXPLAIN = re.compile(
    r"\s*EXPLAIN(\s+ANALYZE\b|\s*\([^)]*\))?(?P<inner>.*)", re.IGNORECASE | re.DOTALL
)

_VERIFY = "`saestore verify --all` names every damaged file: restore them, or remove the artefact"

_ARTEFACTS = """CREATE TABLE artefacts (
    kind VARCHAR, name VARCHAR, finished BOOLEAN, created TIMESTAMPTZ, fingerprint VARCHAR,
    files BIGINT, bytes BIGINT, parents VARCHAR[], settings VARCHAR, counts VARCHAR, facts VARCHAR
)"""
"""What the lake holds, for SQL; settings, counts and facts are JSON. Of what has a manifest that
cannot be read, kind and name alone are known."""


def connect(lake: Lake) -> duckdb.DuckDBPyConnection:
    """Return a sandboxed connection with a view for each table over all analyses.

    Every view carries the columns `series`, `dictionary` and `analysis`. Views: features, firings
    (in feature order, with `row`), firings_by_context, head_firings, contexts, tokens, vocabulary,
    documents, examples, histograms, logits (with `token`), logit_stats, decoders, decoder_pairs, head_scaling,
    feature_heads; scores and feature_scores over evaluations, metrics over training runs, artefacts over
    manifests. In a lake that holds none they are empty.

    The connection is yours: close it. What it creates lives in memory and is gone with it. Files are
    there and of their size when it is opened; `query` compares more.
    """
    return connect_to(lake, lake.refs("features"))


def connect_to(
    lake: Lake, analyses: Iterable[Ref], *, question: str | None = None
) -> duckdb.DuckDBPyConnection:
    """Return a connection whose views cover the given analyses only.

    Args:
        lake: The lake.
        analyses: Which.
        question: The SQL that will be asked, if it is known: of the views over training runs,
            evaluations and sweeps, those that it names are compared with their checksums, not by
            size alone, and the others are left empty.

    Raises:
        DamagedArtefactError: A table is missing, cut, or not what was written.
    """
    connection = duckdb.connect()
    try:
        _allow_only(connection, lake)
        sources = [
            views.Source(ref, lake.manifest(ref), views.folder_of(lake, ref)) for ref in analyses
        ]
        for name, sql in {
            **views.analysis_views(sources),
            **views.lake_views(lake, question),
        }.items():
            connection.execute(f"CREATE VIEW {name} AS {sql}")
        connection.execute(_ARTEFACTS)
        for line in _artefacts(lake):
            connection.execute(f"INSERT INTO artefacts VALUES ({', '.join('?' * len(line))})", line)
        connection.execute("SET lock_configuration = true")
    except duckdb.Error as error:
        connection.close()
        raise DamagedArtefactError(
            name=lake.storage.url, damage=(str(error).split("\n", 1)[0],), hint=_VERIFY
        ) from error
    except BaseException:
        connection.close()
        raise
    return connection


def query(lake: Lake, sql: str, params: Mapping[str, Any] | None = None) -> pa.Table:
    """Answer one SQL question over all analyses; `$name` stands for a parameter.

    Raises:
        QueryError: It does not only read, or DuckDB refused it; the message is the engine's.
        DamagedArtefactError: A table is missing or cut; or one over training runs, evaluations or
            sweeps, which the question names, has other bytes than were written.
    """
    with connect_to(lake, lake.refs("features"), question=sql) as connection:
        return answer(connection, sql, params or {})


def answer(connection: duckdb.DuckDBPyConnection, sql: str, params: Mapping[str, Any]) -> pa.Table:
    """Answer one question over a connection.

    Raises:
        QueryError: It does not only read, or DuckDB refused it; the message is the engine's.
    """
    try:
        _check(connection, sql)
        relation = connection.sql(sql, params=dict(params))
        found: pa.Table = relation.to_arrow_table()
    except duckdb.Error as error:
        raise _refused(error, sql) from error
    return found


def _allow_only(connection: duckdb.DuckDBPyConnection, lake: Lake) -> None:
    root = lake.storage.full_url
    if lake.storage.local is None:
        connection.register_filesystem(lake.storage.fs)
    for setting in (
        "autoinstall_known_extensions = false",
        "autoload_known_extensions = false",
        "allow_community_extensions = false",
        "python_enable_replacements = false",
        "TimeZone = 'UTC'",
        f"allowed_directories = [{views.literal(root.rstrip('/') + '/')}]",
        "enable_external_access = false",
    ):
        connection.execute(f"SET {setting}")


def _check(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise QueryError(
            f"found {len(statements)} statements; expected one",
            found=len(statements),
            expected="one statement",
            hint="ask one question at a time; WITH joins several steps into one",
        )
    kind = statements[0].type
    explained = _EXPLAIN.fullmatch(sql) if kind == duckdb.StatementType.EXPLAIN else None
    if explained is not None:
        # EXPLAIN ANALYZE runs what it explains
        _check(connection, explained["inner"])
    elif kind not in _READS:
        raise QueryError(
            f"{kind.name} is not a question: queries only read",
            found=kind.name,
            expected="SELECT, FROM, WITH, DESCRIBE, SUMMARIZE, SHOW or EXPLAIN",
            hint="save an answer with `saestore query ... --out FILE.parquet`",
        )


def _refused(error: duckdb.Error, sql: str) -> QueryError:
    message = str(error).strip()
    if isinstance(error, duckdb.PermissionException):
        hint = "queries read this lake only: no other files, no network, no extensions"
    elif ".parquet" in message or "Parquet" in message:
        hint = _VERIFY
    elif isinstance(error, duckdb.BinderException):
        hint = "`DESCRIBE features` lists a view's columns; `SHOW TABLES` lists the views"
    elif isinstance(error, duckdb.CatalogException):
        hint = f"views: {', '.join(views.VIEWS)}"
    elif isinstance(error, duckdb.InvalidInputException):
        hint = "give every $parameter a value, and no others; settings are locked"
    else:
        hint = "the SQL is DuckDB's: https://duckdb.org/docs/stable/sql/introduction"
    return QueryError(message, found=sql, expected="SQL that DuckDB understands", hint=hint)


def _artefacts(lake: Lake) -> Iterator[list[Any]]:
    for ref in lake.refs():
        try:
            manifest = lake.manifest(ref)
        except (DamagedArtefactError, FormatVersionError):
            yield [ref.kind, ref.name, None, *[None] * 8]
            continue
        yield [
            ref.kind,
            ref.name,
            True,
            manifest.created,
            manifest.fingerprint,
            manifest.payload.files,
            manifest.payload.bytes,
            [f"{layout.FOLDERS[p.kind]}/{p.name}" for p in manifest.parents],
            canonical(manifest.settings),
            canonical(manifest.counts),
            canonical(manifest.facts),
        ]
    for ref in lake.refs(unfinished=True):
        yield [ref.kind, ref.name, False, *[None] * 8]
