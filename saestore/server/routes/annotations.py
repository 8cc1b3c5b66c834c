"""What people say about features: read by all, written where the server was started to allow it."""

from collections.abc import Iterable
from typing import Annotated

from fastapi import Query, Request, Response

from saestore.features.annotations import events_of
from saestore.server.answers import json_response, tagged
from saestore.server.problems import refused
from saestore.server.routes import ANALYSIS, Analysed, ServedLake, router
from saestore.server.routes.features import FeatureNumber
from saestore_schemas.annotations import AnnotationEvent, AnnotationField
from saestore_schemas.wire import AnnotationEvents, AskedToSay


routes = router("annotations")

SOURCE = "server"
"""By which way it comes."""

History = Annotated[bool, Query(description="Every event instead of what holds now.")]
Fields = Annotated[
    AnnotationField | None, Query(description="This field alone, such as `bookmark`.")
]


@routes.get(f"{ANALYSIS}/annotations", response_model=AnnotationEvents)
def annotations(
    request: Request,
    served: ServedLake,
    opened: Analysed,
    *,
    history: History = False,
    field: Fields = None,
) -> Response:
    """Return what people say now about the features of an analysis, or everything they ever said."""
    log = opened.analysis.annotations

    def found() -> AnnotationEvents:
        lines = log.events().sort_by("event_id") if history else log.current()
        return _events(events_of(lines.to_pylist()), field)

    return tagged(request, served.kept, opened.about, found)


@routes.get(f"{ANALYSIS}/features/{{feature}}/annotations", response_model=AnnotationEvents)
def of_feature(
    request: Request,
    served: ServedLake,
    opened: Analysed,
    feature: FeatureNumber,
    *,
    history: History = False,
    field: Fields = None,
) -> Response:
    """Return what people say now about a feature, or everything they ever said."""
    opened.analysis.check(feature)
    log = opened.analysis.annotations

    def found() -> AnnotationEvents:
        if not history:
            return _events(log.of(feature), field)
        return _events(events_of(log.events(feature).sort_by("event_id").to_pylist()), field)

    return tagged(request, served.kept, opened.about, found)


@routes.post(f"{ANALYSIS}/features/{{feature}}/annotations", response_model=AnnotationEvents)
def say(served: ServedLake, opened: Analysed, feature: FeatureNumber, said: AskedToSay) -> Response:
    """Write what somebody says about a feature into the lake, all at once; return the events."""
    if not served.settings.annotate:
        raise refused(
            403,
            "annotations are not written here",
            expected="a server that allows it",
            hint="start it with `saestore serve --annotate`",
        )
    log = opened.analysis.annotations
    values = {str(field): value for field, value in said.values.items()}
    events = log.say({feature: values}, author=said.author, source=SOURCE)
    return json_response(AnnotationEvents(annotations=events))


def _events(events: Iterable[AnnotationEvent], field: AnnotationField | None) -> AnnotationEvents:
    kept = tuple(event for event in events if field is None or event.field == field)
    return AnnotationEvents.model_construct(annotations=kept)
