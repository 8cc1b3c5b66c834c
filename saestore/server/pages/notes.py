"""What people say of features, as pages show it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from saestore.features.annotations import events_of, latest
from saestore.server.pages.drawing import page
from saestore.server.routes import ServedLake
from saestore.server.served import Opened
from saestore_schemas.annotations import AnnotationEvent


routes = APIRouter(include_in_schema=False)

LINES = 200
"""Features of an analysis that are listed, at most."""
_WORDS = 240
"""Characters of what is said of each, at most."""
_TAGS = 100
"""Tags that are offered, the most frequent ones."""
_SHOWN = {"interpretation", "description", "notes"}
"""Fields that are sentences."""


@dataclass(frozen=True)
class Summary:
    """What is said of one feature, in short.

    Attributes:
        feature: Which.
        bookmark: Somebody marked it.
        names: What it is called.
        words: What else is said of it.
        tags: Its tags.
        authors: Who says it.
        created: When the last of it was said, ISO 8601; empty if nothing is.
        fields: Fields that are said.
    """

    feature: int
    bookmark: bool
    names: tuple[str, ...]
    words: str
    tags: tuple[str, ...]
    authors: tuple[str, ...]
    created: str
    fields: frozenset[str]


def summary(events: Sequence[AnnotationEvent]) -> Summary:
    """Return what is said of a feature, in short."""
    values: dict[str, list[Any]] = {}
    for event in events:
        values.setdefault(event.field, []).append(event.value)
    tags = [tag for each in values.get("tag", ()) for tag in each]
    words = [text for field in _SHOWN for text in values.get(field, ())]
    return Summary(
        feature=events[0].feature if events else -1,
        bookmark="bookmark" in values,
        names=tuple(dict.fromkeys(values.get("name", ()))),
        words=_cut(" · ".join(words)),
        tags=tuple(dict.fromkeys(tags)),
        authors=tuple(dict.fromkeys(event.author for event in events)),
        created=max((event.created.isoformat() for event in events), default=""),
        fields=frozenset(values),
    )


@routes.get("/bookmarks")
def bookmarks(request: Request, served: ServedLake) -> Response:
    """Show the features that people said something about."""
    tag, only = (request.query_params.get(name, "") for name in ("tag", "only"))
    found: list[tuple[str, Sequence[Summary], int]] = []
    tags: dict[str, int] = {}
    for ref in served.lake.refs("features"):
        analysis = served.analysis(ref.name).analysis
        lines = list(_by_feature(events_of(analysis.annotations.current().to_pylist())))
        for line in lines:
            for each in line.tags:
                tags[each] = tags.get(each, 0) + 1
        wanted = [
            line
            for line in lines
            if (not tag or tag in line.tags) and (not only or only in line.fields)
        ]
        if wanted:
            found.append((ref.name, wanted[:LINES], len(wanted)))
    model = {
        "tag": tag,
        "only": only,
        "tags": sorted(tags.items(), key=lambda each: (-each[1], each[0]))[:_TAGS],
        "found": found,
        "annotate": served.settings.annotate,
    }
    return page(request, "bookmarks.html", model, crumbs=[("bookmarks and notes", "")])


def _cut(words: str) -> str:
    return words if len(words) <= _WORDS else f"{words[:_WORDS]}…"


def _by_feature(events: Iterable[AnnotationEvent]) -> Iterable[Summary]:
    groups: dict[int, list[AnnotationEvent]] = {}
    for event in events:
        groups.setdefault(event.feature, []).append(event)
    return (summary(group) for group in groups.values())


def summaries(opened: Opened, features: Iterable[int]) -> Mapping[int, Summary]:
    """Return what is said of each of some features, in short."""
    lines = opened.analysis.annotations.lines(features)
    return {feature: summary(latest(events_of(each))) for feature, each in lines.items()}
