"""What an open lake answers: questions in SQL, ready ones, and lazy frames."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from saestore.lake import Lake


if TYPE_CHECKING:
    import duckdb
    import polars as pl
    import pyarrow as pa

    from saestore.features import Explained, Limits, NamedQuery, SqlSession, Take

T = TypeVar("T")


class Asking:
    """A lake's answers.

    Attributes:
        lake: The lake.
        threads: CPU threads of a question, unless it says; None leaves DuckDB's choice.
    """

    lake: Lake
    threads: int | None

    def duckdb(self) -> "duckdb.DuckDBPyConnection":
        """Return a DuckDB connection with a view over every analysis for each table.

        It reads the lake's files and no others, has no network, and its settings are locked. Statements
        are yours: COPY and ATTACH could write into the lake's folder; `sql` refuses them.
        """
        from saestore import features

        return features.connect(self.lake, self._limits(None))

    def sql(
        self,
        sql: str,
        params: Mapping[str, Any] | None = None,
        *,
        limits: "Limits | None" = None,
    ) -> "pa.Table":
        """Answer one SQL question over all analyses.

        Args:
            sql: One statement that reads.
            params: Values of its `$name`s.
            limits: Memory, threads and time it may take; absent, half of the memory, the lake's threads
                and no end.

        Raises:
            QueryError: It does not only read, DuckDB refused it, or its time is up.
        """
        from saestore import features

        return features.query(self.lake, sql, dict(params or {}), limits=self._limits(limits))

    def named(
        self,
        query: str,
        params: Mapping[str, Any] | None = None,
        *,
        analysis: str | None = None,
        limits: "Limits | None" = None,
    ) -> "pa.Table":
        """Answer a named query inside one analysis (default the only one).

        Raises:
            QueryError: No such query or parameter, it is not clear which analysis, or its time is up.
        """
        from saestore import features

        given = dict(params or {})
        limits = self._limits(limits)
        return features.run_named(self.lake, query, given, analysis=analysis, limits=limits)

    def stream(
        self,
        sql: str,
        take: "Take[T]",
        params: Mapping[str, Any] | None = None,
        *,
        limits: "Limits | None" = None,
    ) -> T:
        """Answer one SQL question piece by piece, in bounded memory; return what is made of the pieces.

        Args:
            sql: One statement that reads.
            take: Is given the answer's Arrow schema and an iterator of record batches, in a thread of
                its own; it may stop early.
            params: Values of its `$name`s.
            limits: As of `sql`; the time is that of finding and taking.

        Raises:
            QueryError: As of `sql`; some pieces may have been taken.
        """
        from saestore import features

        given = dict(params or {})
        return features.stream(self.lake, sql, take, given, limits=self._limits(limits))

    def stream_named(
        self,
        query: str,
        take: "Take[T]",
        params: Mapping[str, Any] | None = None,
        *,
        analysis: str | None = None,
        limits: "Limits | None" = None,
    ) -> T:
        """Answer a named query piece by piece: `stream`, inside one analysis.

        Raises:
            QueryError: As of `named`; some pieces may have been taken.
        """
        from saestore import features

        given = dict(params or {})
        limits = self._limits(limits)
        return features.stream_named(
            self.lake, query, take, given, analysis=analysis, limits=limits
        )

    def scan(self, table: str, *, analysis: str | None = None) -> "pl.LazyFrame":
        """Return a stored table of all analyses, or of one, as a lazy Polars frame.

        The columns `series`, `dictionary` and `analysis` stand in front; of tables of runs of `interpret`,
        such as `interpretations`, `run` follows.

        Args:
            table: Its name, such as `features` or `firings_by_feature`.
            analysis: The only analysis to read; absent, all.

        Raises:
            QueryError: There is no such table.
            ArtefactNotFoundError: No such analysis.
        """
        from saestore.features.frames import scan

        return scan(self.lake, table, analysis=analysis)

    def explain(
        self,
        question: str,
        params: Mapping[str, Any] | None = None,
        *,
        analysis: str | None = None,
        limits: "Limits | None" = None,
    ) -> "Explained":
        """Answer a question, and return how: its plan, and how much of each table was read.

        Args:
            question: SQL, or the name of a query that is ready.
            params: Its parameters.
            analysis: Of a named query, which analysis; absent, the only one.
            limits: As of `sql`.

        Raises:
            QueryError: As of `sql` and `named`.
        """
        from saestore import features

        given = dict(params or {})
        limits = self._limits(limits)
        if question not in features.named_queries():
            return features.explain(self.lake, question, given, limits=limits)
        return features.explain_named(self.lake, question, given, analysis=analysis, limits=limits)

    def session(
        self, *, analysis: str | None = None, limits: "Limits | None" = None
    ) -> "SqlSession":
        """Return an open connection that answers one question after the other: `with` it.

        Args:
            analysis: The only analysis that its views hold; absent, all.
            limits: What each question may take; as of `sql`.

        Raises:
            ArtefactNotFoundError: No such analysis.
        """
        from saestore.features import SqlSession

        return SqlSession(self.lake, analysis=analysis, limits=self._limits(limits))

    def _limits(self, given: "Limits | None") -> "Limits":
        from saestore.features import Limits

        return given or Limits(threads=self.threads)

    def queries(self) -> "dict[str, NamedQuery]":
        """Return the named queries with their parameters and SQL."""
        from saestore import features

        return features.named_queries()

    def polars(self, table: str, analysis: str) -> "pl.LazyFrame":
        """Return one table of an analysis as a lazy Polars frame.

        Raises:
            ArtefactNotFoundError: No such analysis.
        """
        from saestore.features import Analysis

        return Analysis.open(self.lake, analysis).lazy(table)
