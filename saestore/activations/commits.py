"""Commits: what is known about each finished shard of an unfinished store.

A commit is written last, after its shard's files, so a shard with a commit is whole. It remembers
where in the corpus the next shard begins, so the run after a `kill -9` continues there, and what all
shards so far amount to, so that run reads the last commit alone. It is never replaced: a second writer
that the lock could not see fails here instead of mixing two runs.
"""

import base64
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64, Shaped

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
class Totals:
    """What some shards hold together.

    Attributes:
        rows: Rows.
        kept: Rows that training and statistics use.
        contexts: Contexts that begin in them.
        segments: Segments of these.
        documents: Documents recorded with them.
        clipped: Values that int8 clipped.
    """

    rows: int = 0
    kept: int = 0
    contexts: int = 0
    segments: int = 0
    documents: int = 0
    clipped: int = 0

    def __add__(self, other: "Totals") -> "Totals":
        """Return what both hold."""
        mine, theirs = asdict(self), asdict(other)
        return Totals(**{name: mine[name] + theirs[name] for name in mine})


@dataclass(frozen=True)
class Commit:
    """One finished shard.

    Attributes:
        shard: Its number.
        total: What it and all shards before it hold.
        files: Size and checksum of each of its files.
        contexts: First row and length of the contexts that begin in it.
        segments: Context, start, length, document, token offset and character offset of their
            segments.
        moments: Of each hookpoint, over its kept rows.
        resume: Where the next shard begins.
        tally: What the caller wants to know when it resumes after this shard.
    """

    shard: int
    total: Totals
    files: dict[str, tuple[int, str]]
    contexts: Int64[np.ndarray, "context 2"]
    segments: Int64[np.ndarray, "segment 6"]
    moments: dict[str, Moments]
    resume: Cursor
    tally: dict[str, Any]


def write(artefact: Storage, commit: Commit) -> None:
    """Write a commit, durably, where none may be.

    Raises:
        ArtefactBusyError: The shard has a commit already: another process wrote it.
        StorageError: Disk full, read-only or quota.
    """
    record = asdict(commit)
    record["moments"] = {name: vars(moments) for name, moments in commit.moments.items()}
    data = json.dumps(record, default=_written).encode()
    try:
        artefact.create(layout.commit_file(commit.shard), data)
    except FileExistsError as error:
        raise ArtefactBusyError(
            name=f"shard {commit.shard} of {artefact.url}",
            owner="another process, which committed it first",
            age_s=0.0,
        ) from error


def count(artefact: Storage) -> int:
    """Return how many leading shards are finished, asking for a few commits only."""
    return artefact.count(layout.commit_file)


def read(artefact: Storage, shard: int) -> Commit:
    """Return the commit of one finished shard.

    Raises:
        DamagedArtefactError: It is missing.
    """
    path = layout.commit_file(shard)
    try:
        record = json.loads(artefact.read(path))
    except FileNotFoundError as error:
        raise _damaged(artefact, [f"{path}: missing"]) from error
    record["total"] = Totals(**record["total"])
    record["files"] = {p: (size, crc) for p, (size, crc) in record["files"].items()}
    record |= {name: _array(record[name]) for name in ("contexts", "segments")}
    record["moments"] = {n: _moments(each) for n, each in record["moments"].items()}
    record["resume"] = Cursor(**record["resume"])
    return Commit(**record)


def each(artefact: Storage, shards: int) -> Iterator[Commit]:
    """Yield the commits of the first shards, in order.

    Raises:
        DamagedArtefactError: One is missing.
    """
    return (read(artefact, shard) for shard in range(shards))


def last(artefact: Storage) -> Commit | None:
    """Return the commit after which a run continues; None if no shard is finished.

    Its own files are compared with what they should be. Those of all shards are when the store is
    finished, which has to list them: a run that continues asks for nothing that grows with the store.

    Raises:
        DamagedArtefactError: A file of its shard is missing or has another size.
    """
    finished = count(artefact)
    if not finished:
        return None
    commit = read(artefact, finished - 1)
    wrong = manifests.wrong_sizes(artefact, commit.files)
    if wrong:
        raise _damaged(artefact, wrong)
    return commit


def _damaged(artefact: Storage, wrong: list[str]) -> DamagedArtefactError:
    return DamagedArtefactError(name=artefact.url, damage=tuple(wrong), hint=manifests.UNFINISHED)


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


def _written(array: Shaped[np.ndarray, "..."]) -> dict[str, Any]:
    """Return an array as JSON holds it: bytes, for a flat import has as many contexts as rows."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    data = base64.b64encode(little.tobytes()).decode()
    return {"dtype": little.dtype.str, "shape": array.shape, "base64": data}


def _moments(record: dict[str, Any]) -> Moments:
    fields: dict[str, Any] = {
        name: _array(value) if isinstance(value, dict) else value for name, value in record.items()
    }
    return Moments(**fields)


def _array(record: dict[str, Any]) -> Shaped[np.ndarray, "..."]:
    values = np.frombuffer(base64.b64decode(record["base64"]), record["dtype"])
    return values.reshape(record["shape"])
