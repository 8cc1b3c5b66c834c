"""Checkpoints of a training run by name: `series/name@step`, or `series/name@latest`.

They exist while a run is under way, and afterwards as far as its settings keep them. Each carries
the checksums of its files, so a whole one can be told from a broken one without a manifest.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import crc32c
from pydantic import JsonValue

from saestore.errors import ArtefactNotFoundError, DamagedArtefactError
from saestore.lake import layout, manifest as manifests
from saestore.lake.lake import Lake
from saestore.lake.layout import Ref
from saestore.lake.storage import Storage
from saestore_schemas.manifest import Parent
from saestore_schemas.names import ArtefactKind


AT = "@"
"""What stands between a dictionary's name and a step."""
LATEST = "latest"


def named(name: str) -> bool:
    """Return whether a name is that of a checkpoint."""
    return AT in name


def dictionary_of(name: str) -> Ref:
    """Return the dictionary that a name means, or that a checkpoint of that name is of."""
    whole = name.partition(AT)[0]
    return Ref("dictionary", whole.removeprefix(f"{layout.FOLDERS['dictionary']}/"))


def numbered(lake: Lake, name: str) -> str:
    """Return a name with `latest` said as a step; other names are returned as they are."""
    there = steps(lake.artefact(dictionary_of(name))) if name.endswith(f"{AT}{LATEST}") else []
    return f"{name.partition(AT)[0]}{AT}{there[-1]}" if there else name


def beside(kind: ArtefactKind, dictionary: str, name: str) -> Ref:
    """Return where lies what is made of a dictionary: of a checkpoint beside it, with the step.

    Args:
        kind: Of what is made.
        dictionary: `series/name` or `series/name@step`.
        name: The name that its settings give it.
    """
    of, at, step = dictionary.partition(AT)
    return Ref(kind, f"{of}/{name}{'-step' if at else ''}{step}")


@dataclass(frozen=True)
class Made:
    """What made a dictionary, said by its manifest or by the run that is not finished yet.

    Attributes:
        name: Its name, without a checkpoint's step.
        settings: The settings of its verb.
        parents: What it was made from.
        fingerprint: Digest of both.
    """

    name: str
    settings: dict[str, JsonValue]
    parents: tuple[Parent, ...]
    fingerprint: str

    @classmethod
    def of(cls, name: str, lake: Lake) -> "Made":
        """Return what made a dictionary, or the one that a checkpoint is of.

        Raises:
            ArtefactNotFoundError: There is none of that name; the nearest are given.
            IncompleteArtefactError: It is not finished, and no checkpoint of it was named.
        """
        ref = dictionary_of(name)
        artefact = lake.artefact(ref)
        run = artefact.exists(layout.RUN) and not artefact.exists(layout.MANIFEST)
        if named(name) and run:
            found = manifests.started(artefact, ref)
            return cls(ref.name, found.settings, found.parents, found.fingerprint)
        manifest = lake.manifest(ref)
        return cls(ref.name, manifest.settings, tuple(manifest.parents), manifest.fingerprint)

    @property
    def parent(self) -> Parent:
        """The record by which what is made of it names it."""
        return Parent(kind="dictionary", name=self.name, fingerprint=self.fingerprint)


def find(lake: Lake, name: str, files: Sequence[str]) -> Storage:
    """Return the folder of a checkpoint whose files are as they were written.

    Args:
        lake: The lake.
        name: `series/name@step` or `series/name@latest`.
        files: Which files to check.

    Raises:
        ArtefactNotFoundError: There is no such checkpoint.
        DamagedArtefactError: A file of it is missing or does not match its checksum.
    """
    ref, step = dictionary_of(name), name.partition(AT)[2]
    artefact = lake.artefact(ref)
    there = steps(artefact)
    wanted = there[-1] if step == LATEST and there else int(step) if step.isdigit() else None
    if wanted not in there:
        raise ArtefactNotFoundError(
            kind="checkpoint",
            name=name,
            looked=lake.storage.url,
            hint=f"{ref.name} has checkpoints at {', '.join(map(str, there))}"
            if there
            else f"{ref.name} has none: they are kept by checkpoints.keep = 'all' or a number",
        )
    folder = artefact.child(layout.checkpoint_folder(wanted))
    wrong = damage(folder, files)
    if wrong:
        raise DamagedArtefactError(name=name, damage=tuple(wrong))
    return folder


def steps(artefact: Storage) -> list[int]:
    """Return the steps of all checkpoints of a dictionary, ascending."""
    return sorted(map(layout.checkpoint_step, artefact.names(layout.CHECKPOINTS)))


def damage(folder: Storage, files: Sequence[str] | None = None) -> list[str]:
    """Return one line per file of a checkpoint that is not as it was written.

    Args:
        folder: The checkpoint's.
        files: Which; None, all.
    """
    try:
        checksums: dict[str, str] = record(folder)["checksums"]
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        return [f"{layout.CHECKPOINT_STATE}: {error!r}"]
    wrong = []
    for name in checksums if files is None else files:
        try:
            found = manifests.checksum_text(crc32c.crc32c(folder.read(name)))
        except FileNotFoundError:
            found = "missing"
        if found != checksums.get(name):
            wrong.append(f"{name}: {found}, expected {checksums.get(name)}")
    return wrong


def record(folder: Storage) -> dict[str, Any]:
    """Return what a checkpoint says about itself: fingerprint, checksums, plain values."""
    found: dict[str, Any] = json.loads(folder.read(layout.CHECKPOINT_STATE))
    return found
