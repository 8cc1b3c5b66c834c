"""A lock in an object store: objects that are created only where none is, and a heartbeat.

`lock.json` names its owner and a token of its own. Who finds the owner dead creates
`lock-TOKEN.json`, which names him as the owner after the one with that token; of several who try, the
store lets one. The last of such a chain holds the lock. So a lock is never overwritten by another,
and nothing depends on two objects changing together.

An owner on this machine is dead when its process is. One elsewhere renews its object every so often
and counts as dead when it has not for much longer; both times are the store's own, so clocks that
differ do no harm.
"""

import json
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from saestore.errors import ArtefactBusyError, StorageError
from saestore.lake import layout, owners
from saestore.lake.storage import Storage


RENEWED = 60.0
"""Seconds between heartbeats."""
_HELD: set[str] = set()
"""Tokens of the locks that this process holds: one it could not let go of is not among them."""
DEAD = 600.0
"""Seconds after which an owner on another machine that gave no sign counts as dead."""


@contextmanager
def holding(artefact: Storage, *, name: str) -> Iterator[None]:
    """Hold a remote artefact's lock while the block runs.

    Raises:
        ArtefactBusyError: A living process holds it, or one that may be living.
        StorageError: The store cannot be written.
    """
    me = {**owners.me(), "token": secrets.token_hex(8)}
    chain = _acquire(artefact, me, name=name)
    _HELD.add(me["token"])
    done = threading.Event()
    heart = threading.Thread(
        target=_beat, args=(artefact, chain[-1], me, done), name="saestore-lock", daemon=True
    )
    heart.start()
    try:
        yield
    finally:
        done.set()
        heart.join()
        _HELD.discard(me["token"])
        # Unreachable now: the lock names a dead process, and is taken over when it is found.
        with suppress(StorageError):
            for path in chain:  # the first one first: without it, the others mean nothing
                artefact.remove(path)


def _acquire(artefact: Storage, me: dict[str, Any], *, name: str) -> list[str]:
    """Return the objects of the lock, the last of them ours."""
    chain: list[str] = []
    path = layout.LOCK
    while True:
        chain.append(path)
        try:
            artefact.create(path, json.dumps(me).encode())
        except FileExistsError:
            owner = _read(artefact, path)
            if owner is None:  # let go at this moment
                chain.clear()
                path = layout.LOCK
                continue
            if owner["token"] == me["token"]:  # created, and the answer was lost
                return chain
            following = layout.lock_after(owner["token"])
            if _read(artefact, following) is None:
                _must_be_dead(artefact, path, owner, name=name)
            path = following
        else:
            return chain


def _must_be_dead(artefact: Storage, path: str, owner: dict[str, Any], *, name: str) -> None:
    alive = owners.alive(owner)
    if alive and owner["pid"] == os.getpid():
        alive = owner["token"] in _HELD
    silent = 0.0
    if alive is None:
        silent = _silence(artefact, path)
        alive = silent < DEAD
    if alive:
        raise ArtefactBusyError(
            name=name,
            owner=owners.described(owner),
            age_s=owners.me()["since"] - owner["since"],
            hint=f"wait for it, or stop it; if it is dead already, its lock is taken over "
            f"{DEAD / 60:.0f} minutes after its last sign of life, {silent:.0f} s ago now"
            if silent
            else "",
        )


def _read(artefact: Storage, path: str) -> dict[str, Any] | None:
    try:
        owner: dict[str, Any] = json.loads(artefact.read(path))
    except FileNotFoundError:
        return None
    return owner


def _silence(artefact: Storage, path: str) -> float:
    """Return how many seconds ago an object was written, by the store's own clock."""
    probe = f"{layout.PROGRESS}/lock-probe-{secrets.token_hex(4)}"
    artefact.write(probe, b"")
    try:
        now, then = artefact.modified(probe), artefact.modified(path)
    finally:
        artefact.remove(probe)
    return 0.0 if now is None or then is None else (now - then).total_seconds()


def _beat(artefact: Storage, path: str, me: dict[str, Any], done: threading.Event) -> None:
    while not done.wait(RENEWED):
        # A store that cannot be reached will stop the run by itself, or come back.
        with suppress(StorageError):
            artefact.write(path, json.dumps(me).encode())
