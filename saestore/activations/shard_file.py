"""Shard files as a reader sees them: many ranges at once, each straight into buffers of the caller.

What lies behind is a folder on disk, where one `preadv` after the other is as fast as memory, or an
object store, where a request takes long to answer and many must be under way together. Neither
compares checksums: that is the store's business, range by range as they arrive.
"""

import os
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

from saestore.errors import StorageError
from saestore.lake import Storage
from saestore.lake.cache import Cache
from saestore.lake.ranges import Ranges


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
        unit: Pieces that are kept together in a cache: those of one chunk.
    """

    file: ShardFile
    offset: int
    pieces: Sequence[Buffer]
    unit: int

    @property
    def length(self) -> int:
        """Bytes wanted."""
        return sum(len(piece) for piece in self.pieces)

    def units(self) -> Iterator["Range"]:
        """Return it in the pieces that a cache keeps."""
        offset = self.offset
        for at in range(0, len(self.pieces), self.unit):
            part = Range(self.file, offset, self.pieces[at : at + self.unit], self.unit)
            offset += part.length
            yield part


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
        local: Whether its files are `LocalFile`s.
    """

    kept: int
    at_once: int
    local: bool

    def open_many(self, wanted: Sequence[Opening]) -> list[tuple[ShardFile, bytes] | None]:
        """Return each file and its last bytes; None where there is no such file."""
        ...

    def read_many(self, ranges: Sequence[Range]) -> Iterator[tuple[int, int]]:
        """Fill the buffers of each range; return its number and how many bytes there were.

        They come in any order, each as soon as it is there. A file that ends too early fills its
        buffers in part.
        """
        ...


def shard_files(artefact: Storage, *, content: str) -> ShardFiles:
    """Return the shard files of a finished artefact, wherever it lies.

    Args:
        artefact: Its folder.
        content: Digest of its file list, by which a cache knows its bytes.
    """
    if artefact.local is not None:
        return LocalFiles(artefact.local)
    return RemoteFiles(artefact, content.rpartition(":")[2], Cache.chosen())


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
    local = True

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
    """Shard files in an object store, many requests under way at once."""

    kept = 4096
    at_once = 64
    local = False

    def __init__(self, artefact: Storage, content: str, cache: Cache | None) -> None:
        self._artefact = artefact
        self._content = content
        self._cache = cache
        self._ranges = Ranges(artefact)

    def open_many(self, wanted: Sequence[Opening]) -> list[tuple[ShardFile, bytes] | None]:
        """Return each file and its last bytes; None where there is no such file."""
        numbered = [partial(self._open, index, each) for index, each in enumerate(wanted)]
        found = dict(self._ranges.each(numbered))
        return [found[index] for index in range(len(wanted))]

    def _open(self, index: int, wanted: Opening) -> tuple[int, tuple[ShardFile, bytes] | None]:
        try:
            part = self._ranges.fetch(wanted.name, wanted.size - wanted.tail, wanted.size)
        except FileNotFoundError:
            return index, None
        except StorageError:
            # A store refuses a range beyond the end: is the file shorter than it should be?
            size = self._artefact.size(wanted.name)
            if size is None or size >= wanted.size:
                raise
            return index, (ShardFile(wanted.name, size), b"")
        return index, (ShardFile(wanted.name, part.size), bytes(part.data))

    def read_many(self, ranges: Sequence[Range]) -> Iterator[tuple[int, int]]:
        """Fill the buffers of each range; return its number and how many bytes there were."""
        return self._ranges.each([partial(self._read, i, each) for i, each in enumerate(ranges)])

    def _read(self, index: int, wanted: Range) -> tuple[int, int]:
        if self._cache is None:
            return index, self._fetch(wanted)
        return index, wanted.length - sum(self._lacking(each) for each in self._absent(wanted))

    def _fetch(self, wanted: Range) -> int:
        """Fill the buffers of a range from the store; return how many bytes there were."""
        try:
            stop = wanted.offset + wanted.length
            part = self._ranges.fetch(wanted.file.name, wanted.offset, stop)
        except FileNotFoundError:  # since it was opened
            return 0
        return scatter(part.data, wanted.pieces)

    def _absent(self, wanted: Range) -> Iterator[Range]:
        """Fill what the cache has; return the rest, neighbours together."""
        assert self._cache is not None  # noqa: S101 - who calls this has one
        held: list[Range] = []
        for unit in wanted.units():
            kept = self._cache.get(self._content, unit.file.name, unit.offset, unit.length)
            if kept is None:
                held.append(unit)
                continue
            scatter(kept, unit.pieces)
            if held:
                yield joined(held)
                held = []
        if held:
            yield joined(held)

    def _lacking(self, wanted: Range) -> int:
        """Fetch a range and keep it; return how many bytes of it there were not."""
        got = self._fetch(wanted)
        if got == wanted.length and self._cache is not None:
            for unit in wanted.units():
                data = b"".join(unit.pieces)
                self._cache.put(self._content, unit.file.name, unit.offset, data)
        return wanted.length - got


def joined(ranges: Sequence[Range]) -> Range:
    """Return ranges that follow each other as one."""
    first = ranges[0]
    pieces = [piece for each in ranges for piece in each.pieces]
    return Range(first.file, first.offset, pieces, first.unit)


def scatter(data: bytes | memoryview, pieces: Sequence[Buffer]) -> int:
    """Copy bytes into buffers one after the other; return how many there were."""
    view = memoryview(data)
    at = 0
    for piece in pieces:
        part = view[at : at + len(piece)]
        piece[: len(part)] = part
        at += len(piece)
    return len(view)
