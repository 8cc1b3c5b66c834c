"""Bytes at a place: a local folder or any fsspec URL.

Local writes are durable and never half-visible: temporary name, fsync, rename, fsync of the folder.
Objects are made in a local scratch folder and put whole: a store shows an object when all of it is
there, and replaces whole objects by themselves.
"""

import errno
import hashlib
import os
import secrets
import shutil
import tempfile
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from saestore.errors import StorageError
from saestore.lake import remote


TEMPORARY = ".tmp-"
"""Prefix of unfinished files; whatever bears it may be removed."""

_HINTS = {
    errno.ENOSPC: "the disk is full: free space and run the same command again; what was finished "
    "stays",
    errno.EDQUOT: "the quota is used up: free space and run the same command again",
    errno.EROFS: "the file system is read-only: choose another --lake or folder",
    errno.EACCES: "permission was refused: check its owner, or choose another --lake or folder",
    errno.EPERM: "permission was refused: check its owner, or choose another --lake or folder",
    errno.ENAMETOOLONG: "the file system takes no name so long: choose a shorter one",
}


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Turn the operating system's errors into ours, naming what was being done.

    Raises:
        StorageError: Disk full, read-only, quota, permission or a name that is too long.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, StorageError) or error.errno not in _HINTS:
            raise
        message = f"{what}: {os.strerror(error.errno)}"
        raise StorageError(message, found=error.errno, hint=_HINTS[error.errno]) from error


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, where it is not there.

    Raises:
        StorageError: It cannot be made, for whatever reason.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        # no such file, where all folders above are: a file system that takes none, such as /proc
        raise StorageError(
            f"making the folder {folder}: {os.strerror(error.errno or errno.EIO)}",
            found=error.errno,
            hint=_HINTS.get(
                error.errno or errno.EIO, "no folder can be made there: choose another"
            ),
        ) from error


