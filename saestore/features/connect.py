"""DuckDB over the lake: views over every analysis, read-only, and nothing outside the lake.

The connection may read files below the lake and nothing else: no other folder, no network, no
extensions, and its settings are locked. `query` further accepts only statements that read: see
`sandbox`.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from saestore.errors import DamagedArtefactError, FormatVersionError, QueryError
from saestore.features import annotation_views, sandbox, views
from saestore.features.interpretation_views import interpretation_views
from saestore.features.limits import Limits, within
from saestore.fingerprint import canonical
from saestore.lake import Lake, Ref, layout


T = TypeVar("T")

Take = Callable[[pa.Schema, Iterator[pa.RecordBatch]], T]
"""What becomes of an answer that comes piece by piece: it is given the columns, then the rows."""

_BATCH = 65_536
"""Most rows of a piece."""

_ARTEFACTS = """CREATE TABLE artefacts (
    kind VARCHAR, name VARCHAR, finished BOOLEAN, created TIMESTAMPTZ, fingerprint VARCHAR,
    files BIGINT, bytes BIGINT, parents VARCHAR[], settings VARCHAR, counts VARCHAR, facts VARCHAR
)"""
"""What the lake holds, for SQL; settings, counts and facts are JSON. Of what has a manifest that
cannot be read, kind and name alone are known."""


def connect(lake: Lake, limits: Limits | None = None) -> duckdb.DuckDBPyConnection:
    """Return a connection that reads below the lake only, with a view for each table over all analyses.

    Every view carries the columns `series`, `dictionary` and `analysis`. Views: features, firings
    (in feature order, with `row`), firings_by_feature (without), firings_by_context, head_firings,
    contexts, tokens, vocabulary, documents, examples, histograms, logits (with `token`), logit_stats,
    decoders, decoder_pairs, head_scaling, feature_heads, annotations, current_annotations; interpretations,
    interpretation_scores and interpretation_answers over runs of `interpret`; scores and feature_scores
    over evaluations, metrics over training runs, artefacts over manifests. In a lake that holds none they are empty.

    The connection is yours: close it. What it creates lives in memory and is gone with it. Files are
    there and of their size when it is opened; `query` compares more. Statements are not looked at, so
    COPY and ATTACH could write below the lake's folder, as any program of yours could; `query` refuses
    them.

    Args:
        lake: The lake.
        limits: Memory and threads; absent, the defaults.
    """
    return connect_to(lake, lake.refs("features"), limits=limits)


def connect_to(
    lake: Lake,
    analyses: Iterable[Ref],
    *,
    question: str | None = None,
    every: bool = False,
    limits: Limits | None = None,
) -> duckdb.DuckDBPyConnection:
    """Return a connection whose views cover the given analyses only.

    Args:
        lake: The lake.
        analyses: Which.
        question: The SQL that will be asked, if it is known. Making a view opens its files, so only
            those are made that it names, or all where it asks what there is. Of training runs,
            evaluations and sweeps their files are then compared with their checksums, not by size alone.
        every: Make all views whatever the question names; those of training runs, evaluations and
            sweeps that it does not name are empty.
        limits: Memory and threads; absent, the defaults.

    Raises:
        DamagedArtefactError: A table is missing, cut, or not what was written.
    """
    connection = duckdb.connect()
    try:
        sandbox.allow_only(connection, lake, limits or Limits())
        refs = list(analyses)
        sources = [
            views.Source(ref, lake.manifest(ref), views.folder_of(lake, ref)) for ref in refs
        ]
        named = None if every else views.named_in(question)
        for name, sql in {
            **views.analysis_views(sources),
            **views.lake_views(lake, question),
            **interpretation_views(lake, refs, question),
        }.items():
            if named is None or name in named:
                connection.execute(f"CREATE VIEW {name} AS {sql}")
        if named is None or named & {annotation_views.EVENTS, annotation_views.CURRENT}:
            annotation_views.create(connection, lake, sources)
        connection.execute(_ARTEFACTS)
        for line in _artefacts(lake) if named is None or "artefacts" in named else ():
            connection.execute(f"INSERT INTO artefacts VALUES ({', '.join('?' * len(line))})", line)
        sandbox.lock(connection)
    except duckdb.Error as error:
        connection.close()
        raise DamagedArtefactError(
            name=lake.storage.url, damage=(str(error).split("\n", 1)[0],), hint=sandbox.VERIFY
        ) from error
    except BaseException:
        connection.close()
        raise
    return connection


def query(
    lake: Lake,
    sql: str,
    params: Mapping[str, Any] | None = None,
    *,
    limits: Limits | None = None,
) -> pa.Table:
    """Answer one SQL question over all analyses; `$name` stands for a parameter.

    Raises:
        QueryError: It does not only read, DuckDB refused it (the message is the engine's), or its time
            is up.
        DamagedArtefactError: A table is missing or cut; or one over training runs, evaluations or
            sweeps, which the question names, has other bytes than were written.
    """
    return over(
        lake,
        lake.refs("features"),
        sql,
        lambda connection: answer(connection, sql, params or {}, limits=limits),
        limits=limits,
    )


def stream(
    lake: Lake,
    sql: str,
    take: Take[T],
    params: Mapping[str, Any] | None = None,
    *,
    limits: Limits | None = None,
) -> T:
    """Answer one SQL question over all analyses, and hand the answer on while it is found: see `pour`.

    Raises:
        QueryError: As of `query`.
        DamagedArtefactError: As of `query`.
    """
    return over(
        lake,
        lake.refs("features"),
        sql,
        lambda connection: pour(connection, sql, params or {}, take, limits=limits),
        limits=limits,
    )


def over(
    lake: Lake,
    analyses: Iterable[Ref],
    question: str,
    ask: Callable[[duckdb.DuckDBPyConnection], T],
    *,
    limits: Limits | None = None,
) -> T:
    """Return what is asked of a connection that has the views a question names.

    Where the engine misses one, it is asked again of a connection that has all: its error then knows the
    nearest.

    Args:
        lake: The lake.
        analyses: What the views hold.
        question: The SQL that is asked.
        ask: Asks it.
        limits: Memory and threads; absent, the defaults.

    Raises:
        QueryError: What was asked was refused.
        DamagedArtefactError: A table is missing, cut, or not what was written.
    """
    held = list(analyses)
    try:
        with connect_to(lake, held, question=question, limits=limits) as connection:
            return ask(connection)
    except QueryError as error:
        if not isinstance(error.__cause__, duckdb.CatalogException):
            raise
    with connect_to(lake, held, question=question, every=True, limits=limits) as connection:
        return ask(connection)


def answer(
    connection: duckdb.DuckDBPyConnection,
    sql: str,
    params: Mapping[str, Any],
    *,
    limits: Limits | None = None,
) -> pa.Table:
    """Answer one question over a connection.

    Raises:
        QueryError: It does not only read, DuckDB refused it (the message is the engine's), or its time
            is up.
        KeyboardInterrupt: Ctrl-C. The connection takes the next question.
    """

    def ask() -> pa.Table:
        found: pa.Table = connection.sql(sql, params=dict(params)).to_arrow_table()
        return found

    return reading(connection, sql, limits or Limits(), ask)


def pour(
    connection: duckdb.DuckDBPyConnection,
    sql: str,
    params: Mapping[str, Any],
    take: Take[T],
    *,
    limits: Limits | None = None,
) -> T:
    """Answer one question over a connection, and hand the answer on while it is found.

    Args:
        connection: What is asked.
        sql: One statement that reads.
        params: Values of its `$name`s.
        take: What the answer is for. It may stop before the end; the question is asked, and the answer
            taken, in a thread of its own.
        limits: What it may take, the taking included; absent, the defaults.

    Raises:
        QueryError: As of `answer`; parts of the answer may have been taken.
        KeyboardInterrupt: Likewise.
    """

    def ask() -> T:
        relation = connection.sql(sql, params=dict(params))
        with relation.to_arrow_reader(_BATCH) as reader, closing(_pieces(reader)) as pieces:
            return take(reader.schema, pieces)

    return reading(connection, sql, limits or Limits(), ask)


def _pieces(reader: pa.RecordBatchReader) -> Generator[pa.RecordBatch, None, None]:
    while True:
        try:
            piece = reader.read_next_batch()
        except StopIteration:
            return
        except (OSError, pa.ArrowException) as error:
            # the stream between the two libraries passes on the engine's message alone
            raise sandbox.engine_error(str(error)) from error
        yield piece


def reading(
    connection: duckdb.DuckDBPyConnection, sql: str, limits: Limits, ask: Callable[[], T]
) -> T:
    """Return what is asked by one statement that reads, within its time; nothing is changed.

    Raises:
        QueryError: It does not only read, DuckDB refused it, or its time is up.
        KeyboardInterrupt: Ctrl-C.
    """
    try:
        sandbox.check(connection, sql)
        connection.execute("BEGIN TRANSACTION READ ONLY")
        try:
            return within(connection, limits.seconds, ask)
        finally:
            connection.execute("ROLLBACK")
    except duckdb.Error as error:
        raise sandbox.refused(error, sql) from error
    except TimeoutError as error:
        raise sandbox.late(sql, limits) from error


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
            [layout.inside(p.kind, p.name) for p in manifest.parents],
            canonical(manifest.settings),
            canonical(manifest.counts),
            canonical(manifest.facts),
        ]
    for ref in lake.refs(unfinished=True):
        yield [ref.kind, ref.name, False, *[None] * 8]
