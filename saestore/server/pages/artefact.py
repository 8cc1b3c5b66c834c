"""One artefact of any kind: where it comes from, what came from it, its settings and what it found out."""

from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from markupsafe import Markup

from saestore.errors import ArtefactNotFoundError
from saestore.fingerprint import leaves
from saestore.lake import Lake, Ref, lineage
from saestore.lake.lineage import Node
from saestore.numbers import count, value
from saestore.report import artefact_documents, artefacts, charts, interpretation_page
from saestore.report.document import Document, Sheet
from saestore.report.interpretation_page import InterpretationPage
from saestore.server.pages.drawing import drawn, page, path
from saestore.server.pages.lake import size, url_of
from saestore.server.pages.training import curves, fitting
from saestore.server.routes import ServedLake
from saestore_schemas.names import ArtefactKind


routes = APIRouter(include_in_schema=False)


@routes.get("/artefacts/{kind}/{name:path}")
def artefact(request: Request, served: ServedLake, kind: ArtefactKind, name: str) -> Response:
    """Show an artefact."""
    ref = Ref(kind, name)
    there = served.lake.refs(kind)
    if ref not in there:  # a name from an address leads to no file before it is known
        known = tuple(each.name for each in there)
        raise ArtefactNotFoundError(
            kind=kind, name=name, looked=served.lake.storage.url, known=known
        )
    manifest = served.lake.manifest(ref)
    said = _document(served.lake, ref)
    drawn_scores: list[Markup] = []
    if kind == "interpretation":
        run = interpretation_page.interpretation(served.lake, ref)
        said = artefact_documents.interpretation(run)
        drawn_scores = list(_distributions(run))
    facts = tuple((each, str(x)) for each, x in leaves(manifest.facts))
    folded = (
        Sheet("What it found out", ("fact", "value"), tuple(sorted(facts))),
        Sheet("Settings", ("setting", "value"), tuple(sorted(leaves(manifest.settings)))),
    )
    counted = {words.replace("_", " "): count(n) for words, n in manifest.counts.items()}
    model: dict[str, Any] = {
        "kind": kind,
        "name": name,
        "figures": {**counted, **dict(said.figures), "size": size(manifest.payload.bytes)},
        "created": manifest.created.isoformat(),
        "fingerprint": manifest.fingerprint,
        "parents": list(_ancestors(lineage.ancestors(served.lake, ref))),
        "children": [_linked(each) for each in lineage.children(served.lake, ref)],
        "arrays": [
            (each, " × ".join(map(count, info.shape)), info.dtype)
            for each, info in manifest.arrays.items()
        ],
        "curves": list(curves(said.plots)),
        "drawn_scores": drawn_scores,
        "home": "" if url_of(ref) == path("artefacts", kind, name) else url_of(ref),
        "sheets": fitting(said.sheets),
        "folded": fitting([each for each in folded if each.rows]),
    }
    return page(request, "artefact.html", model, crumbs=[(f"{kind} {name}", "")])


def _document(lake: Lake, ref: Ref) -> Document:
    """Return what a report says of it, of the kinds that have something to say."""
    if ref.kind == "sweep":
        return artefact_documents.document(artefacts.sweep(lake, ref))
    sheets: tuple[Sheet, ...] = ()
    figures: tuple[tuple[str, str], ...] = ()
    if ref.kind == "evaluation":
        found = artefacts.evaluation(lake, ref)
        known = {score.metric: score.value for score in found.scores}
        figures = tuple(
            (words, value(known[metric]))
            for metric, words in artefact_documents.HEADLINES.items()
            if metric in known
        )
        sheets = (artefact_documents.scores(found),)
    return Document(ref.name, "", figures, (), sheets, "")


def _distributions(run: InterpretationPage) -> Iterator[Markup]:
    """Yield how the scores of each explainer are distributed, by each scorer."""
    for each in run.judged:
        title = f"Scores of {each.explainer} by {each.scorer}"
        yield drawn(charts.histogram(each.distribution, title, "explanations"))


def _ancestors(node: Node, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """Yield what it was made from, each with how far it is away."""
    for parent in node.parents:
        state = "" if parent.state == "present" else parent.state
        yield {**_linked(parent.ref), "depth": depth, "state": state}
        yield from _ancestors(parent, depth + 1)


def _linked(ref: Ref) -> Mapping[str, Any]:
    return {"words": f"{ref.kind} {ref.name}", "url": url_of(ref)}
