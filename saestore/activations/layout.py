"""What a store holds: its arrays, their grids, and their Zarr metadata."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import zarr
from jaxtyping import Shaped
from zarr.abc.codec import BytesBytesCodec
from zarr.codecs import BytesCodec, Crc32cCodec, ZstdCodec
from zarr.core.buffer import Buffer as AnyBuffer
from zarr.core.buffer.cpu import Buffer
from zarr.core.common import JSON
from zarr.storage import MemoryStore

from saestore.activations import codecs, shards
from saestore.lake import Storage, layout, manifest as manifests
from saestore_schemas.activations import StoreDtype, StoreRecord, StoreSettings
from saestore_schemas.manifest import FORMAT_VERSION


METADATA = "zarr.json"
"""Zarr's own name for the metadata of a group or array."""
RECORD = "store"
"""Where a manifest's facts hold the `StoreRecord`."""
CHUNK_CONTEXTS = 65_536
"""Contexts or segments in one chunk of the small arrays."""
_SMALL_CHUNK_BYTES = 8 << 20
"""Bytes in one at most: moments have a wide entry for each shard."""


@dataclass(frozen=True)
class HookInfo:
    """One hookpoint of a store.

    Attributes:
        width: Length of its vectors.
        dtype: How they are stored.
    """

    width: int
    dtype: StoreDtype


