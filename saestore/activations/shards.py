"""The bytes of one shard of a Zarr v3 array, written and read without a Zarr library.

A shard of uncompressed chunks has one possible form: chunk i at i * (chunk bytes + 4), each followed
by its crc32c; then a table of the same crc32c's; then an index of (offset, length) pairs with a crc32c
of its own. Offsets can thus be computed instead of looked up. Table and index, the tail, are read once,
in one piece, to check that this is such a shard, and this very one.

The table is why: bytes followed by their own crc32c have a crc32c that is the same whatever they are
(0x48674bc7), so a checksum over whole chunks cannot tell a shard from another of its size. The digest
of the tail can, and reading a tail costs nothing beside reading a shard. To a Zarr library the table
is unused space, which the format allows.

Of compressed chunks the crc32c covers the compressed bytes, so damage is found without unpacking
anything. Their lengths vary and stand in the index; they still follow each other without a gap.

Source: the Zarr v3 sharding_indexed codec with codecs [bytes, crc32c] or [bytes, zstd, crc32c], index
at the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import crc32c
import numpy as np
from jaxtyping import Int64, UInt8, UInt32
from numcodecs import zstd


CRC = 4
"""Bytes of one crc32c, little-endian."""
CRCS = np.dtype("<u4")
"""Type of the table of crc32c's."""
CHECKSUM = "tail:"
"""Kind of a shard's checksum in file lists."""
ABSENT = 2**64 - 1
"""Offset and length of a chunk that a shard does not hold."""


@dataclass(frozen=True)
class Grid:
    """How the rows of one array lie in chunks and shards.

    Attributes:
        chunk_rows: Rows of one chunk.
        shard_rows: Rows of one shard, a multiple of chunk_rows.
        row_bytes: Stored bytes of one row.
    """

    chunk_rows: int
    shard_rows: int
    row_bytes: int

    @property
    def chunks(self) -> int:
        """Chunks of a full shard."""
        return self.shard_rows // self.chunk_rows

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one chunk, without its crc32c."""
        return self.chunk_rows * self.row_bytes

    def offset(self, chunk: int) -> int:
        """Return where a chunk of the shard begins."""
        return chunk * (self.chunk_bytes + CRC)

    def used(self, rows: int) -> int:
        """Return how many chunks a shard with so many rows holds; the last may be padded."""
        return -(-rows // self.chunk_rows)

    def tail_bytes(self, rows: int) -> int:
        """Return the size of table and index of a shard with so many rows."""
        return self.used(rows) * CRC + self.chunks * 16 + CRC

    def file_bytes(self, rows: int) -> int:
        """Return the size of a shard file with so many rows."""
        return self.offset(self.used(rows)) + self.tail_bytes(rows)

    def tail(self, rows: int, crcs: Sequence[int], lengths: Sequence[int] | None = None) -> bytes:
        """Return what follows the chunks of a shard: the table of their crc32c's, and the index.

        Args:
            rows: Rows of the shard.
            crcs: The crc32c of each chunk.
            lengths: Bytes of each chunk with its crc32c; absent, they are not compressed.
        """
        return np.array(crcs, CRCS).tobytes() + self.index(rows, lengths)

    def index(self, rows: int, lengths: Sequence[int] | None = None) -> bytes:
        """Return the index, with its crc32c, of a shard with so many rows; see `tail`."""
        entries = np.full((self.chunks, 2), ABSENT, "<u8")
        used = self.used(rows)
        entries[:used, 1] = self.chunk_bytes + CRC if lengths is None else lengths
        entries[:used, 0] = np.cumsum(entries[:used, 1]) - entries[:used, 1]
        data = entries.tobytes()
        return data + crc32c.crc32c(data).to_bytes(CRC, "little")

    def lengths(self, tail: bytes | bytearray, rows: int, size: int) -> Int64[np.ndarray, " chunk"]:
        """Return the bytes of each compressed chunk, with its crc32c, from the shard's tail.

        Args:
            tail: The last bytes of the shard file.
            rows: Rows of the shard.
            size: Bytes of the file.

        Raises:
            ValueError: The index is not that of chunks which follow each other up to the tail.
        """
        index = tail[self.used(rows) * CRC :]
        entries = np.frombuffer(index, "<u8", self.chunks * 2).reshape(-1, 2)
        lengths: Int64[np.ndarray, " chunk"] = entries[: self.used(rows), 1].astype(np.int64)
        fits = (lengths > CRC).all() and lengths.sum() + len(tail) == size
        if not fits or self.index(rows, lengths.tolist()) != index:
            raise ValueError(WRONG_INDEX)
        return lengths


WRONG_INDEX = "its chunk index is not what it must be"


def pack(chunk: UInt8[np.ndarray, " byte"], level: int) -> bytes:
    """Return a chunk compressed by zstd."""
    return bytes(zstd.compress(chunk, level=level))


def packed_bound(size: int) -> int:
    """Return how many bytes so many can become at worst (ZSTD_compressBound, rounded up)."""
    return size + (size >> 7) + 1024


def unpack(packed: bytes | memoryview | bytearray, out: memoryview) -> None:
    """Fill a buffer with what was compressed.

    Raises:
        ValueError: The bytes are not zstd's, or of another length.
    """
    try:
        found = zstd.decompress(bytes(packed))
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    if len(found) != len(out):
        raise ValueError(f"{len(found)} bytes unpacked, expected {len(out)}")
    out[:] = found


def crcs_of(
    tail: bytes | bytearray, grid: Grid, rows: int, checksum: str, *, packed: bool = False
) -> UInt32[np.ndarray, " chunk"]:
    """Return the crc32c of each chunk of a shard, from its tail.

    Args:
        tail: The last bytes of the shard file, as many as the grid says.
        grid: How the array lies in chunks.
        rows: Rows of the shard.
        checksum: The shard's checksum in the file list.
        packed: Whether chunks are compressed: `Grid.lengths` looks at their index.

    Raises:
        ValueError: The tail is not this shard's.
    """
    index = grid.index(rows)
    if not packed and tail[-len(index) :] != index:
        raise ValueError(WRONG_INDEX)
    if checksum_of(tail) != checksum:
        raise ValueError("its chunks are not those that were written there")
    return np.frombuffer(tail, CRCS, grid.used(rows))


def checksum_of(tail: bytes | bytearray) -> str:
    """Return the checksum of a shard in file lists: it covers every chunk's crc32c, in order.

    The index's own crc32c is left out: with it, the index would not count.
    """
    return f"{CHECKSUM}{crc32c.crc32c(tail[:-CRC]):08x}"


def grid(row_bytes: int, *, chunk_kib: int, shard_rows: int) -> Grid:
    """Return the grid whose chunk is the largest power of two of rows that fits in `chunk_kib`."""
    rows = power_of_two(chunk_kib * 1024 // row_bytes)
    return Grid(min(rows, shard_rows), shard_rows, row_bytes)


def power_of_two(limit: int) -> int:
    """Return the largest power of two not above a limit; 1 if the limit is below 1."""
    return 1 << max(limit, 1).bit_length() - 1
