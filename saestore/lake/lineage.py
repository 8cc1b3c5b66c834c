"""Who was made from whom: parents, children, and what a removal would orphan."""

from dataclasses import dataclass

from saestore.errors import DamagedArtefactError, FormatVersionError
from saestore.lake.lake import Lake
from saestore.lake.layout import Ref
from saestore_schemas.manifest import Parent


@dataclass(frozen=True)
class Node:
    """One artefact in a family tree.

    Attributes:
        ref: The artefact.
        fingerprint: Its fingerprint, or the one its child remembers when it is gone.
        state: `present`, `changed` (present with another fingerprint than the child remembers) or
            `missing`.
        parents: What it was made from.
    """

    ref: Ref
    fingerprint: str
    state: str
    parents: tuple["Node", ...]


def ancestors(lake: Lake, ref: Ref) -> Node:
    """Return the artefact with everything it was made from.

    Raises:
        ArtefactNotFoundError: The artefact itself is not there.
    """
    manifest = lake.manifest(ref)
    return _node(lake, ref, manifest.fingerprint)


def children(lake: Lake, ref: Ref) -> list[Ref]:
    """Return the artefacts that name this one as a parent, sorted by kind and name.

    One whose manifest cannot be read names none: it is only good for being removed.
    """
    return [
        each
        for each in lake.refs()
        if any(p.kind == ref.kind and p.name == ref.name for p in _parents(lake, each))
    ]


def inside(lake: Lake, ref: Ref) -> list[Ref]:
    """Return the artefacts that lie in the folder of this one, unfinished ones and damaged ones too."""
    every = [*lake.refs("interpretation"), *lake.refs("interpretation", unfinished=True)]
    return [each for each in every if each.path.startswith(f"{ref.path}/")]


def _parents(lake: Lake, ref: Ref) -> tuple[Parent, ...]:
    try:
        return lake.manifest(ref).parents
    except (DamagedArtefactError, FormatVersionError):
        return ()


def _node(lake: Lake, ref: Ref, remembered: str) -> Node:
    if ref not in lake.refs(ref.kind):
        return Node(ref, remembered, "missing", ())
    manifest = lake.manifest(ref)
    return Node(
        ref,
        manifest.fingerprint,
        "present" if manifest.fingerprint == remembered else "changed",
        tuple(_node(lake, Ref(p.kind, p.name), p.fingerprint) for p in manifest.parents),
    )
