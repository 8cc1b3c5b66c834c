"""Writing one array shard by shard, through one kept buffer.

Rows are put where they will be written from: into the next chunk of a staging buffer of a few MiB,
which goes to the shard's temporary file whenever it is full, by a thread, while a second buffer is
filled. So memory is two buffers per array whatever the shard's size, and writing a shard is spread over the time in which its rows are computed. The shard
takes its own name when it is whole and synced. Its bytes depend on its rows alone, never on how they
came in batches.

Large shards bypass the page cache (O_DIRECT) where the file system lets them: measured beside a plain
write and fsync of the same bytes that is up to twice as fast, takes a tenth of the processor time, and
leaves the cache to others. The price is that the first reading comes from the disk.
"""

import errno
import fcntl
import mmap
import os
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import ExitStack

import crc32c
import numpy as np
from jaxtyping import Shaped, UInt8

from saestore.activations import shards
from saestore.activations.layout import ArraySpec
from saestore.activations.shards import CRC
from saestore.lake import Storage, layout
from saestore.lake.storage import storage_errors


Watch = Callable[[Shaped[np.ndarray, "..."], int], None]
"""Sees the rows of each chunk, padding left out, and the first one's number in the shard."""

STAGING = 8 << 20
"""Bytes written at once, if the shard has as many."""
_PAGE = 4096
"""Direct writes begin and end at multiples of it, in memory and in the file."""


