"""Questions one after the other over one connection: what an interactive shell needs."""

from collections.abc import Mapping
from functools import cached_property
from types import TracebackType
from typing import Any, final

import pyarrow as pa

from saestore.errors import QueryError, nearest
from saestore.features.connect import answer, connect_to
from saestore.features.explain import Explained, explained
from saestore.features.find import analysis_named, only_analysis
from saestore.features.limits import Limits
from saestore.features.named import bound
from saestore.features.views import VIEWS
from saestore.lake import Lake


@final
class SqlSession:
    """A lake's answers, its views made once: `with` it.

    What is analysed, trained or removed meanwhile is not seen: the views are those of the beginning.

    Attributes:
        every: The lake's analyses.
        analyses: Those that the views hold.
    """

    def __init__(
        self, lake: Lake, *, analysis: str | None = None, limits: Limits | None = None
    ) -> None:
        """Open a connection.

        Args:
            lake: The lake.
            analysis: The only analysis that views hold; absent, all.
            limits: What each question may take; absent, the defaults.

        Raises:
            ArtefactNotFoundError: No such analysis.
            DamagedArtefactError: A table is missing or cut.
        """
        self._lake = lake
        self._limits = limits or Limits()
        self.every = tuple(lake.refs("features"))
        self.analyses = self.every if analysis is None else (analysis_named(lake, analysis),)
        self._connection = connect_to(lake, self.analyses, limits=self._limits)

    def __enter__(self) -> "SqlSession":
        """Return it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close its connection."""
        self._connection.close()

    def answer(self, sql: str, params: Mapping[str, Any] | None = None) -> pa.Table:
        """Answer one question.

        Raises:
            QueryError: It does not only read, DuckDB refused it, or its time is up.
            KeyboardInterrupt: Ctrl-C; the next question is answered.
        """
        return answer(self._connection, sql, params or {}, limits=self._limits)

    def named(self, name: str, params: Mapping[str, Any] | None = None) -> pa.Table:
        """Answer a named query; the views must hold one analysis.

        Raises:
            QueryError: No such query or parameter, or there are several analyses.
            ArtefactNotFoundError: There is no analysis.
        """
        sql, values = bound(name, params)
        if len(self.analyses) != 1:
            only_analysis(self._lake)
        return self.answer(sql, values)

    def explain(self, sql: str) -> Explained:
        """Answer a question, and return how instead of what.

        Raises:
            QueryError: As of `answer`.
        """
        root = self._lake.storage.full_url
        return explained(self._connection, sql, {}, root=root, limits=self._limits)

    @cached_property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """The columns of every view, by its name, in the order of `VIEWS`."""
        lines = self.answer(
            "SELECT table_name, list(column_name ORDER BY ordinal_position) AS columns "
            "FROM information_schema.columns WHERE table_schema = 'main' GROUP BY table_name"
        )
        found = {line["table_name"]: tuple(line["columns"]) for line in lines.to_pylist()}
        return {view: found[view] for view in VIEWS}

    @cached_property
    def keywords(self) -> tuple[str, ...]:
        """DuckDB's reserved words, in capitals."""
        lines = self.answer("SELECT upper(keyword_name) AS k FROM duckdb_keywords() ORDER BY k")
        return tuple(line["k"] for line in lines.to_pylist())

    def schema(self, view: str) -> pa.Table:
        """Return the columns of a view with their types.

        Raises:
            QueryError: There is no such view; the nearest are named.
        """
        if view not in self.columns:
            close = nearest(view, list(self.columns))
            raise QueryError(
                f"there is no table {view!r}",
                found=view,
                expected=f"one of {', '.join(self.columns)}",
                hint=f"did you mean {', '.join(close)}?" if close else ".tables lists them",
            )
        return self.answer(
            "SELECT column_name AS column, data_type AS type FROM information_schema.columns "
            "WHERE table_name = $view ORDER BY ordinal_position",
            {"view": view},
        )