@dataclass(frozen=True)
class Storage:
    """A folder, local or remote, and the files below it by relative path."""

    url: str
    fs: Any = field(repr=False, compare=False)

    @classmethod
    def at(cls, url: str | os.PathLike[str]) -> "Storage":
        """Return the folder at a path or fsspec URL; nothing is touched.

        Raises:
            MissingExtraError: The URL's protocol needs a package that is not installed.
            StorageError: No protocol has that name.
        """
        fs, path = remote.connect(os.fspath(url))
        return cls(url=path.rstrip("/") or "/", fs=fs)

    @property
    def local(self) -> Path | None:
        """The folder as a local path, or None when it is remote."""
        return Path(self.url) if isinstance(self.fs, LocalFileSystem) else None

    def child(self, path: str) -> "Storage":
        """Return a folder below this one."""
        return Storage(url=self.join(path), fs=self.fs)

    def join(self, path: str) -> str:
        """Return the full path of a file below this folder."""
        return f"{self.url}/{path}" if path else self.url

    @property
    def full_url(self) -> str:
        """The folder with its protocol, as other programs open it; a plain path if it is local."""
        return self.url if self.local is not None else str(self.fs.unstrip_protocol(self.url))

    def path(self, path: str = "") -> Path:
        """Return a local path below this folder.

        Raises:
            StorageError: The storage is remote.
        """
        if self.local is None:
            message = f"{self.url} is remote; this operation needs a local folder"
            raise StorageError(message, hint="work in a local lake, then copy it")
        return self.local / path

    def scratch(self, path: str = "") -> Path:
        """Return a local path for working files: below this folder, or for a remote one below TMPDIR.

        It is the same in every process of this machine, so the next run finds and removes what a
        killed one left; see `drop_scratch`.
        """
        if self.local is not None:
            return self.local / path
        place = f"{os.environ.get('AWS_ENDPOINT_URL', '')} {self.full_url}"
        name = hashlib.sha256(place.encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"saestore-{os.getuid()}" / name / path

    def drop_scratch(self) -> None:
        """Remove the working files of a remote folder."""
        if self.local is None:
            shutil.rmtree(self.scratch(), ignore_errors=True)

    def _errors(self, what: str) -> AbstractContextManager[None]:
        if self.local is not None:
            return storage_errors(f"{what} {self.full_url}")
        return remote.remote_errors(what, self.full_url)

    def exists(self, path: str = "") -> bool:
        """Return whether a file or folder exists."""
        with self._errors("looking into"):
            try:
                self.fs.info(self.join(path))
            except (FileNotFoundError, NotADirectoryError):
                return False
            return True

    def count(self, path_of: Callable[[int], str]) -> int:
        """Return how many files there are that are numbered from 0 without a gap.

        Some twenty are asked for where there are thousands; nothing is listed.

        Args:
            path_of: Path of the file with a number.
        """

        def missing(number: int) -> bool:
            return not self.exists(path_of(number))

        beyond = 1
        while not missing(beyond - 1):
            beyond *= 2
        return bisect_left(range(beyond), True, beyond // 2, beyond - 1, key=missing)  # noqa: FBT003

    def size(self, path: str) -> int | None:
        """Return a file's size in bytes, or None if it is not there."""
        with self._errors("looking into"):
            try:
                return int(self.fs.info(self.join(path))["size"])
            except FileNotFoundError:
                return None

    def modified(self, path: str) -> datetime | None:
        """Return when a file was written, by the clock of whoever keeps it; None if it is gone."""
        with self._errors("looking into"):
            try:
                return self.fs.modified(self.join(path))  # type: ignore[no-any-return]
            except FileNotFoundError:
                return None

    def sizes(self) -> dict[str, int]:
        """Return the size of every file below this folder by its path, temporaries left out.

        One listing, however many files: what a question for each would take on an object store.
        """
        prefix = self.url.rstrip("/") + "/"
        with self._errors("listing"):
            found = self.fs.find(self.url, detail=True)
        return {
            str(path).removeprefix(prefix): int(info["size"])
            for path, info in sorted(found.items())
            if not str(path).rsplit("/", 1)[-1].startswith(TEMPORARY)
        }

    def read(self, path: str) -> bytes:
        """Return a file's bytes.

        Raises:
            FileNotFoundError: It is not there.
        """
        with self._errors("reading from"):
            if self.local is not None:
                return bytes(self.fs.cat_file(self.join(path)))
            try:  # with a range, or the store would first be asked how long it is
                return bytes(self.fs.cat_file(self.join(path), start=0, end=None))
            except FileNotFoundError:
                raise
            except OSError:  # nothing has no range
                return bytes(self.fs.cat_file(self.join(path)))

    def names(self, path: str = "") -> list[str]:
        """Return the sorted names directly inside a folder; none if it is not there."""
        with self._errors("listing"):
            try:
                entries = self.fs.ls(self.join(path), detail=False)
            except NotADirectoryError:
                return []
            except FileNotFoundError as error:
                if remote.no_bucket(error):
                    raise
                return []
        return sorted(str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in entries)

    def files(self, path: str = "") -> list[str]:
        """Return the sorted relative paths of all files below a folder, temporaries left out."""
        base = self.join(path)
        prefix = self.url.rstrip("/") + "/"
        with self._errors("listing"):
            found = [str(entry) for entry in self.fs.find(base)]
        return sorted(
            entry.removeprefix(prefix)
            for entry in found
            if not entry.rsplit("/", 1)[-1].startswith(TEMPORARY)
        )

    def write(self, path: str, *parts: bytes | memoryview) -> None:
        """Write a file whole: it has the old bytes or the new ones, never a part.

        Args:
            path: Where.
            parts: Its bytes, one part after the other; on a disk they are never copied together.

        Raises:
            StorageError: Disk full, read-only, quota or permission.
        """
        if self.local is None:
            with remote.remote_errors("writing", self.child(path).full_url, writing=True):
                self.fs.pipe_file(self.join(path), b"".join(parts))
            return
        with (
            storage_errors(f"writing {self.join(path)}"),
            self.replacing(path) as temporary,
            temporary.open("wb") as file,
        ):
            file.writelines(parts)

    def create(self, path: str, data: bytes) -> None:
        """Write a file whole where none may be: of several writers at once, one succeeds.

        Raises:
            FileExistsError: There is one.
            StorageError: Disk full, read-only, quota or permission; or the store is unreachable.
        """
        if self.local is None:
            with remote.remote_errors("writing", self.child(path).full_url, writing=True):
                remote.create(self.fs, self.join(path), data)
            return
        target = self.local / path
        draft = target.with_name(f"{TEMPORARY}{secrets.token_hex(4)}-{target.name}")
        with storage_errors(f"writing {target}"):
            make_folder(target.parent)
            try:
                with draft.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.link(draft, target)
                sync_folder(target.parent)
            finally:
                draft.unlink(missing_ok=True)

    @contextmanager
    def replacing(self, path: str) -> Iterator[Path]:
        """Give a temporary local path; on leaving, the file there takes the place of `path`.

        Locally it is synced and renamed; for a remote folder it is uploaded, whole. On an error the
        temporary file is removed and the old file stays.

        Raises:
            StorageError: Disk full, read-only, quota or permission; or the store is unreachable.
        """
        place = self.local if self.local is not None else self.scratch()
        target = place / path
        with storage_errors(f"writing {target}"):
            make_folder(target.parent)
            temporary = target.with_name(f"{TEMPORARY}{secrets.token_hex(4)}-{target.name}")
            try:
                yield temporary
                if self.local is None:
                    with remote.remote_errors("writing", self.child(path).full_url, writing=True):
                        remote.upload(self.fs, temporary, self.join(path))
                    temporary.unlink()
                    return
                descriptor = os.open(temporary, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                temporary.replace(target)
                sync_folder(target.parent)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise

    def move(self, source: str, target: str) -> None:
        """Give a folder another name, where nothing is; on an object store its files one by one."""
        if self.local is not None:
            with storage_errors(f"writing {self.join(target)}"):
                make_folder((self.local / target).parent)
                (self.local / source).rename(self.local / target)
                sync_folder((self.local / target).parent)
            return
        with self._errors("moving files in"):
            for path in self.files(source):
                self.fs.mv(self.join(path), self.join(target + path.removeprefix(source)))

    def remove(self, path: str = "") -> None:
        """Remove a file or a folder with everything in it; nothing happens if it is not there."""
        if self.local is not None:
            target = self.local / path if path else self.local
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
            return
        with self._errors("removing from"):
            if self.exists(path):
                self.fs.rm(self.join(path), recursive=True)
            if path == "":
                self.drop_scratch()

    def remove_temporaries(self, *, beside: str) -> None:
        """Remove what a killed writer left under temporary names, at any depth.

        Args:
            beside: Folder that is left alone: other processes may be writing in it.
        """
        if self.local is None:
            self.drop_scratch()
            return
        for folder, below, names in os.walk(self.local):
            below[:] = [name for name in below if Path(folder, name) != self.local / beside]
            for name in names:
                if name.startswith(TEMPORARY):
                    Path(folder, name).unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