class ArrayWriter:
    """Writes one array of a store, one shard after the other.

    Attributes:
        array: What it writes.
    """

    def __init__(
        self,
        artefact: Storage,
        path: str,
        array: ArraySpec,
        *,
        watch: Watch | None = None,
        staging: int = STAGING,
        disk: Executor | None = None,
    ) -> None:
        """Write nothing yet.

        Args:
            artefact: The store's folder.
            path: The array's path in it.
            array: Its type and grid.
            watch: Called with every chunk before it is written.
            staging: Bytes written at once; more if a chunk is larger.
            disk: Writes in a thread; absent, `append` waits for the disk.
        """
        self.array = array
        self._artefact = artefact
        self._path = path
        self._watch = watch
        self._grid = array.grid
        self._direct = self._grid.file_bytes(self._grid.shard_rows) > staging
        at_once = staging if self._direct else self._grid.file_bytes(self._grid.shard_rows)
        self._staging = Staging(
            array, -(-at_once // _PAGE) * _PAGE, buffers=1 + (self._direct and disk is not None)
        )
        self._disk = disk
        self._pending: Future[None] | None = None
        self._stack = ExitStack()
        self._file: _File | None = None
        self._name = ""
        self._rows = 0
        self._crcs: list[int] = []
        self._lengths: list[int] = []

    def open(self, shard: int) -> None:
        """Begin a shard under a temporary name.

        Raises:
            StorageError: The folder cannot be written.
        """
        self._name = layout.shard_file(self._path, shard, ndim=1 + len(self.array.tail))
        self._rows, self._crcs, self._lengths = 0, [], []
        self._staging.clear()
        draft = self._stack.enter_context(self._artefact.replacing(self._name))
        with storage_errors(f"writing {self._name}"):
            self._file = _File(draft, direct=self._direct)
            self._stack.callback(self._file.close)

    def append(self, rows: Shaped[np.ndarray, "row ..."]) -> None:
        """Add rows in stored form to the open shard; the caller keeps within its length.

        Raises:
            StorageError: Disk full, read-only or quota; the shard is named.
        """
        done = 0
        while done < len(rows):
            at = self._rows % self._grid.chunk_rows
            taken = min(self._grid.chunk_rows - at, len(rows) - done)
            self._staging.chunk[at : at + taken] = rows[done : done + taken]
            done += taken
            self._rows += taken
            if self._rows % self._grid.chunk_rows == 0:
                self._flush(self._grid.chunk_rows)

    def close(self) -> tuple[str, tuple[int, str]]:
        """Finish the open shard; return its file, size and checksum.

        Raises:
            StorageError: Disk full, read-only or quota; the shard is named.
        """
        rest = self._rows % self._grid.chunk_rows
        if rest:
            self._staging.chunk[rest:] = self.array.fill
            self._flush(rest)
        if self._file is None:
            raise RuntimeError("no shard is open")
        tail = self._grid.tail(self._rows, self._crcs, self._lengths)
        with storage_errors(f"writing {self._name}"):
            self._settle()
            self._file.write(self._staging.rest())
            self._file.write(tail)
            self._file = None
            self._stack.close()
        return self._name, (sum(self._lengths) + len(tail), shards.checksum_of(tail))

    def abandon(self) -> None:
        """Give up the open shard, if there is one, and remove its temporary file."""
        if self._pending is not None:
            self._pending.exception()  # waits: a file is not closed while it is written
            self._pending = None
        self._file = None
        stopped = RuntimeError("the shard is given up")
        # `replacing` removes its draft when it sees an error; it hands this one back, to nobody.
        self._stack.pop_all().__exit__(RuntimeError, stopped, None)

    def _flush(self, rows: int) -> None:
        if self._file is None:
            raise RuntimeError("no shard is open")
        chunk = self._staging.chunk
        if self._watch is not None:
            self._watch(chunk[:rows], (self._rows - 1) // len(chunk) * len(chunk))
        crc, length = self._staging.seal()
        self._crcs.append(crc)
        self._lengths.append(length)
        while (full := self._staging.full()) is not None:
            with storage_errors(f"writing {self._name}"):
                self._settle()
                if self._disk is None:
                    self._file.write(full)
                else:
                    self._pending = self._disk.submit(self._file.write, full)
            self._staging.drop()

    def _settle(self) -> None:
        """Wait for what is being written, and raise what it raised."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()


class Staging:
    """Bytes on their way to a file: the chunk being filled, after chunks that are sealed.

    Attributes:
        chunk: Where the next chunk's rows go. Uncompressed, that is where they are written from.
    """

    def __init__(self, array: ArraySpec, size: int, *, buffers: int) -> None:
        """Allocate it.

        Args:
            array: Whose chunks.
            size: Bytes written at once, a multiple of the page.
            buffers: 1, or 2 to fill one while the other is written.
        """
        self._array = array
        self._size = size
        self._level = array.zstd_level
        piece = array.grid.chunk_bytes + CRC
        room = size + (shards.packed_bound(piece) if self._level is not None else piece)
        # Anonymous memory begins at a page, which direct writing needs; numpy's does not.
        self._buffers: list[UInt8[np.ndarray, " byte"]] = [
            np.frombuffer(mmap.mmap(-1, room), np.uint8) for _ in range(buffers)
        ]
        self._bytes = self._buffers[0]
        self._apart = np.empty(array.grid.chunk_bytes if self._level is not None else 0, np.uint8)
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._used = 0
        self._place()

    def _place(self) -> None:
        grid = self._array.grid
        here = self._bytes[self._used : self._used + grid.chunk_bytes]
        raw = here if self._level is None else self._apart
        shape = (grid.chunk_rows, *self._array.tail)
        self.chunk: Shaped[np.ndarray, ...] = raw.view(self._array.stored).reshape(shape)

    def seal(self) -> tuple[int, int]:
        """Finish the chunk; return its crc32c, and its bytes in the file with the crc32c."""
        length = self._array.grid.chunk_bytes
        if self._level is not None:
            packed = shards.pack(self._apart, self._level)
            length = len(packed)
            self._bytes[self._used : self._used + length] = np.frombuffer(packed, np.uint8)
        end = self._used + length
        crc = crc32c.crc32c(self._bytes.data[self._used : end])
        self._bytes[end : end + CRC] = np.frombuffer(crc.to_bytes(CRC, "little"), np.uint8)
        self._used = end + CRC
        if self._used < self._size:
            self._place()
        return crc, length + CRC

    def full(self) -> memoryview | None:
        """Return the bytes to be written at once if there are as many; `drop` them then."""
        return self._bytes.data[: self._size] if self._used >= self._size else None

    def drop(self) -> None:
        """Go on without what `full` returned, in the other buffer if there are two."""
        over = self._bytes[self._size : self._used]
        self._buffers.reverse()
        self._bytes = self._buffers[0]
        self._bytes[: len(over)] = over
        self._used = len(over)
        self._place()

    def rest(self) -> memoryview:
        """Return the bytes that are left, without the chunk being filled."""
        return self._bytes.data[: self._used]


class _File:
    """A file that is written from its beginning to its end, directly while it can be."""

    def __init__(self, path: os.PathLike[str], *, direct: bool) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        self._direct = direct and hasattr(os, "O_DIRECT")
        try:
            bits = os.O_DIRECT if self._direct else 0
            self._descriptor = os.open(path, flags | bits, 0o666)
        except OSError as error:
            if not self._direct or error.errno != errno.EINVAL:
                raise
            self._direct = False  # a file system in memory, say
            self._descriptor = os.open(path, flags, 0o666)

    def write(self, data: bytes | memoryview) -> None:
        """Write all of it."""
        rest = memoryview(data)
        if self._direct:
            whole = len(rest) // _PAGE * _PAGE
            rest = self._write_direct(rest[:whole], rest[whole:])
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]

    def _write_direct(self, pages: memoryview, others: memoryview) -> memoryview:
        """Write whole pages; return what is left to be written through the cache."""
        try:
            while pages:
                pages = pages[os.write(self._descriptor, pages) :]
        except OSError as error:
            if error.errno != errno.EINVAL:  # an alignment that is not the one we know
                raise
        if not pages and not others:
            return others
        self._direct = False
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags & ~os.O_DIRECT)
        return _joined(pages, others)

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)


def _joined(pages: memoryview, others: memoryview) -> memoryview:
    """Return both, which lie one after the other, in one piece."""
    return memoryview(bytes(pages) + bytes(others)) if pages else others
