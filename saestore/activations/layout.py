"""What a store holds: its arrays, their grids, and their Zarr metadata."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec
from zarr.core.common import JSON
from zarr.storage import LocalStore

from saestore.activations import codecs, shards
from saestore.lake import Storage, layout
from saestore_schemas.generate import StoreDtype, StoreSettings


CHUNK_CONTEXTS = 65_536
"""Contexts or segments in one chunk of the small arrays."""


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
        dtype: How activations are stored.
        settings: Bounds of chunks and shards.
    """

    hookpoints: Mapping[str, int]
    dtype: StoreDtype
    settings: StoreSettings

    @property
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
        return {
            **wide,
            layout.TOKENS: ArraySpec(None, (), np.dtype("<i4"), self),
            layout.FLAGS: ArraySpec(None, (), np.dtype("u1"), self),
        }


@dataclass(frozen=True)
class ArraySpec:
    """One array with an entry per row.

    Attributes:
        hookpoint: The hookpoint it holds, or None for tokens and flags.
        tail: Shape of one entry.
        stored: Type on disk.
        spec: The store it belongs to.
    """

    hookpoint: str | None
    tail: tuple[int, ...]
    stored: np.dtype[np.generic]
    spec: Spec

    @property
    def grid(self) -> shards.Grid:
        """How its rows lie in chunks and shards."""
        row_bytes = self.stored.itemsize * int(np.prod(self.tail, dtype=int))
        return shards.grid(
            row_bytes, chunk_kib=self.spec.settings.chunk_kib, shard_rows=self.spec.shard_rows
        )

    @property
    def fill(self) -> float:
        """What pads the last chunk: NaN where the type has it."""
        return float("nan") if self.stored.kind == "f" else 0


def write_row_array(artefact: Storage, path: str, array: ArraySpec, rows: int) -> None:
    """Write the Zarr metadata of an array whose shards are written already."""
    attributes: dict[str, JSON] = {}
    if array.hookpoint is not None:
        attributes = {"hookpoint": array.hookpoint, "dtype": array.spec.dtype}
        if array.spec.dtype == "bfloat16":
            attributes["encoding"] = "the upper 16 bits of a float32: view as uint32 << 16"
    grid = array.grid
    zarr.create_array(
        LocalStore(artefact.path()),
        name=path,
        shape=(rows, *array.tail),
        dtype=array.stored,
        chunks=(grid.chunk_rows, *array.tail),
        shards=(grid.shard_rows, *array.tail),
        filters=None,
        serializer=BytesCodec(endian=None if array.stored.itemsize == 1 else "little"),
        compressors=Crc32cCodec(),
        fill_value=array.fill,
        attributes=attributes,
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=("row", "d")[: 1 + len(array.tail)],
    )


def write_small_array(
    artefact: Storage, path: str, values: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]",
    names: tuple[str, ...],
) -> None:  # fmt: skip
    """Write a small array whole."""
    chunk = (max(1, min(len(values), CHUNK_CONTEXTS)), *values.shape[1:])
    array = zarr.create_array(
        LocalStore(artefact.path()),
        name=path,
        shape=values.shape,
        dtype=values.dtype,
        chunks=chunk,
        filters=None,
        compressors=Crc32cCodec(),
        fill_value=0,
        overwrite=True,
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=names,
    )
    array[...] = values


def read_small_array(
    artefact: Storage, path: str
) -> "np.ndarray[tuple[int, ...], np.dtype[np.generic]]":
    """Return a small array whole."""
    store = LocalStore(artefact.path(), read_only=True) if artefact.local else _remote(artefact)
    array = zarr.open_array(store, path=path, mode="r")
    return np.asarray(array[...])


def _remote(artefact: Storage) -> "zarr.storage.FsspecStore":
    return zarr.storage.FsspecStore.from_url(
        artefact.fs.unstrip_protocol(artefact.url), read_only=True
    )


def open_group(artefact: Storage, attributes: Mapping[str, object]) -> None:
    """Write the root group's metadata."""
    zarr.create_group(LocalStore(artefact.path()), attributes=dict(attributes), overwrite=False)
