"""What the lake holds, and where it came from."""

from typing import Annotated

from fastapi import Depends, Path, Request, Response

from saestore.errors import DamagedArtefactError, FormatVersionError
from saestore.lake import KINDS, Ref, layout, lineage
from saestore.lake.lineage import Node
from saestore.server.answers import RELEASE, json_response, tagged
from saestore.server.problems import refused
from saestore.server.routes import ServedLake, router
from saestore.server.served import Served, tag_of
from saestore_schemas.manifest import Manifest
from saestore_schemas.names import NAME_PATTERN, ArtefactKind
from saestore_schemas.wire import (
    Ancestor,
    ArtefactLine,
    ArtefactLines,
    Lineage,
    Relative,
    ServerFacts,
)


routes = router("lake")


@routes.get("/server", response_model=ServerFacts)
def server(served: ServedLake) -> Response:
    """Return what this server is and does."""
    settings = served.settings
    return json_response(
        ServerFacts(
            version=RELEASE,
            live=None if served.live is None else served.live.model,
            annotate=settings.annotate,
            sql_seconds=settings.sql_seconds,
            sql_rows=settings.sql_rows,
            live_chars=settings.live_chars,
        )
    )


@routes.get("/artefacts", response_model=ArtefactLines)
def artefacts(served: ServedLake, kind: ArtefactKind | None = None) -> Response:
    """Return what the lake holds, unfinished runs last within their kind."""
    return json_response(ArtefactLines(artefacts=artefact_lines(served, kind)))


def artefact_lines(served: Served, kind: ArtefactKind | None = None) -> tuple[ArtefactLine, ...]:
    """Return a line of each artefact."""
    lake = served.lake
    return tuple(
        ArtefactLine(kind=ref.kind, name=ref.name, finished=False)
        if unfinished
        else _line(served, ref)
        for each in (KINDS if kind is None else (kind,))
        for unfinished in (False, True)
        for ref in lake.refs(each, unfinished=unfinished)
    )


def _line(served: Served, ref: Ref) -> ArtefactLine:
    """Return the line of what has a manifest: one that is damaged does not hide the others."""
    try:
        manifest = served.lake.manifest(ref)
    except DamagedArtefactError as error:
        damage = "; ".join(error.damage)
    except FormatVersionError as error:
        damage = error.message
    else:
        return ArtefactLine(
            kind=ref.kind,
            name=ref.name,
            finished=True,
            created=manifest.created.isoformat(),
            fingerprint=manifest.fingerprint,
            bytes=manifest.payload.bytes,
            counts=dict(manifest.counts),
        )
    return ArtefactLine(kind=ref.kind, name=ref.name, finished=True, damage=damage)


Name = Annotated[
    str,
    Path(
        pattern=f"{NAME_PATTERN[:-1]}(/{NAME_PATTERN[1:-1]}){{0,3}}$",
        description="Name of an artefact, as the list says it; of most kinds with slashes.",
    ),
]


def ref_of(kind: ArtefactKind, name: Name) -> Ref:
    """Return the artefact that a path names.

    Raises:
        Refused: Artefacts of this kind have names with more or fewer parts.
    """
    parts, wanted = name.count("/") + 1, layout.DEPTH[kind]
    if parts != wanted:
        raise refused(
            404,
            f"no {kind} is called {name!r}: its name has {wanted} parts",
            found=name,
            expected=f"{wanted} words with slashes between",
            hint="GET /api/v1/artefacts lists the names",
        )
    return Ref(kind, name)


Named = Annotated[Ref, Depends(ref_of)]
"""The artefact that a path names."""


@routes.get("/artefacts/{kind}/{name:path}", response_model=Manifest)
def manifest(request: Request, served: ServedLake, ref: Named) -> Response:
    """Return the manifest of an artefact."""
    found = served.lake.manifest(ref)
    return tagged(request, served.kept, (tag_of(found),), lambda: found)


@routes.get("/lineage/{kind}/{name:path}", response_model=Lineage)
def family(served: ServedLake, ref: Named) -> Response:
    """Return where an artefact comes from, and what comes from it."""
    root = _ancestor(lineage.ancestors(served.lake, ref))
    children = tuple(
        Relative(kind=child.kind, name=child.name) for child in lineage.children(served.lake, ref)
    )
    return json_response(Lineage(artefact=root, children=children))


def _ancestor(node: Node) -> Ancestor:
    return Ancestor(
        kind=node.ref.kind,
        name=node.ref.name,
        fingerprint=node.fingerprint,
        state=node.state,
        parents=tuple(map(_ancestor, node.parents)),
    )
