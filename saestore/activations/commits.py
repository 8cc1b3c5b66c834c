"""Commits: what is known about each finished shard of an unfinished store.

A commit is written last, after its shard's files, so a shard with a commit is whole. It remembers
where in the corpus the next shard begins, so the run after a `kill -9` continues there.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from saestore.activations.moments import Moments
from saestore.lake import Storage, layout


@dataclass(frozen=True)
class Cursor:
    """A place in the corpus.

    Attributes:
        block: Block of documents.
        batch: Forward batch within the block.
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
        resume: Where the next shard begins.
        tally: Running counts of the caller, as of the end of this shard.
    """

    shard: int
    rows: int
    files: dict[str, tuple[int, str]]
    contexts: list[list[int]]
    segments: list[list[int]]
    documents: int
    moments: dict[str, Moments]
    resume: Cursor
    tally: dict[str, int]


def write(artefact: Storage, commit: Commit) -> None:
    """Write a commit, durably."""
    record = asdict(commit)
    record["moments"] = {name: _listed(m) for name, m in commit.moments.items()}
    artefact.write(layout.commit_file(commit.shard), json.dumps(record).encode())


def read_all(artefact: Storage) -> list[Commit]:
    """Return the commits of the leading shards; what comes after a gap is not counted."""
    commits: list[Commit] = []
    while artefact.exists(path := layout.commit_file(len(commits))):
        record = json.loads(artefact.read(path))
        record["files"] = {p: (size, crc) for p, (size, crc) in record["files"].items()}
        record["moments"] = {n: _moments(m) for n, m in record["moments"].items()}
        record["resume"] = Cursor(**record["resume"])
        commits.append(Commit(**record))
    return commits


def _listed(moments: Moments) -> dict[str, Any]:
    # JSON writes float64 with the shortest digits that read back as the same number.
    return {
        key: value.tolist() if isinstance(value, np.ndarray) else value
        for key, value in vars(moments).items()
    }


def _moments(record: dict[str, Any]) -> Moments:
    fields: dict[str, Any] = {
        key: np.array(value, np.float64) if isinstance(value, list) else value
        for key, value in record.items()
    }
    return Moments(**fields)