@dataclass(frozen=True)
class Spec:
    """The shape of a store before it has rows.

    Attributes:
        hookpoints: Width of each hookpoint.
        record: What a reader must know: type, shape on disk, language model, longest context.
    """

    hookpoints: Mapping[str, int]
    record: StoreRecord

    @property
    def dtype(self) -> StoreDtype:
        """How activations are stored."""
        return self.record.dtype

    @property
    def settings(self) -> StoreSettings:
        """Bounds of chunks and shards."""
        return self.record.store

    @cached_property
    def shard_rows(self) -> int:
        """Rows of one shard: the same row range in every array; the widest hookpoint decides."""
        widest = max(self.hookpoints.values()) * np.dtype(codecs.STORED[self.dtype]).itemsize
        return shards.power_of_two(int(self.settings.shard_mib * 2**20) // widest)

    def arrays(self) -> dict[str, "ArraySpec"]:
        """Return every array that has one entry per row, by path."""
        stored = np.dtype(codecs.STORED[self.dtype])
        wide = {
            layout.hook_array(name): ArraySpec(name, (width,), stored, self)
            for name, width in self.hookpoints.items()
        }
        scales = {
            layout.scale_array(name): ArraySpec(None, (), np.dtype("<f4"), self, scales=name)
            for name in (self.hookpoints if self.dtype == "int8" else ())
        }
        order = ArraySpec(None, (), np.dtype("<i8"), self)
        return {
            **wide,
            **scales,
            layout.TOKENS: ArraySpec(None, (), np.dtype("<i4"), self),
            layout.FLAGS: ArraySpec(None, (), np.dtype("u1"), self),
            **{name: ArraySpec(None, (), np.dtype("<f4"), self) for name in self.record.capture},
            **({layout.ORDER: order} if self.record.scattered else {}),
        }


@dataclass(frozen=True)
class ArraySpec:
    """One array with an entry per row.

    Attributes:
        hookpoint: The hookpoint it holds; None for tokens, flags and scales.
        tail: Shape of one entry.
        stored: Type on disk.
        spec: The store it belongs to.
        scales: The hookpoint whose scales it holds, in an int8 store.
    """

    hookpoint: str | None
    tail: tuple[int, ...]
    stored: np.dtype[np.generic]
    spec: Spec
    scales: str | None = None

    @property
    def zstd_level(self) -> int | None:
        """How hard its chunks are compressed; None, not at all. Only activations are."""
        settings = self.spec.settings
        return settings.zstd_level if settings.codec == "zstd" and self.hookpoint else None

    @cached_property
    def grid(self) -> shards.Grid:
        """How its rows lie in chunks and shards; asked for with every chunk that is read."""
        row_bytes = self.stored.itemsize * int(np.prod(self.tail, dtype=int))
        settings, shard_rows = self.spec.settings, self.spec.shard_rows
        if self.scales is not None:  # in chunks of the same rows as those they belong to
            width = self.spec.hookpoints[self.scales]
            rows = shards.grid(width, chunk_kib=settings.chunk_kib, shard_rows=shard_rows)
            return shards.Grid(rows.chunk_rows, shard_rows, row_bytes)
        return shards.grid(row_bytes, chunk_kib=settings.chunk_kib, shard_rows=shard_rows)

    @property
    def fill(self) -> np.generic:
        """What pads the last chunk, and stands for rows that are not there: NaN where it can be.

        Of an int8 row it is the scale that says so.
        """
        if self.stored.kind == "f":
            return self.stored.type(np.nan)
        nan = self.hookpoint is not None and self.spec.dtype == "bfloat16"
        return self.stored.type(codecs.BFLOAT16_NAN if nan else 0)


@dataclass(frozen=True)
class SmallSpec:
    """An array without shards: contexts, segments, moments, deviations.

    Attributes:
        shape: Its shape, known before its values.
        dtype: Type of its elements.
        names: Names of its axes.
    """

    shape: tuple[int, ...]
    dtype: str
    names: tuple[str, ...]

    @property
    def chunk_entries(self) -> int:
        """Entries along the first axis of a chunk."""
        entry = np.dtype(self.dtype).itemsize * int(np.prod(self.shape[1:], dtype=int))
        return max(1, min(self.shape[0], CHUNK_CONTEXTS, _SMALL_CHUNK_BYTES // entry))


def write_metadata(
    artefact: Storage, spec: Spec, rows: int, small: Mapping[str, SmallSpec]
) -> dict[str, tuple[int, str]]:
    """Write the metadata that zarr-python makes of groups and arrays.

    It is made in memory and put on disk file by file, each whole and synced, replacing what a
    killed run may have left. Size and checksum of each file are returned.

    Args:
        artefact: The store's folder.
        spec: Its row arrays, whose shards are written already.
        rows: Rows of the store.
        small: Each small array, by path.

    Raises:
        StorageError: Disk full, read-only or quota.
    """
    files: dict[str, AnyBuffer] = {}
    memory = MemoryStore(store_dict=files)
    attributes = {"format": "saestore.activations", "format_version": FORMAT_VERSION}
    zarr.create_group(memory, attributes=attributes)
    for path, array in spec.arrays().items():
        _declare(memory, path, array, rows)
    for path, each in small.items():
        _declare_small(memory, path, each)
    written: dict[str, tuple[int, str]] = {}
    for path, held in files.items():
        data = held.to_bytes()
        artefact.write(path, data)
        written[path] = (len(data), manifests.digest_of(data))
    return written


def _declare(memory: MemoryStore, path: str, array: ArraySpec, rows: int) -> None:
    attributes: dict[str, JSON] = {}
    if array.hookpoint is not None:
        attributes = {"hookpoint": array.hookpoint, "dtype": array.spec.dtype}
        if array.spec.dtype == "bfloat16":
            attributes["encoding"] = "the upper 16 bits of a float32: view as uint32 << 16"
        if array.spec.dtype == "int8":
            scale = layout.scale_array(array.hookpoint)
            deviation = layout.deviation_array(array.hookpoint)
            attributes["encoding"] = f"float32: stored * /{scale}[row] * /{deviation}[d]"
    if array.scales is not None:
        attributes = {"hookpoint": array.scales}
    grid = array.grid
    compressors: tuple[BytesBytesCodec, ...] = (Crc32cCodec(),)
    if array.zstd_level is not None:
        compressors = (ZstdCodec(level=array.zstd_level), Crc32cCodec())
    zarr.create_array(
        memory,
        name=path,
        shape=(rows, *array.tail),
        dtype=array.stored,
        chunks=(grid.chunk_rows, *array.tail),
        shards=(grid.shard_rows, *array.tail),
        filters=None,
        serializer=BytesCodec(endian=None if array.stored.itemsize == 1 else "little"),
        compressors=compressors,
        fill_value=array.fill,
        attributes=attributes,
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=("row", "d")[: 1 + len(array.tail)],
    )


def _declare_small(memory: MemoryStore, path: str, small: SmallSpec) -> None:
    zarr.create_array(
        memory,
        name=path,
        shape=small.shape,
        dtype=small.dtype,
        chunks=(small.chunk_entries, *small.shape[1:]),
        filters=None,
        compressors=Crc32cCodec(),
        fill_value=0,
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=small.names,
    )


def parse_small(files: Mapping[str, bytes], path: str) -> Shaped[np.ndarray, "..."]:
    """Return a small array from the bytes of its files, by their path in the artefact."""
    memory = MemoryStore(store_dict={name: Buffer.from_bytes(data) for name, data in files.items()})
    return np.asarray(zarr.open_array(memory, path=path, mode="r")[...])
