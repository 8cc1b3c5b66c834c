"""Chunks of local shards, read and checked by machine code: no lock, and no interpreter between them.

A chunk of 384 KiB is read from the page cache in 20 to 50 µs; an interpreter that looks after each one
would take as long again, and hold the others up. Rows are put into their places while their checksum
is computed: either alone leaves half of the processor idle. What is found wrong here is only counted: whoever
called reads the same again by the ordinary way (`reading`), which says what it is.
"""

import numpy as np
from jaxtyping import Int64, UInt8, UInt32

from saestore.activations.memory import pages
from saestore.compiled import (
    STREAMED,
    compiled,
    crc32c_join,
    crc32c_of,
    crc32c_shift,
    crc32c_shifts,
    crc32c_step,
    read_at,
    reads_files,
    stream_copy,
    stream_end,
)


possible = reads_files
"""Whether this machine can."""


class Scatter:
    """Reads units of rows of one array and puts each row into its place, for one thread."""

    def __init__(self, chunk_rows: int, row_bytes: int) -> None:
        """Allocate memory for one chunk, which stays in cache."""
        self._chunk = pages((chunk_rows, row_bytes), np.dtype(np.uint8))
        self._crc = np.zeros(1, np.uint32)
        self._buffers = _buffers(self._crc)

    def put(
        self,
        descriptors: Int64[np.ndarray, " unit"],
        offsets: Int64[np.ndarray, "unit chunk"],
        crcs: UInt32[np.ndarray, "unit chunk"],
        places: Int64[np.ndarray, "unit row"],
        target: UInt8[np.ndarray, "_ byte"],
    ) -> int:
        """Read units in order; return how many were what they should be.

        Args:
            descriptors: The file of each.
            offsets: Where each of its chunks begins there; negative, there is none.
            crcs: What each chunk's crc32c must be.
            places: Where each row goes in the target. Those of a unit that is not what it should be
                may hold anything afterwards.
            target: The bytes of rows.
        """
        width = target.shape[1]
        aligned = width % STREAMED == 0 and target.ctypes.data % STREAMED == 0
        return _put(
            descriptors, offsets, crcs, places, target, aligned, self._chunk, self._buffers,
            self._crc, crc32c_shifts(), crc32c_shift(width),
        )  # fmt: skip


class Straight:
    """Reads neighbouring chunks to where they are wanted, for one thread."""

    def __init__(self) -> None:
        self._crc = np.zeros(1, np.uint32)
        self._buffers = _buffers(self._crc)

    def read(
        self,
        descriptor: int,
        offset: int,
        crcs: UInt32[np.ndarray, " chunk"],
        target: UInt8[np.ndarray, "chunk byte"],
    ) -> int:
        """Read chunks in order; return how many were what they should be.

        Args:
            descriptor: The file.
            offset: Where the first begins.
            crcs: What each one's crc32c must be.
            target: Where they go.
        """
        return _read(descriptor, offset, crcs, target, self._buffers, self._crc, crc32c_shifts())


def _buffers(crc: UInt32[np.ndarray, " _"]) -> Int64[np.ndarray, "_ _"]:
    """Return the two buffers of a chunk, as the system wants them: its bytes', and its crc32c's."""
    return np.array([[0, 0], [crc.ctypes.data, crc.itemsize]], np.int64)


@compiled
def _put(  # noqa: PLR0917 - compiled functions take no keywords
    descriptors: Int64[np.ndarray, " unit"],
    offsets: Int64[np.ndarray, "unit chunk"],
    crcs: UInt32[np.ndarray, "unit chunk"],
    places: Int64[np.ndarray, "unit row"],
    target: UInt8[np.ndarray, "_ byte"],
    aligned: bool,  # noqa: FBT001 - as above
    chunk: UInt8[np.ndarray, "row byte"],
    buffers: Int64[np.ndarray, "_ _"],
    crc: UInt32[np.ndarray, " _"],
    shifts: UInt32[np.ndarray, "_ _ _"],
    row_shift: UInt32[np.ndarray, "_ _"],
) -> int:
    rows, width = chunk.shape
    length = rows * width
    buffers[0, 0], buffers[0, 1] = chunk.ctypes.data, length
    whole = length + buffers[1, 1]
    to, given = target.ctypes.data, chunk.ctypes.data
    for unit in range(len(descriptors)):
        for part in range(offsets.shape[1]):
            if offsets[unit, part] < 0:
                continue
            got = read_at(descriptors[unit], buffers.ctypes.data, 2, offsets[unit, part])
            there = places[unit, part * rows : (part + 1) * rows]
            if aligned:
                found = _streamed(to, given, there, width, row_shift)
            else:
                found = crc32c_of(given, length, shifts)
                for row in range(rows):
                    for at in range(width):
                        target[there[row], at] = chunk[row, at]
            if got != whole or crc[0] != found or crcs[unit, part] != found:
                stream_end()
                return unit
    stream_end()
    return len(descriptors)


@compiled
def _streamed(
    to: int,
    given: int,
    places: Int64[np.ndarray, " row"],
    width: int,
    row_shift: UInt32[np.ndarray, "_ _"],
) -> np.uint32:
    """Put rows into their places past the caches; return the crc32c of all of them.

    Three rows at a time: an instruction of the checksum takes three cycles, and one can begin in each.
    """
    found = np.uint64(0xFFFFFFFF)
    whole = len(places) // 3 * 3
    for row in range(0, whole, 3):
        first = given + row * width
        second, third = first + width, first + 2 * width
        one, two, three = np.uint64(0), np.uint64(0), np.uint64(0)
        for block in range(0, width, STREAMED):
            stream_copy(to + places[row] * width + block, first + block, STREAMED)
            stream_copy(to + places[row + 1] * width + block, second + block, STREAMED)
            stream_copy(to + places[row + 2] * width + block, third + block, STREAMED)
            for at in range(block, block + STREAMED, 8):
                one = crc32c_step(one, first + at)
                two = crc32c_step(two, second + at)
                three = crc32c_step(three, third + at)
        found = crc32c_join(found, one, row_shift)
        found = crc32c_join(found, two, row_shift)
        found = crc32c_join(found, three, row_shift)
    for row in range(whole, len(places)):
        stream_copy(to + places[row] * width, given + row * width, width)
        for at in range(0, width, 8):
            found = crc32c_step(found, given + row * width + at)
    return np.uint32(found ^ np.uint64(0xFFFFFFFF))


@compiled
def _read(  # noqa: PLR0917 - as above
    descriptor: int,
    offset: int,
    crcs: UInt32[np.ndarray, " chunk"],
    target: UInt8[np.ndarray, "chunk byte"],
    buffers: Int64[np.ndarray, "_ _"],
    crc: UInt32[np.ndarray, " _"],
    shifts: UInt32[np.ndarray, "_ _ _"],
) -> int:
    length = target.shape[1]
    whole = length + buffers[1, 1]
    for chunk in range(len(crcs)):
        address = target.ctypes.data + chunk * length
        buffers[0, 0], buffers[0, 1] = address, length
        got = read_at(descriptor, buffers.ctypes.data, 2, offset + chunk * whole)
        found = crc32c_of(address, length, shifts)
        if got != whole or crc[0] != found or crcs[chunk] != found:
            return chunk
    return len(crcs)
