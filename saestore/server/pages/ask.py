"""Questions in SQL: saved ones and one's own, with the answer as a table and a chart."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from markupsafe import Markup
from starlette.concurrency import run_in_threadpool

from saestore.errors import SaestoreError
from saestore.features import NamedQuery, named_queries
from saestore.features.views import KEYS, VIEWS
from saestore.numbers import count, value
from saestore.server import tables
from saestore.server.pages.drawing import page, path, script
from saestore.server.problems import Refused, problem_of
from saestore.server.routes import VERSION, ServedLake
from saestore.server.served import Served
from saestore_schemas.wire import TableAnswer


routes = APIRouter(include_in_schema=False)

LINES = 500
"""Rows of an answer that a page lists, at most."""
ROOM = 80_000
"""Bytes of them, about, at most; and of what a chart is drawn from: of more, a chart asks by itself."""
_CELL = 300
"""Characters of a cell, at most."""
_LABEL = 40
"""Characters of what stands beside a chart's axis, at most."""
_TAG = 60
"""Bytes of a cell beside what stands in it, about."""


@dataclass(frozen=True)
class Question:
    """What an address asks.

    Attributes:
        query: The saved question; None, one's own.
        sql: One's own; empty if nothing is asked.
        params: Parameters of the saved one.
        on: The analysis that it is about.
        analyses: Those that there are.
    """

    query: NamedQuery | None
    sql: str
    params: Mapping[str, str]
    on: str
    analyses: Sequence[str]

    @classmethod
    def of(cls, served: Served, given: Mapping[str, str]) -> "Question":
        """Return what the query of an address asks."""
        names = [ref.name for ref in served.lake.refs("features")]
        return cls(
            query=named_queries().get(given.get("query", "")),
            sql=given.get("sql", ""),
            params={name[2:]: text for name, text in given.items() if name[:2] == "p." and text},
            on=given.get("on") or (names[0] if names else ""),
            analyses=names,
        )

    @property
    def whole(self) -> bool:
        """Whether there is all that an answer needs."""
        if self.query is None:
            return bool(self.sql.strip())
        known = self.query.params
        sent = bool(self.params) or not known
        return sent and all(each.default is not None or each.name in self.params for each in known)

    @property
    def question(self) -> tables.Question:
        """What a process is asked."""
        if self.query is None:
            return tables.Question(self.sql, {})
        return tables.Question(self.query.name, self.params, analysis=self.on, ready=True)

    def api(self) -> dict[str, Any]:
        """Return how a program asks the same."""
        if self.query is None:
            return {"url": f"{VERSION}/sql", "body": {"sql": self.sql}}
        body = {"analysis": self.on, "params": dict(self.params)}
        return {"url": f"{VERSION}/queries/{self.query.name}", "body": body}


@routes.get("/sql")
async def sql(request: Request, served: ServedLake) -> Response:
    """Show a question and, if this server's own page or nobody else's led here, its answer."""
    asked = await run_in_threadpool(Question.of, served, request.query_params)
    elsewhere = asked.whole and from_elsewhere(request)
    answer, problem = None, None
    if asked.whole and not elsewhere:
        try:
            found = await served.ask(asked.question)
            answer = await run_in_threadpool(_answer, found, asked)
        except SaestoreError as error:
            problem = problem_of(error)
        except Refused as error:
            problem = error.problem
    model: dict[str, Any] = {
        "queries": list(named_queries().values()),
        "views": VIEWS,
        "query": asked.query,
        "given": asked.params,
        "analyses": asked.analyses,
        "on": asked.on,
        "sql": asked.sql,
        "seconds": served.settings.sql_seconds,
        "rows": served.settings.sql_rows,
        "asked_elsewhere": elsewhere,
        "answer": answer,
        "problem": problem,
    }
    crumbs = [("SQL", "/sql"), (asked.query.name, "")] if asked.query else [("SQL", "")]
    status = 200 if problem is None else problem.status
    served.sql.prepare()  # who looks at the page is about to ask
    return await run_in_threadpool(page, request, "sql.html", model, crumbs=crumbs, status=status)


def from_elsewhere(request: Request) -> bool:
    """Return whether a page of another site led here: it must not make this one compute.

    Browsers say so (`Sec-Fetch-Site`); an address that was typed or kept has no page before it.
    """
    return request.headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}


def _answer(found: TableAnswer, asked: Question) -> dict[str, Any]:
    """Return an answer as the page draws it."""
    columns = [{"name": column.name, "number": _is_number(column.type)} for column in found.columns]
    rows = len(found.rows)
    said = f"{count(rows)} {'row' if rows == 1 else 'rows'} in {value(round(found.seconds, 3))} s"
    lines = list(_lines(found, asked))
    notes = [f"the first {count(len(lines))} are listed"] if rows > len(lines) else []
    if found.truncated:
        notes.append("there are more rows than this server gives at once")
    return {
        "said": f"{said}{', and there are more' if found.truncated else ''}",
        "columns": columns,
        "lines": lines,
        "json": _chart(found, columns, asked),
        "more": "; ".join(notes),
    }


def _lines(found: TableAnswer, asked: Question) -> Iterator[list[dict[str, Any]]]:
    """Yield the cells of the rows that have room."""
    names = [column.name for column in found.columns]
    numbers = [_is_number(column.type) for column in found.columns]
    keys = [names.index(key) for key in KEYS] if set(KEYS) <= set(names) else []
    analysis = asked.on if asked.query is not None else ""
    room = ROOM
    for row in found.rows[:LINES]:
        line = [
            {
                "words": _words(cell),
                "number": number,
                "url": _leads(name, cell, analysis, [row[n] for n in keys]),
            }
            for cell, name, number in zip(row, names, numbers, strict=True)
        ]
        room -= sum(
            len(str(cell["words"]).encode()) + len(str(cell["url"])) + _TAG for cell in line
        )
        if room < 0:
            return
        yield line


_FEATURES = {"feature", "other", "neighbour", "child"}
"""Columns that hold features."""


def _leads(column: str, cell: Any, analysis: str, keys: Sequence[Any]) -> str:
    """Return the page of the feature in a cell; empty where there is none, or of which analysis is not said."""
    if column not in _FEATURES or not isinstance(cell, int):
        return ""
    where = "/".join(map(str, keys)) or analysis
    return path("features", where, cell) if where else ""


def _is_number(kind: str) -> bool:
    return kind.startswith(("int", "uint", "float", "double", "half", "decimal"))


def _words(cell: Any) -> str:
    if isinstance(cell, bool) or cell is None:
        return {None: "–", True: "true", False: "false"}[cell]
    if isinstance(cell, int):
        return str(cell)
    if isinstance(cell, float):
        return value(cell)
    text = str(cell)
    return text if len(text) <= _CELL else f"{text[:_CELL]}…"


def _chart(found: TableAnswer, columns: list[dict[str, Any]], asked: Question) -> Markup | str:
    """Return what a chart is drawn from; nothing where there are no numbers to draw."""
    if len(found.rows) < 2 or not any(column["number"] for column in columns):  # noqa: PLR2004
        return ""
    values = [
        [_short(row[n]) if column["number"] else _words(row[n])[:_LABEL] for row in found.rows]
        for n, column in enumerate(columns)
    ]
    whole = script({"columns": columns, "values": values})
    return whole if len(whole.encode()) < ROOM else script({"columns": columns, "ask": asked.api()})


def _short(x: Any) -> Any:
    """Return a number with as many digits as a chart can show."""
    return float(f"{x:.7g}") if isinstance(x, float) else x
