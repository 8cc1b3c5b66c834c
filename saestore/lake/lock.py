"""One writer per artefact: a lock file with owner and age, taken over when its owner is dead.

The lock is a create-only file that names host, process and the process's start time, so that a
recycled process id is not mistaken for a living owner. In an object store it is a lease: see `lease`.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from saestore.errors import ArtefactBusyError
from saestore.lake import layout, lease, owners
from saestore.lake.storage import Storage, make_folder, storage_errors


_WRITING_S = 60.0
"""A process has written its name into a file by then, or was killed."""


@contextmanager
def writing(artefact: Storage, *, name: str) -> Iterator[None]:
    """Hold the artefact's lock while the block runs.

    Raises:
        ArtefactBusyError: A living process holds it.
        StorageError: The folder cannot be written.
    """
    if artefact.local is None:
        with lease.holding(artefact, name=name):
            yield
        return
    path = artefact.path(layout.LOCK)
    with storage_errors(f"locking {path}"):
        make_folder(path.parent)
        while not _create(path):
            _take_over(path, name=name)
        _sweep(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Remove what processes left that were killed while they took the lock."""
    for left in path.parent.glob(f"{path.name}.*"):
        try:
            dead = owners.alive(json.loads(left.read_text())) is False
        except FileNotFoundError:
            continue  # its owner removed it
        except ValueError:  # killed while it wrote its name, or about to go on
            dead = time.time() - left.stat().st_mtime > _WRITING_S
        if dead:
            left.unlink(missing_ok=True)


def is_lock(name: str) -> bool:
    """Return whether a file in the progress folder belongs to the lock, which stays to the end."""
    return name.startswith(layout.LOCK.rpartition("/")[2].removesuffix(".json"))


def _create(path: Path) -> bool:
    # Linked into place whole: a lock that exists always says who owns it.
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(owners.me()))
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    return True


def _take_over(path: Path, *, name: str) -> None:
    try:
        owner = json.loads(path.read_text())
    except FileNotFoundError:
        return
    # Another machine's processes cannot be seen from here, and count as alive.
    alive = owners.alive(owner) is not False
    if alive:
        raise ArtefactBusyError(
            name=name,
            owner=owners.described(owner),
            age_s=time.time() - owner["since"],
        )
    # Renaming is atomic: of two processes taking over, one finds nothing left to rename.
    grave = path.with_name(f"{path.name}.dead.{os.getpid()}")
    try:
        path.rename(grave)
    except FileNotFoundError:
        return
    grave.unlink()
