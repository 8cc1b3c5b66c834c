"""Shard files as a reader sees them: many ranges at once, each straight into buffers of the caller.

What lies behind is a folder on disk, where one `preadv` after the other is as fast as memory, or an
object store, where a request takes long to answer and many must be under way together. Neither
compares checksums: that is the store's business, range by range as they arrive.
"""

import os
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from saestore.lake import Storage


Buffer = memoryview | bytearray
"""Where bytes go."""


@dataclass(frozen=True)
class ShardFile:
    """One shard file that was opened.

    Attributes:
        name: Its path in the artefact.
        size: Its bytes.
    """

    name: str
    size: int


@dataclass(frozen=True)
class Range:
    """Bytes of one file that follow each other, and the buffers they fill one after the other.

    Attributes:
        file: The file.
        offset: Where they begin.
        pieces: The buffers.
    """

    file: ShardFile
    offset: int
    pieces: Sequence[Buffer]

    @property
    def length(self) -> int:
        """Bytes wanted."""
        return sum(len(piece) for piece in self.pieces)


@dataclass(frozen=True)
class Opening:
    """A file to be opened, and the end of it that is read at once.

    Attributes:
        name: Its path in the artefact.
        size: The bytes it should have.
        tail: How many of its last bytes are wanted, if it has the size it should.
    """

    name: str
    size: int
    tail: int


@runtime_checkable
class ShardFiles(Protocol):
    """The shard files of one artefact.

    Attributes:
        kept: How many of them a reader may keep open.
        at_once: How many ranges should be asked for together, if they are known.
    """

    kept: int
    at_once: int

    def open_many(self, wanted: Sequence[Opening]) -> list[tuple[ShardFile, bytes] | None]:
        """Return each file and its last bytes; None where there is no such file."""
        ...

    def read_many(self, ranges: Sequence[Range]) -> Iterator[tuple[int, int]]:
        """Fill the buffers of each range; return its number and how many bytes there were.

        They come in any order, each as soon as it is there. A file that ends too early fills its
        buffers in part.
        """
        ...


def shard_files(artefact: Storage) -> ShardFiles:
    """Return the shard files of an artefact, wherever it lies."""
    return LocalFiles(artefact.local) if artefact.local is not None else RemoteFiles(artefact)


@dataclass(frozen=True)
class LocalFile(ShardFile):
    """A shard file on disk; it is closed when nobody holds it any more.

    Attributes:
        descriptor: What the system calls it.
    """

    descriptor: int

    @classmethod
    def open(cls, folder: Path, name: str) -> "LocalFile":
        """Open it.

        Raises:
            FileNotFoundError: It is not there.
        """
        descriptor = os.open(folder / name, os.O_RDONLY)
        file = cls(name, os.fstat(descriptor).st_size, descriptor)
        weakref.finalize(file, os.close, descriptor)
        return file


class LocalFiles:
    """Shard files on disk, read by the calling thread."""

    kept = 64
    at_once = 1

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open_many(self, wanted: Sequence[Opening]) -> list[tuple[ShardFile, bytes] | None]:
        """Return each file and its last bytes; None where there is no such file."""
        return [self._open(each) for each in wanted]

    def _open(self, wanted: Opening) -> tuple[ShardFile, bytes] | None:
        try:
            file = LocalFile.open(self._folder, wanted.name)
        except FileNotFoundError:
            return None
        if file.size != wanted.size:
            return file, b""
        return file, os.pread(file.descriptor, wanted.tail, wanted.size - wanted.tail)

    def read_many(self, ranges: Sequence[Range]) -> Iterator[tuple[int, int]]:
        """Fill the buffers of each range; return its number and how many bytes there were."""
        for index, each in enumerate(ranges):
            assert isinstance(each.file, LocalFile)  # noqa: S101 - they are those it opened
            yield index, os.preadv(each.file.descriptor, each.pieces, each.offset)


class RemoteFiles:
    """Shard files in an object store."""

    kept = 4096
    at_once = 64

    def __init__(self, artefact: Storage) -> None:
        self._artefact = artefact

    def open_many(self, wanted: Sequence[Opening]) -> list[tuple[ShardFile, bytes] | None]:
        """Return each file and its last bytes; None where there is no such file."""
        return [self._open(each) for each in wanted]

    def _open(self, wanted: Opening) -> tuple[ShardFile, bytes] | None:
        size = self._artefact.size(wanted.name)
        if size is None:
            return None
        file = ShardFile(wanted.name, size)
        if size != wanted.size:
            return file, b""
        return file, self._read(wanted.name, size - wanted.tail, size)

    def read_many(self, ranges: Sequence[Range]) -> Iterator[tuple[int, int]]:
        """Fill the buffers of each range; return its number and how many bytes there were."""
        for index, each in enumerate(ranges):
            data = self._read(each.file.name, each.offset, each.offset + each.length)
            yield index, scatter(data, each.pieces)

    def _read(self, name: str, start: int, stop: int) -> bytes:
        return bytes(self._artefact.fs.cat_file(self._artefact.join(name), start=start, end=stop))


def scatter(data: bytes | memoryview, pieces: Sequence[Buffer]) -> int:
    """Copy bytes into buffers one after the other; return how many there were."""
    view = memoryview(data)
    at = 0
    for piece in pieces:
        part = view[at : at + len(piece)]
        piece[: len(part)] = part
        at += len(piece)
    return len(view)
