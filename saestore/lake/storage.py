"""Bytes at a place: a local folder or any fsspec URL.

Local writes are durable and never half-visible: temporary name, fsync, rename, fsync of the folder.
Object stores replace whole objects by themselves.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from saestore.errors import MissingExtraError, StorageError


TEMPORARY = ".tmp-"
"""Prefix of unfinished files; whatever bears it may be removed."""

_HINTS = {
    errno.ENOSPC: "the disk is full: free space and run the same command again; what was finished "
    "stays",
    errno.EDQUOT: "the quota is used up: free space and run the same command again",
    errno.EROFS: "the file system is read-only: choose another --lake",
    errno.EACCES: "permission was refused: check the owner of the folder, or choose another --lake",
    errno.EPERM: "permission was refused: check the owner of the folder, or choose another --lake",
}


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Turn the operating system's errors into ours, naming what was being done.

    Raises:
        StorageError: Disk full, read-only, quota or permission.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, StorageError) or error.errno not in _HINTS:
            raise
        message = f"{what}: {os.strerror(error.errno)}"
        raise StorageError(message, found=error.errno, hint=_HINTS[error.errno]) from error


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
        """
        try:
            fs, path = fsspec.core.url_to_fs(os.fspath(url))
        except ImportError as error:
            raise MissingExtraError(
                package=str(error), extra="remote", purpose=f"a lake at {url}"
            ) from error
        return cls(url=str(path).rstrip("/") or "/", fs=fs)

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

    def path(self, path: str = "") -> Path:
        """Return a local path below this folder.

        Raises:
            StorageError: The storage is remote.
        """
        if self.local is None:
            message = f"{self.url} is remote; this operation writes to a local lake"
            raise StorageError(message, hint="work in a local lake, then copy it")
        return self.local / path

    def exists(self, path: str = "") -> bool:
        """Return whether a file or folder exists."""
        return bool(self.fs.exists(self.join(path)))

    def size(self, path: str) -> int | None:
        """Return a file's size in bytes, or None if it is not there."""
        try:
            return int(self.fs.info(self.join(path))["size"])
        except FileNotFoundError:
            return None

    def sizes(self) -> dict[str, int]:
        """Return the size of every file below this folder by its path, temporaries left out.

        One listing, however many files: what a question for each would take on an object store.
        """
        prefix = self.url.rstrip("/") + "/"
        return {
            str(path).removeprefix(prefix): int(info["size"])
            for path, info in sorted(self.fs.find(self.url, detail=True).items())
            if not str(path).rsplit("/", 1)[-1].startswith(TEMPORARY)
        }

    def read(self, path: str) -> bytes:
        """Return a file's bytes.

        Raises:
            FileNotFoundError: It is not there.
        """
        return bytes(self.fs.cat_file(self.join(path)))

    def names(self, path: str = "") -> list[str]:
        """Return the sorted names directly inside a folder; none if it is not there."""
        try:
            entries = self.fs.ls(self.join(path), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in entries)

    def files(self, path: str = "") -> list[str]:
        """Return the sorted relative paths of all files below a folder, temporaries left out."""
        base = self.join(path)
        prefix = self.url.rstrip("/") + "/"
        found = (str(entry) for entry in self.fs.find(base))
        return sorted(
            entry.removeprefix(prefix)
            for entry in found
            if not entry.rsplit("/", 1)[-1].startswith(TEMPORARY)
        )

    def write(self, path: str, data: bytes | memoryview) -> None:
        """Write a file whole: it has the old bytes or the new ones, never a part.

        Raises:
            StorageError: Disk full, read-only, quota or permission.
        """
        with storage_errors(f"writing {self.join(path)}"):
            if self.local is None:
                self.fs.pipe_file(self.join(path), bytes(data))
                return
            with self.replacing(path) as temporary, temporary.open("wb") as file:
                file.write(data)

    @contextmanager
    def replacing(self, path: str) -> Iterator[Path]:
        """Give a temporary local path; on leaving, fsync it and rename it into place.

        On an error the temporary file is removed and the old file stays.

        Raises:
            StorageError: Remote storage, or disk full, read-only, quota or permission.
        """
        target = self.path(path)
        with storage_errors(f"writing {target}"):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f"{TEMPORARY}{secrets.token_hex(4)}-{target.name}")
            try:
                yield temporary
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

    def remove(self, path: str = "") -> None:
        """Remove a file or a folder with everything in it; nothing happens if it is not there."""
        if self.local is not None:
            target = self.local / path if path else self.local
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
        elif self.exists(path):
            self.fs.rm(self.join(path), recursive=True)

    def remove_temporaries(self, *, beside: str) -> None:
        """Remove what a killed writer left under temporary names, at any depth.

        Args:
            beside: Folder that is left alone: other processes may be writing in it.
        """
        if self.local is None:
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
