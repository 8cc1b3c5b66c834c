"""The lake: a folder of artefacts, found by kind and name."""

import os
from dataclasses import dataclass
from typing import get_args

from saestore.errors import ArtefactNotFoundError
from saestore.lake import layout, manifest as manifests
from saestore.lake.layout import Ref
from saestore.lake.storage import Storage
from saestore_schemas.manifest import Manifest
from saestore_schemas.names import ArtefactKind


KINDS: tuple[ArtefactKind, ...] = get_args(ArtefactKind)
"""All kinds of artefact, in the order they are made."""


@dataclass(frozen=True)
class Lake:
    """A lake at a place. Opening one touches nothing; it need not exist yet."""

    storage: Storage

    @classmethod
    def at(cls, url: str | os.PathLike[str]) -> "Lake":
        """Return the lake at a local path or fsspec URL."""
        return cls(Storage.at(url))

    def artefact(self, ref: Ref) -> Storage:
        """Return the folder of an artefact, whether or not it exists."""
        return self.storage.child(ref.path)

    def refs(self, kind: ArtefactKind | None = None, *, unfinished: bool = False) -> list[Ref]:
        """Return the artefacts of one kind, or all, sorted by name.

        Args:
            kind: Which kind; None for all kinds.
            unfinished: Return instead those that were started and have no manifest.
        """
        wanted = layout.PROGRESS if unfinished else layout.MANIFEST
        found = []
        for each in KINDS if kind is None else (kind,):
            names = [""]
            for _ in range(layout.DEPTH[each]):
                names = [
                    f"{name}/{child}".lstrip("/")
                    for name in names
                    for child in self.storage.names(layout.inside(each, name))
                    if not child.startswith(".")
                ]
            for name in names:
                inside = self.storage.names(layout.inside(each, name))
                if wanted in inside and not (unfinished and layout.MANIFEST in inside):
                    found.append(Ref(each, name))
        return found

    def manifest(self, ref: Ref) -> Manifest:
        """Return an artefact's manifest.

        Raises:
            ArtefactNotFoundError: Nothing has that name; the nearest names are given.
            IncompleteArtefactError: It was started and not finished.
        """
        artefact = self.artefact(ref)
        if not artefact.exists(layout.MANIFEST) and not artefact.exists(layout.PROGRESS):
            raise ArtefactNotFoundError(
                kind=ref.kind,
                name=ref.name,
                looked=self.storage.url,
                known=tuple(each.name for each in self.refs(ref.kind)),
            )
        return manifests.load(artefact, ref)

    def find(self, name: str) -> Ref:
        """Return the artefact that a name means: with its kind's folder, or bare if unambiguous.

        Raises:
            ArtefactNotFoundError: None or several have that name.
        """
        name = name.strip("/")
        everything = [*self.refs(), *self.refs(unfinished=True)]
        exact = [ref for ref in everything if name in {ref.path, ref.name}]
        if len(exact) == 1:
            return exact[0]
        if exact:
            raise ArtefactNotFoundError(
                kind="artefact",
                name=name,
                looked=self.storage.url,
                hint=f"several have that name; say which: {', '.join(r.path for r in exact)}",
            )
        raise ArtefactNotFoundError(
            kind="artefact",
            name=name,
            looked=self.storage.url,
            known=tuple(ref.path for ref in everything) + tuple(ref.name for ref in everything),
        )
