"""The dictionaries of the lake: how good each is, how it was trained, and its analyses."""

from typing import Annotated

from fastapi import Query, Request, Response

from saestore.lake import Ref
from saestore.server import trained
from saestore.server.answers import json_response, tagged
from saestore.server.routes import Segment, ServedLake, router
from saestore.server.served import tag_of
from saestore_schemas.wire import (
    AnalysisLines,
    CurveAnswers,
    DictionaryAnswer,
    DictionaryLines,
)


routes = router("dictionaries")

Metrics = Annotated[
    list[Annotated[str, Query(max_length=200)]],
    Query(alias="metric", description="A metric; may be repeated.", max_length=50),
]


@routes.get("/dictionaries", response_model=DictionaryLines)
def dictionaries(served: ServedLake) -> Response:
    """Return the dictionaries of the lake."""
    return json_response(DictionaryLines(dictionaries=trained.lines(served.lake)))


@routes.get("/dictionaries/{series}/{name}", response_model=DictionaryAnswer)
def dictionary(served: ServedLake, series: Segment, name: Segment) -> Response:
    """Return one dictionary with every score of its evaluations."""
    return json_response(trained.whole(served.lake, f"{series}/{name}"))


@routes.get("/dictionaries/{series}/{name}/metrics", response_model=CurveAnswers)
def metrics(
    request: Request,
    served: ServedLake,
    series: Segment,
    name: Segment,
    wanted: Metrics = [],  # noqa: B006 - FastAPI copies it
) -> Response:
    """Return metrics over the training run: their names, and the curves of those asked for."""
    ref = Ref("dictionary", f"{series}/{name}")
    manifest = served.lake.manifest(ref)

    return tagged(
        request,
        served.kept,
        (tag_of(manifest),),
        lambda: trained.curves(served.lake, ref.name, wanted),
    )


@routes.get("/dictionaries/{series}/{name}/analyses", response_model=AnalysisLines)
def analyses(served: ServedLake, series: Segment, name: Segment) -> Response:
    """Return the analyses of a dictionary."""
    return json_response(AnalysisLines(analyses=trained.analyses(served.lake, f"{series}/{name}")))
