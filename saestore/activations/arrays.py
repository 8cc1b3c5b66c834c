"""Writing one array shard by shard, through one kept buffer.

Rows are put where they will be written from: into the next chunk of a staging buffer of a few MiB,
which goes to the shard's temporary file whenever it is full, by a thread, while a second buffer is
filled. So memory is two buffers per array whatever the shard's size. The shard takes its own name when
it is whole and synced. Its bytes depend on its rows alone, never on how they came in batches.

What was written stays in the page cache for who reads it next. `python -m benchmarks write` compares
with a plain write and fsync. Two ways were tried and were slower on a virtual disk: passing by the
cache (O_DIRECT), half as fast, and having the disk begin on each buffer (sync_file_range), which costs
a tenth where the last shard is synced while the next is filled.
"""

import os
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait
from contextlib import ExitStack
from dataclasses import dataclass

import crc32c
import numpy as np
from jaxtyping import Shaped, UInt8

from saestore.activations import shards
from saestore.activations.layout import ArraySpec
from saestore.activations.memory import pages
from saestore.activations.shards import CRC
from saestore.lake import Storage, layout
from saestore.lake.storage import storage_errors


Watch = Callable[[Shaped[np.ndarray, "..."], int], None]
"""Sees the rows of each chunk, padding left out, and the first one's number in the shard."""

STAGING = 8 << 20
"""Bytes written at once, if the shard has as many."""


@dataclass(frozen=True)
class Sealed:
    """A shard all of whose bytes are written, under a temporary name.

    Attributes:
        name: The name it gets.
        facts: Its size and checksum.
        last: On leaving, it is synced and named; removed, if an error is passed on.
    """

    name: str
    facts: tuple[int, str]
    last: ExitStack


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
        watcher: Executor | None = None,
    ) -> None:
        """Write nothing yet.

        Args:
            artefact: The store's folder.
            path: The array's path in it.
            array: Its type and grid.
            watch: Called with every chunk, in order, before its shard is sealed.
            staging: Bytes written at once; more if a chunk is larger.
            disk: Writes in a thread; absent, `append` waits for the disk.
            watcher: Calls `watch` in its one thread; absent, `append` waits for it.
        """
        self.array = array
        self._artefact = artefact
        self._path = path
        self._watch = watch
        self._grid = array.grid
        whole = self._grid.file_bytes(self._grid.shard_rows)
        buffers = 2 if disk is not None and whole > staging else 1
        self._staging = Staging(array, min(staging, whole), buffers=buffers)
        self._disk = disk
        # Compressed, every chunk passes through the same memory.
        self._watcher = watcher if array.zstd_level is None else None
        # Chunks that are watched, in each buffer; the one being filled is the last.
        self._watched: list[list[Future[None]]] = [[] for _ in range(buffers)]
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
            self._file = _File(draft)
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
        sealed = self.seal()
        sealed.last.close()
        return sealed.name, sealed.facts

    def seal(self) -> "Sealed":
        """Write the last bytes of the open shard; it is synced and gets its name by another hand.

        Raises:
            StorageError: Disk full, read-only or quota; the shard is named.
        """
        rest = self._rows % self._grid.chunk_rows
        if rest:
            self._staging.chunk[rest:] = self.array.fill
            self._flush(rest)
        if self._file is None:
            raise RuntimeError("no shard is open")
        for chunks in self._watched:
            self._seen(chunks)
        tail = self._grid.tail(self._rows, self._crcs, self._lengths)
        with storage_errors(f"writing {self._name}"):
            self._settle()
            self._file.write(self._staging.rest())
            self._file.write(tail)
            self._file = None
        facts = sum(self._lengths) + len(tail), shards.checksum_of(tail)
        return Sealed(self._name, facts, self._stack.pop_all())

    def abandon(self) -> None:
        """Give up the open shard, if there is one, and remove its temporary file."""
        # What goes on is waited for: a file is not closed while it is written.
        going = [each for chunks in self._watched for each in chunks]
        wait(going if self._pending is None else [*going, self._pending])
        self._watched = [[] for _ in self._watched]
        self._pending = None
        self._file = None
        stopped = RuntimeError("the shard is given up")
        # `replacing` removes its draft when it sees an error; it hands this one back, to nobody.
        self._stack.pop_all().__exit__(RuntimeError, stopped, None)

    def _flush(self, rows: int) -> None:
        if self._file is None:
            raise RuntimeError("no shard is open")
        chunk = self._staging.chunk
        self._show(chunk[:rows], (self._rows - 1) // len(chunk) * len(chunk))
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
            self._watched.append(self._watched.pop(0))
            self._seen(self._watched[-1])
            self._staging.drop()

    def _show(self, chunk: Shaped[np.ndarray, "row ..."], first: int) -> None:
        """Let a chunk be watched, now or soon."""
        if self._watch is None:
            return
        if self._watcher is None:
            self._watch(chunk, first)
        else:
            self._watched[-1].append(self._watcher.submit(self._watch, chunk, first))

    @staticmethod
    def _seen(chunks: list[Future[None]]) -> None:
        """Wait until chunks were watched: their memory is needed."""
        while chunks:
            chunks.pop(0).result()

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
            size: Bytes written at once.
            buffers: 1, or 2 to fill one while the other is written.
        """
        self._array = array
        self._size = size
        self._level = array.zstd_level
        piece = array.grid.chunk_bytes + CRC
        room = size + (shards.packed_bound(piece) if self._level is not None else piece)
        self._buffers: list[UInt8[np.ndarray, " byte"]] = [
            pages((room,), np.dtype(np.uint8)) for _ in range(buffers)
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
    """A file that is written from its beginning to its end."""

    def __init__(self, path: os.PathLike[str]) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)

    def write(self, data: bytes | memoryview) -> None:
        """Write all of it."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)
