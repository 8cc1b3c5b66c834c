"""A dictionary: how good it is, how it was trained, and its features in a list."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.responses import HTMLResponse, RedirectResponse

from saestore.features import Filter, ListingLine
from saestore.features.listing import EXPLANATION_SCORE
from saestore.lake import Ref
from saestore.report import artefact_documents, artefacts, charts
from saestore.report.document import Document
from saestore.server.pages import listing
from saestore.server.pages.drawing import Crumb, draw, drawn, page, path
from saestore.server.pages.listing import State
from saestore.server.pages.notes import summaries
from saestore.server.pages.training import curves, fitting
from saestore.server.routes import Segment, ServedLake
from saestore.server.served import Opened, Served
from saestore.words import unreadable


routes = APIRouter(include_in_schema=False)

_WORDS = 300
"""Characters of an explanation in the list, at most."""
_OPS = {"≥": ">=", "≤": "<=", "≠": "!="}


@routes.get("/dictionaries/{series}/{name}")
def dictionary(request: Request, served: ServedLake, series: Segment, name: Segment) -> Response:
    """Show a dictionary, with its first analysis if it has any."""
    whole = f"{series}/{name}"
    analyses = analyses_of(served, whole)
    if analyses:
        chosen = f"{whole}/default" if f"{whole}/default" in analyses else analyses[0]
        return RedirectResponse(path("features", chosen), 303)
    model = {**_trained(served, whole), "name": "", "analyses": []}
    return page(request, "dictionary.html", model, crumbs=[(whole, "")])


@routes.get("/features/{series}/{name}/{analysis}")
def features(
    request: Request, served: ServedLake, series: Segment, name: Segment, analysis: Segment
) -> Response:
    """Show the features of an analysis; with `rows`, the lines of its list alone."""
    opened = served.analysis(f"{series}/{name}/{analysis}")
    given = request.query_params
    if given.get("bound", "").strip() and given.get("condition"):
        return RedirectResponse(_with_condition(opened, request), 303)
    state = State.of(given)
    found = opened.table.listing(state.query, opened.texts())
    model: dict[str, Any] = {
        "state": state,
        "name": opened.analysis.ref.name,
        "lines": _lines(opened, found.lines),
        "first": state.query.offset,
        "explained": bool(opened.table.explained.texts),
    }
    if "rows" in given:
        return HTMLResponse(draw(request, "_rows.html", model))
    whole = f"{series}/{name}"
    seen = opened.overview
    model |= {
        "total": found.total,
        "jump": _jump(opened, state.query.search),
        "n_features": opened.analysis.n_features,
        "statistics": listing.STATISTICS,
        "analyses": analyses_of(served, whole),
        "overview": seen,
        "unreadable": unreadable(opened.analysis.interpretations.unreadable),
        "densities": drawn(charts.densities(seen.densities)),
        "provenance": opened.analysis.provenance,
        **_trained(served, whole),
    }
    return page(request, "dictionary.html", model, crumbs=crumbs(opened.analysis.ref.name)[:1])


@routes.get("/features/{series}/{name}/{analysis}/random")
def random(
    request: Request, served: ServedLake, series: Segment, name: Segment, analysis: Segment
) -> Response:
    """Go to a feature of the list, drawn by `seed`, or by the clock."""
    opened = served.analysis(f"{series}/{name}/{analysis}")
    state = State.of(request.query_params)
    seed = listing.whole(request.query_params.get("seed", ""), listing.by_the_clock())
    feature = opened.table.random(state.query, seed, opened.texts())
    where = path("features", opened.analysis.ref.name)
    return RedirectResponse(
        f"{where}{state.place}" if feature is None else f"{where}/{feature}{state.place}",
        303,
        {"Cache-Control": "no-store"},
    )


def analyses_of(served: Served, dictionary: str) -> list[str]:
    """Return the names of the analyses of a dictionary."""
    names = (ref.name for ref in served.lake.refs("features"))
    return [name for name in names if name.startswith(f"{dictionary}/")]


def crumbs(analysis: str) -> list[Crumb]:
    """Return where the features of an analysis lie."""
    dictionary, _, name = analysis.rpartition("/")
    return [(dictionary, path("dictionaries", dictionary)), (name, path("features", analysis))]


def _lines(opened: Opened, lines: Sequence[ListingLine]) -> list[Mapping[str, Any]]:
    """Return lines of the list, with what people call the features."""
    said = summaries(opened, [line.feature for line in lines])
    return [
        {
            "feature": line.feature,
            "statistics": {**line.statistics, EXPLANATION_SCORE: line.explanation_score},
            "explanation": None if line.explanation is None else line.explanation[:_WORDS],
            "top_token": line.top_token,
            "promotes": line.promotes,
            "names": "; ".join(said[line.feature].names),
            "bookmark": said[line.feature].bookmark,
        }
        for line in lines
    ]


def _jump(opened: Opened, search: str) -> int | None:
    """Return the feature whose number was searched; None where there is none."""
    feature = listing.whole(search.strip(), -1)
    return feature if 0 <= feature < opened.analysis.n_features else None


def _with_condition(opened: Opened, request: Request) -> str:
    """Return the address of the list with one more condition."""
    given = request.query_params
    op = given.get("op", "")
    bound = given["bound"].strip()
    more = Filter.parse(f"{given['condition']}{_OPS.get(op, op)}{bound}")
    state = State.of(given)
    filters = (*state.query.filters, more)
    return path("features", opened.analysis.ref.name) + state.address(filters=filters, offset=0)


def _trained(served: Served, name: str) -> dict[str, Any]:
    """Return what is known of a dictionary; of one that was removed, its name."""
    if Ref("dictionary", name) not in served.lake.refs("dictionary"):
        note = "the dictionary itself is no longer in the lake"
        said = Document(name, note, (), (), (), "")
    else:
        said = artefact_documents.document(
            artefacts.dictionary(served.lake, Ref("dictionary", name))
        )
    return {
        "dictionary": name,
        "summary": said.summary,
        "figures": said.figures,
        "sheets": fitting(said.sheets),
        "curves": list(curves(said.plots)),
        "foot": said.foot,
    }
