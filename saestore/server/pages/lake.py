"""The first page: what the lake holds, its dictionaries with how good they are."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from saestore.errors import SaestoreError
from saestore.lake import KINDS, Lake, Ref
from saestore.numbers import count
from saestore.server import trained
from saestore.server.pages.drawing import page, path
from saestore.server.problems import problem_of
from saestore.server.routes import ServedLake
from saestore_schemas.manifest import Manifest
from saestore_schemas.names import ArtefactKind
from saestore_schemas.wire import DictionaryLine


routes = APIRouter(include_in_schema=False)

_WORDS: Mapping[ArtefactKind, str] = {
    "activations": "activation stores", "dictionary": "dictionaries", "evaluation": "evaluations",
    "features": "analyses", "interpretation": "interpretations", "sweep": "sweeps",
}  # fmt: skip
LINES = 200
"""Lines of a list, at most: SQL lists the others."""
_HOLDS = (
    "contexts",
    "rows",
    "steps",
    "d_sae",
    "features",
    "firings",
    "explanations",
    "dictionaries",
    "metrics",
)
"""Counts that say how much an artefact holds."""


@dataclass(frozen=True)
class Line:
    """One artefact of the lake.

    Attributes:
        kind: What it is.
        name: Its name.
        url: Its page; empty where it has none.
        note: Why nothing more is known of it; else empty.
        holds: How much it holds, in words.
        bytes: Its size.
        parents: What it was made from.
        created: When it was written, ISO 8601.
    """

    kind: str
    name: str
    url: str = ""
    note: str = ""
    holds: str = ""
    bytes: int = 0
    parents: tuple[str, ...] = ()
    created: str = ""

    @property
    def size(self) -> str:
        """Its size, in words."""
        return size(self.bytes)


@routes.get("/")
def lake(request: Request, served: ServedLake) -> Response:
    """Show what the lake holds."""
    lines = list(_lines(served.lake))
    counts = {kind: sum(line.kind == kind for line in lines) for kind in KINDS}
    url = served.lake.storage.full_url
    model: dict[str, Any] = {
        "name": url.rstrip("/").rpartition("/")[2] or url,
        "place": url,
        "figures": [
            *((words, count(counts[kind])) for kind, words in _WORDS.items() if counts[kind]),
            ("size", size(sum(line.bytes for line in lines))),
        ],
        "artefacts": lines[:LINES],
        "more": len(lines) - LINES,
        "dictionaries": [],
        "more_dictionaries": 0,
        "problem": None,
    }
    try:
        dictionaries = trained.lines(served.lake)
        model["dictionaries"] = list(map(_dictionary, dictionaries[:LINES]))
        model["more_dictionaries"] = len(dictionaries) - LINES
    except SaestoreError as error:  # the rest of the lake is shown all the same
        model["problem"] = problem_of(error)
    return page(request, "lake.html", model)


def _dictionary(line: DictionaryLine) -> Mapping[str, Any]:
    scores = {score.metric: score.value for score in line.scores}
    return {
        "name": f"{line.series}/{line.name}",
        "family": line.family,
        "reads": ", ".join(line.hookpoints_in),
        "n_features": line.n_features,
        "scores": {metric: scores.get(metric) for metric in trained.SHOWN},
        "analyses": line.analyses,
    }


def _lines(lake: Lake) -> Iterator[Line]:
    for kind in KINDS:
        for ref in lake.refs(kind):
            try:
                yield _line(ref, lake.manifest(ref))
            except SaestoreError as error:
                yield Line(kind, ref.name, note=error.message)
        for ref in lake.refs(kind, unfinished=True):
            yield Line(kind, ref.name, note="started and not finished: a rerun goes on")


def _line(ref: Ref, manifest: Manifest) -> Line:
    held = [f"{count(manifest.counts[name])} {name}" for name in _HOLDS if name in manifest.counts]
    return Line(
        kind=ref.kind,
        name=ref.name,
        url=url_of(ref),
        holds=", ".join(held),
        bytes=manifest.payload.bytes,
        parents=tuple(f"{parent.kind} {parent.name}" for parent in manifest.parents),
        created=manifest.created.isoformat(),
    )


HOMES: Mapping[ArtefactKind, tuple[str]] = {
    "dictionary": ("dictionaries",),
    "features": ("features",),
}
"""Kinds that have a page of their own, and where it is."""


def url_of(ref: Ref) -> str:
    """Return the page of an artefact."""
    return path(*HOMES.get(ref.kind, ("artefacts", ref.kind)), ref.name)


_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_STEP = 1024


def size(n: int) -> str:
    """Return a number of bytes in words.

    >>> size(999), size(21269334)
    ('999 B', '20.3 MiB')
    """
    x, unit = float(n), 0
    while x >= _STEP and unit + 1 < len(_UNITS):
        x, unit = x / _STEP, unit + 1
    return f"{x:.0f} B" if unit == 0 else f"{x:.1f} {_UNITS[unit]}"
