"""Writing one array shard by shard, through one kept chunk buffer.

A chunk goes to the shard's temporary file as soon as its rows are there, so memory is one chunk per
array whatever the shard's size, and writing a shard is spread over the time in which its rows are
computed. The shard takes its own name when it is whole and synced. Its bytes depend on its rows
alone, never on how they came in batches.
"""

from collections.abc import Callable
from contextlib import ExitStack
from io import FileIO

import crc32c
import numpy as np
from jaxtyping import Shaped

from saestore.activations import shards
from saestore.activations.layout import ArraySpec
from saestore.activations.shards import CRC
from saestore.lake import Storage, layout
from saestore.lake.storage import storage_errors


Watch = Callable[[Shaped[np.ndarray, "..."], int], None]
"""Sees the rows of each chunk, padding left out, and the first one's number in the shard."""


class ArrayWriter:
    """Writes one array of a store, one shard after the other.

    Attributes:
        array: What it writes.
    """

    def __init__(
        self, artefact: Storage, path: str, array: ArraySpec, *, watch: Watch | None = None
    ) -> None:
        """Write nothing yet.

        Args:
            artefact: The store's folder.
            path: The array's path in it.
            array: Its type and grid.
            watch: Called with every chunk before it is written.
        """
        self.array = array
        self._artefact = artefact
        self._path = path
        self._watch = watch
        self._grid = array.grid
        self._bytes = np.empty(self._grid.chunk_bytes + CRC, np.uint8)
        self._chunk: Shaped[np.ndarray, ...] = (
            self._bytes[: self._grid.chunk_bytes]
            .view(array.stored)
            .reshape(self._grid.chunk_rows, *array.tail)
        )
        self._stack = ExitStack()
        self._file: FileIO | None = None
        self._name = ""
        self._rows = 0
        self._crcs: list[int] = []

    def open(self, shard: int) -> None:
        """Begin a shard under a temporary name.

        Raises:
            StorageError: The folder cannot be written.
        """
        self._name = layout.shard_file(self._path, shard, ndim=1 + len(self.array.tail))
        self._rows, self._crcs = 0, []
        draft = self._stack.enter_context(self._artefact.replacing(self._name))
        with storage_errors(f"writing {self._name}"):
            # Unbuffered: chunks are large, and giving up a full disk must have nothing left to write.
            self._file = self._stack.enter_context(draft.open("wb", buffering=0))

    def append(self, rows: Shaped[np.ndarray, "row ..."]) -> None:
        """Add rows in stored form to the open shard; the caller keeps within its length.

        Raises:
            StorageError: Disk full, read-only or quota; the shard is named.
        """
        done = 0
        while done < len(rows):
            at = self._rows % self._grid.chunk_rows
            taken = min(self._grid.chunk_rows - at, len(rows) - done)
            self._chunk[at : at + taken] = rows[done : done + taken]
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
            self._chunk[rest:] = self.array.fill
            self._flush(rest)
        tail = self._grid.tail(self._rows, self._crcs)
        self._write(tail)
        self._file = None
        with storage_errors(f"writing {self._name}"):
            self._stack.close()
        return self._name, (self._grid.file_bytes(self._rows), shards.checksum_of(tail))

    def abandon(self) -> None:
        """Give up the open shard, if there is one, and remove its temporary file."""
        self._file = None
        stopped = RuntimeError("the shard is given up")
        # `replacing` removes its draft when it sees an error; it hands this one back, to nobody.
        self._stack.pop_all().__exit__(RuntimeError, stopped, None)

    def _flush(self, rows: int) -> None:
        if self._watch is not None:
            self._watch(self._chunk[:rows], (self._rows - 1) // len(self._chunk) * len(self._chunk))
        crc = crc32c.crc32c(self._bytes.data[:-CRC])
        self._crcs.append(crc)
        self._bytes[-CRC:] = np.frombuffer(crc.to_bytes(CRC, "little"), np.uint8)
        self._write(self._bytes.data)

    def _write(self, data: bytes | memoryview) -> None:
        if self._file is None:
            raise RuntimeError("no shard is open")
        rest = memoryview(data)
        with storage_errors(f"writing {self._name}"):
            while rest:
                rest = rest[self._file.write(rest) :]
