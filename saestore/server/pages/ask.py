"""Questions in SQL: saved ones and one's own, with the answer as a table and a chart."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from markupsafe import Markup

from saestore.errors import SaestoreError
from saestore.features import NamedQuery, Take, named_queries, stream, stream_named
from saestore.features.views import KEYS, VIEWS
from saestore.numbers import count, value
from saestore.server import tables
from saestore.server.pages.drawing import page, path, script
from saestore.server.problems import Refused, problem_of
from saestore.server.routes import ServedLake
from saestore.server.served import Served
from saestore_schemas.wire import TableAnswer


routes = APIRouter(include_in_schema=False)

LINES = 500
"""Rows of an answer that a page shows; a chart has all of them."""
CHARTED = 5_000
"""Rows that a chart has, at most."""
_CELL = 300
"""Characters of a cell, at most."""


@routes.get("/sql")
async def sql(request: Request, served: ServedLake) -> Response:
    """Show a question and, if this server's own page or nobody else's led here, its answer."""
    given = request.query_params
    query = named_queries().get(given.get("query", ""))
    params = {name[2:]: text for name, text in given.items() if name.startswith("p.") and text}
    names = [ref.name for ref in served.lake.refs("features")]
    on = given.get("on") or (names[0] if names else "")
    asked = bool(given.get("sql")) or (query is not None and _complete(query, params, given))
    elsewhere = asked and from_elsewhere(request)
    model: dict[str, Any] = {
        "queries": list(named_queries().values()),
        "views": VIEWS,
        "query": query,
        "given": params,
        "analyses": names,
        "on": on,
        "sql": given.get("sql", ""),
        "seconds": served.settings.sql_seconds,
        "rows": served.settings.sql_rows,
        "asked_elsewhere": elsewhere,
        "answer": None,
        "problem": None,
    }
    status = 200
    if asked and not elsewhere:
        try:
            found = await _asked(served, query, given.get("sql", ""), params, on)
            model["answer"] = _answer(found, on if query is not None else "")
        except SaestoreError as error:
            model["problem"] = problem_of(error)
        except Refused as error:
            model["problem"] = error.problem
    if model["problem"] is not None:
        status = model["problem"].status
    crumbs = [("SQL", "/sql" if query else ""), *([(query.name, "")] if query else ())]
    return page(request, "sql.html", model, crumbs=crumbs, status=status)


async def _asked(
    served: Served, query: NamedQuery | None, text: str, params: Mapping[str, str], on: str
) -> TableAnswer:
    """Return the answer to a saved question, or to one's own."""
    limits = tables.limits(served.settings)

    def ask(take: Take[TableAnswer]) -> TableAnswer:
        if query is None:
            return stream(served.lake, text, take, limits=limits)
        return stream_named(served.lake, query.name, take, params, analysis=on, limits=limits)

    return await served.sql_turns.take(lambda: tables.answered(served.settings, None, ask))


def from_elsewhere(request: Request) -> bool:
    """Return whether a page of another site led here: it must not make this one compute.

    Browsers say so (`Sec-Fetch-Site`); an address that was typed or kept has no page before it.
    """
    return request.headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}


def _complete(query: NamedQuery, params: Mapping[str, str], given: Mapping[str, str]) -> bool:
    """Return whether a saved question has all that it needs, and its form was sent."""
    sent = not query.params or any(name.startswith("p.") for name in given)
    return sent and all(each.default is not None or each.name in params for each in query.params)


def _answer(found: TableAnswer, analysis: str) -> dict[str, Any]:
    """Return an answer as the page draws it."""
    columns = [{"name": column.name, "number": _is_number(column.type)} for column in found.columns]
    names = [column.name for column in found.columns]
    keys = [names.index(key) for key in KEYS] if set(KEYS) <= set(names) else []
    shown = len(found.rows)
    said = f"{count(shown)} {'row' if shown == 1 else 'rows'} in {value(round(found.seconds, 3))} s"
    notes = [f"the first {count(LINES)} are listed"] if shown > LINES else []
    if found.truncated:
        notes.append("there are more rows than this server gives at once")
    return {
        "said": f"{said}{', and there are more' if found.truncated else ''}",
        "columns": columns,
        "lines": [
            [
                {
                    "words": _words(cell),
                    "number": column["number"],
                    "url": _leads(str(column["name"]), cell, analysis, [row[n] for n in keys]),
                }
                for cell, column in zip(row, columns, strict=True)
            ]
            for row in found.rows[:LINES]
        ],
        "json": _chart(found, columns),
        "more": "; ".join(notes),
    }


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


def _chart(found: TableAnswer, columns: list[dict[str, Any]]) -> Markup | str:
    """Return what a chart is drawn from; nothing where there are no numbers to draw."""
    if len(found.rows) < 2 or not any(column["number"] for column in columns):  # noqa: PLR2004
        return ""
    rows = found.rows[:CHARTED]
    data = {
        "columns": columns,
        "values": [
            [row[n] if column["number"] else _words(row[n])[:40] for row in rows]
            for n, column in enumerate(columns)
        ],
    }
    return script(data)
