"""A folder on a local disk that keeps what was read of remote artefacts, up to a cap.

    <cache>/<digest of the artefact's file list>/<file, digested>/<first byte>-<bytes>

Only payload of finished artefacts is kept, which never changes: one made anew with other bytes has
another file list. An entry is a chunk, which ends in its own crc32c, and appears whole, by rename:
several processes may share the folder, and a damaged entry counts as absent. When the cap is
exceeded, what was not read for the longest time goes. Deleting the folder is always safe.
"""

import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import crc32c

from saestore.lake.storage import TEMPORARY
from saestore_schemas.settings import MachineSettings


_CRC = 4
_SLACK = 16
"""The cap may be exceeded by one part in so many, per process, before entries are removed."""
_LOCK = ".lock"
_SHARE = 0.9
"""What is left of the cap after a removal."""


class Cache:
    """Ranges of immutable files, kept on a local disk."""

    def __init__(self, folder: Path, *, cap_bytes: int) -> None:
        """Use a folder, made when something is kept.

        Args:
            folder: Where.
            cap_bytes: The most that entries may take.
        """
        self.folder = folder
        self.cap_bytes = cap_bytes
        self._written = 0

    @classmethod
    def chosen(cls) -> "Cache | None":
        """Return the cache that `SAESTORE_CACHE` and `SAESTORE_CACHE_GIB` describe, if any."""
        machine = MachineSettings()
        if machine.cache is None:
            return None
        return cls(Path(machine.cache).expanduser(), cap_bytes=int(machine.cache_gib * 2**30))

    def get(self, content: str, path: str, start: int, length: int) -> memoryview | None:
        """Return a range if it is kept, whole and undamaged."""
        entry = self._entry(content, path, start, length)
        try:
            data = entry.read_bytes()
            os.utime(entry)
        except OSError:
            return None
        if len(data) != length or not _whole(data):
            entry.unlink(missing_ok=True)
            return None
        return memoryview(data)

    def put(self, content: str, path: str, start: int, data: bytes | memoryview) -> None:
        """Keep a range, unless it is damaged; a full disk keeps nothing, and is no error."""
        if not _whole(data):
            return
        entry = self._entry(content, path, start, len(data))
        draft = entry.with_name(f"{TEMPORARY}{secrets.token_hex(4)}")
        try:
            entry.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("wb") as file:
                file.write(data)
            draft.replace(entry)
        except OSError:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            return
        self._written += len(data)
        if self._written * _SLACK > self.cap_bytes:
            self._written = 0
            self.shrink()

    def held(self) -> tuple[int, int]:
        """Return how many entries there are, and their bytes."""
        sizes = [size for _, size, _ in self._entries()]
        return len(sizes), sum(sizes)

    def shrink(self) -> None:
        """Remove the entries that were not read for the longest time, if the cap is exceeded."""
        with self._alone() as alone:
            if not alone:  # another process is at it
                return
            entries = sorted(self._entries())
            total = sum(size for _, size, _ in entries)
            if total <= self.cap_bytes * (1 - 1 / _SLACK):
                return
            for _, size, path in entries:
                if total <= self.cap_bytes * _SHARE:
                    break
                Path(path).unlink(missing_ok=True)
                total -= size

    def _entry(self, content: str, path: str, start: int, length: int) -> Path:
        name = hashlib.sha256(path.encode()).hexdigest()[:32]
        return self.folder / content / name / f"{start}-{length}"

    def _entries(self) -> Iterator[tuple[int, int, str]]:
        """Return time of last use, size and path of every entry."""
        for folder, _, names in os.walk(self.folder):
            for name in names:
                path = os.path.join(folder, name)  # noqa: PTH118 - many, and pathlib is slow
                try:
                    facts = os.stat(path)  # noqa: PTH116 - likewise
                except FileNotFoundError:
                    continue
                if name != _LOCK:
                    yield facts.st_mtime_ns, facts.st_size, path

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        with (self.folder / _LOCK).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True


def _whole(data: bytes | memoryview) -> bool:
    """Return whether bytes end in the crc32c of those before."""
    view = memoryview(data)
    return crc32c.crc32c(view[:-_CRC]) == int.from_bytes(view[-_CRC:], "little")
