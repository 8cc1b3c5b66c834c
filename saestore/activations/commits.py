"""Commits: what is known about each finished shard of an unfinished store.

A commit is written last, after its shard's files, so a shard with a commit is whole. It remembers
where in the corpus the next shard begins, so the run after a `kill -9` continues there. It is never
replaced: a second writer that the lock could not see fails here instead of mixing two runs.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

from saestore.activations.moments import Moments
from saestore.errors import ArtefactBusyError, DamagedArtefactError
from saestore.lake import Storage, layout, manifest as manifests
from saestore.lake.lock import is_lock


@dataclass(frozen=True)
class Cursor:
    """A place in the corpus.

    Attributes:
        block: Block of documents.
        batch: Forward batch within the block; the number of its batches if none is left.
        skip: Rows of that batch which belong to earlier shards.
    """

    block: int
    batch: int
    skip: int = 0


@dataclass(frozen=True)
class Commit:
    """One finished shard.

    Attributes:
        shard: Its number.
        rows: Its rows.
        files: Size and checksum of each of its files.
        contexts: First row and length of the contexts that begin in it.
        segments: Context, start, length, document, token offset and character offset of their
            segments.
        documents: Documents recorded with it.
        moments: Of each hookpoint, over its kept rows.
        clipped: Values that int8 clipped.
        resume: Where the next shard begins.
        tally: What the caller wants to know when it resumes after this shard.
    """

    shard: int
    rows: int
    files: dict[str, tuple[int, str]]
    contexts: Int64[np.ndarray, "context 2"]
    segments: Int64[np.ndarray, "segment 6"]
    documents: int
    moments: dict[str, Moments]
    clipped: int
    resume: Cursor
    tally: dict[str, Any]


def write(artefact: Storage, commit: Commit) -> None:
    """Write a commit, durably, where none may be.

    Raises:
        ArtefactBusyError: The shard has a commit already: another process wrote it.
        StorageError: Disk full, read-only or quota.
    """
    record = asdict(commit)
    record["moments"] = {name: _listed(vars(m)) for name, m in commit.moments.items()}
    try:
        artefact.create(layout.commit_file(commit.shard), json.dumps(_listed(record)).encode())
    except FileExistsError as error:
        raise ArtefactBusyError(
            name=f"shard {commit.shard} of {artefact.url}",
            owner="another process, which committed it first",
            age_s=0.0,
        ) from error


def read_all(artefact: Storage) -> list[Commit]:
    """Return the commits of the leading shards; what comes after a gap is not counted.

    Raises:
        DamagedArtefactError: A file of a committed shard is missing or has another size.
    """
    commits: list[Commit] = []
    wrong: list[str] = []
    while artefact.exists(path := layout.commit_file(len(commits))):
        record = json.loads(artefact.read(path))
        record["files"] = {p: (size, crc) for p, (size, crc) in record["files"].items()}
        wrong += manifests.wrong_sizes(artefact, record["files"])
        record["contexts"] = np.array(record["contexts"], np.int64).reshape(-1, 2)
        record["segments"] = np.array(record["segments"], np.int64).reshape(-1, 6)
        record["moments"] = {n: _moments(m) for n, m in record["moments"].items()}
        record["resume"] = Cursor(**record["resume"])
        commits.append(Commit(**record))
    if wrong:
        raise DamagedArtefactError(
            name=artefact.url,
            damage=tuple(wrong),
            hint="restore these files, or remove the unfinished artefact and make it again",
        )
    return commits


def clear(artefact: Storage) -> None:
    """Remove an unfinished store without a finished shard: it holds nothing that could be kept.

    Otherwise a run that failed at once, over a misspelt hookpoint say, would occupy the name with
    its settings. The caller holds the lock, which stays.

    Raises:
        DamagedArtefactError: There are files and no trace of an unfinished run: a finished store
            whose manifest was lost, or something that is not ours. They are not touched.
    """
    if artefact.exists(layout.MANIFEST) or artefact.exists(layout.commit_file(0)):
        return
    if not artefact.exists(layout.RUN):
        strange = [p for p in artefact.files() if not p.startswith(f"{layout.PROGRESS}/")]
        if strange:
            raise DamagedArtefactError(
                name=artefact.url,
                damage=(f"{layout.MANIFEST}: missing, beside {len(strange)} other files",),
                hint="restore the manifest, or remove the folder, or choose another name",
            )
        return
    for name in artefact.names():
        if name != layout.PROGRESS:
            artefact.remove(name)
    for name in artefact.names(layout.PROGRESS):
        if not is_lock(name):
            artefact.remove(f"{layout.PROGRESS}/{name}")


def _listed(record: dict[str, Any]) -> dict[str, Any]:
    # JSON writes float64 with the shortest digits that read back as the same number.
    return {
        key: value.tolist() if isinstance(value, np.ndarray) else value
        for key, value in record.items()
    }


def _moments(record: dict[str, Any]) -> Moments:
    fields: dict[str, Any] = {
        key: np.array(value, np.int64 if key == "norms" else np.float64)
        if isinstance(value, list)
        else value
        for key, value in record.items()
    }
    return Moments(**fields)
