"""One writer per artefact: a lock file with owner and age, taken over when its owner is dead.

The lock is a create-only file that names host, process and the process's start time, so that a
recycled process id is not mistaken for a living owner.
"""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from saestore.errors import ArtefactBusyError
from saestore.lake import layout
from saestore.lake.storage import Storage, storage_errors


@contextmanager
def writing(artefact: Storage, *, name: str) -> Iterator[None]:
    """Hold the artefact's lock while the block runs.

    Raises:
        ArtefactBusyError: A living process holds it.
        StorageError: The folder cannot be written.
    """
    path = artefact.path(layout.LOCK)
    with storage_errors(f"locking {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        while not _create(path):
            _take_over(path, name=name)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _create(path: Path) -> bool:
    owner = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "since": time.time(),
    }
    # Linked into place whole: a lock that exists always says who owns it.
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(owner))
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
    if owner["host"] == socket.gethostname():
        alive = _started(owner["pid"]) == owner["started"] and owner["started"] is not None
    else:
        alive = True  # another machine's processes cannot be seen from here
    if alive:
        raise ArtefactBusyError(
            name=name,
            owner=f"process {owner['pid']} on {owner['host']}",
            age_s=time.time() - owner["since"],
        )
    # Renaming is atomic: of two processes taking over, one finds nothing left to rename.
    grave = path.with_name(f"{path.name}.dead.{os.getpid()}")
    try:
        path.rename(grave)
    except FileNotFoundError:
        return
    grave.unlink()


def _started(pid: int) -> str | None:
    """Return what tells this process from a later one with the same id; None if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return None
        try:  # no /proc here: existence is all that can be asked
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            return "running"
        return "running"
    return stat.rsplit(")", 1)[1].split()[19]
