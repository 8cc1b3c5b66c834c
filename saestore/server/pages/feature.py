"""One feature, and two beside one another."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from markupsafe import Markup
from starlette.responses import HTMLResponse

from saestore.errors import QueryError, SaestoreError
from saestore.features import Analysis, FeatureOverlap, FeaturePage, feature_overlap
from saestore.numbers import count, value
from saestore.report import explained, feature_section, passages, said
from saestore.server.answers import known, tag_of
from saestore.server.pages.dictionary import crumbs
from saestore.server.pages.drawing import draw, drawn, page, path, script
from saestore.server.pages.listing import State
from saestore.server.pages.notes import summary
from saestore.server.problems import problem_of
from saestore.server.routes import ANALYSIS, VERSION, Segment, ServedLake
from saestore.server.routes.features import FeatureNumber
from saestore.server.served import Opened, Served


routes = APIRouter(include_in_schema=False)

ROOM = 40_000
"""Bytes of the contexts of each of two features, at most: both pages together stay below 200 kB."""
_SHARED = 4
"""Contexts in which both fire that are shown."""
_AROUND = 20
"""Tokens on each side of a peak there."""
_NEAR = 12
"""Features that are offered to be compared with."""


@routes.get("/features/{series}/{name}/{analysis}/{feature}")
def feature(
    request: Request,
    served: ServedLake,
    series: Segment,
    name: Segment,
    analysis: Segment,
    feature: FeatureNumber,
) -> Response:
    """Show a feature; what stands before and after it is as in the list that led here."""
    opened = served.analysis(f"{series}/{name}/{analysis}")
    opened.analysis.check(feature)
    tag = tag_of(request, (*opened.about, str(served.settings.annotate)))
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if known(request, tag):
        return Response(status_code=304, headers=headers)
    state = State.of(request.query_params)
    found = served.page(opened, feature)
    model = {
        **_side(found, opened.analysis.ref.name, state),
        **_around(opened, feature, state),
        **_notes(served, found),
        "state": state,
        "title": drawn(feature_section.title(found)),
        "foot": _foot(found),
    }
    whole = crumbs(opened.analysis.ref.name)
    text = draw(request, "feature.html", model, crumbs=[*whole, (str(feature), "")])
    return HTMLResponse(text, headers=headers)


def _side(
    found: FeaturePage, name: str, state: State | None, room: int | None = None
) -> dict[str, Any]:
    """Return what is drawn of a feature."""
    place = "" if state is None else state.place

    def link(other: int) -> str:
        return f'<a href="{path("features", name, other)}{escape(place)}">{other}</a>'

    columns = feature_section.columns(found, link, room=room or feature_section.EXAMPLES)
    return {
        "page": found,
        "name": name,
        "names": summary(found.annotations).names,
        "title": drawn(feature_section.title(found)),
        "fires": drawn(feature_section.fires(found)),
        "figures": drawn(feature_section.figures(found)),
        "explained": drawn(explained.explanations(found)),
        "columns": drawn(columns),
        "reads": passages.READ in columns,
        "below": passages.BELOW in columns,
    }


def _around(opened: Opened, feature: int, state: State) -> dict[str, Any]:
    """Return where a feature stands in the list that led here, and what is beside it."""
    listed = opened.table.features(state.query, opened.texts())
    found = np.flatnonzero(listed == feature)
    at = int(found[0]) if len(found) else None
    query = state.query
    return {
        "place": at,
        "total": len(listed),
        "by": "" if query.sort == "feature" and not query.descending else f"by {query.sort}",
        "back": max(0, (at or 0) - 5),
        "before": int(listed[at - 1]) if at else None,
        "after": int(listed[at + 1]) if at is not None and at + 1 < len(listed) else None,
    }


def _notes(served: Served, found: FeaturePage) -> dict[str, Any]:
    where = ANALYSIS.format(series=found.series, name=found.dictionary, analysis=found.analysis)
    current: dict[str, dict[str, Any]] = {}
    for event in found.annotations:
        current.setdefault(event.author, {})[event.field] = event.value
    return {
        "annotate": served.settings.annotate,
        "said": drawn(said.annotations(found)),
        "said_json": script(current),
        "write_to": f"{VERSION}{where}/features/{found.feature}/annotations",
    }


def _foot(found: FeaturePage) -> str:
    origin = found.provenance
    parents = "; ".join(f"{each} ({mark[:16]})" for each, mark in origin.parents.items())
    return (
        f"features/{found.series}/{found.dictionary}/{found.analysis}, fingerprint "
        f"{origin.fingerprint[:16]}, written {origin.created}; made from {parents}. "
        "Every number is one of its tables."
    )


@routes.get("/compare")
def compare(request: Request, served: ServedLake) -> Response:
    """Show two features beside one another: `a` and `b` are `series/name/analysis/feature`."""
    given = request.query_params
    a, b = given.get("a", "").strip(), given.get("b", "").strip()
    if b.isascii() and b.isdecimal():
        b = f"{a.rpartition('/')[0]}/{b}"
    model: dict[str, Any] = {"a": a, "b": b, "left": None, "right": None, "near": [], "facts": []}
    model |= {"told": "", "shared": [], "problem": None}
    status = 200
    try:
        if a:
            one = _named(served, a)
            model["left"] = _side(*one, None, ROOM)
            model["near"] = [] if b else list(_near(*one))
            if b:
                other = _named(served, b)
                model["right"] = _side(*other, None, ROOM)
                model |= _together(served, one, other)
    except SaestoreError as error:
        model["problem"] = problem_of(error)
        status = model["problem"].status
    return page(request, "compare.html", model, crumbs=[("two features", "")], status=status)


_Found = tuple[FeaturePage, str]
"""A feature, and the name of its analysis."""


def _named(served: Served, name: str) -> _Found:
    """Return the feature that `series/name/analysis/feature` means, and its analysis.

    Raises:
        QueryError: It is no such name.
        SaestoreError: There is no such feature or analysis.
    """
    analysis, _, feature = name.rpartition("/")
    if analysis.count("/") != 2 or not (feature.isascii() and feature.isdecimal()):  # noqa: PLR2004
        raise QueryError(
            f"{name!r} is no feature",
            found=name,
            expected="series/name/analysis/feature",
            hint="for example: demo/topk-32/default/7",
        )
    opened = served.analysis(analysis)
    return served.page(opened, int(feature)), opened.analysis.ref.name


def _near(found: FeaturePage, name: str) -> Iterator[Mapping[str, Any]]:
    """Return the features that are most like one, each once."""
    seen: dict[int, str] = {}
    for near in found.neighbours:
        seen.setdefault(near.feature, f"{near.method.replace('_cos', '')} cosine {near.score:.2f}")
    for other in found.coactive:
        seen.setdefault(other.feature, f"phi {other.phi:.2f}")
    for feature, words in list(seen.items())[:_NEAR]:
        yield {"feature": feature, "name": f"{name}/{feature}", "words": words}


def _together(served: Served, one: _Found, other: _Found) -> dict[str, Any]:
    """Return how two features of one analysis go together, and contexts in which both fire."""
    (left, name), (right, elsewhere) = one, other
    said: dict[str, Any] = {"facts": [], "told": "", "shared": []}
    if name != elsewhere:
        return said | {"told": "They are of different analyses: rows of both are not counted."}
    if left.feature == right.feature:
        return said | {"told": "It is the same feature twice."}
    facts = [
        (f"{near.method.partition('_')[0]}oder cosine", f"{near.score:.3f}")
        for near in left.neighbours
        if near.feature == right.feature
    ]
    if not left.keeps_firings:
        found = [each for each in left.coactive if each.feature == right.feature]
        facts += [(f"phi, on {count(each.n_rows)} rows", f"{each.phi:.3f}") for each in found]
        told = "No firings were kept: of most pairs it is not known how they go together."
        return said | {"facts": facts, "told": told}
    analysis = served.analysis(name).analysis
    overlap = feature_overlap(analysis, left.feature, right.feature)
    shared = list(_shared(analysis, overlap, left, right))
    return said | {"facts": [*facts, *_counted(overlap)], "shared": shared}


def _counted(overlap: FeatureOverlap) -> Iterator[tuple[str, str]]:
    """Yield what is known of two features' firings."""
    yield "rows of both", count(overlap.n_both)
    yield "contexts of both", count(overlap.n_contexts)
    shown = {
        "Jaccard": overlap.jaccard,
        "phi": overlap.phi,
        "lift": overlap.lift,
        "correlation of values, where both fire": overlap.correlation,
    }
    yield from ((words, value(x)) for words, x in shown.items() if x is not None)


def _shared(
    analysis: Analysis, overlap: FeatureOverlap, left: FeaturePage, right: FeaturePage
) -> Iterator[Sequence[Markup]]:
    """Yield contexts in which both fire, each as one of the features sees it and as the other does."""
    if not overlap.strongest:
        return
    found = analysis.passages(overlap.strongest[:_SHARED])
    sides = [
        [
            passages.figure(
                example.cut(_AROUND), each.max, f"{each.feature} · context {example.context}"
            )
            for example in found.examples(each.feature, None, width=None, ranked=False)
        ]
        for each in (left, right)
    ]
    yield from ([drawn(a), drawn(b)] for a, b in zip(*sides, strict=True))
