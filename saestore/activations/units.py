"""Units of reading as they come: the same number of neighbouring rows of each array, checked.

A reader belongs to one thread and keeps its buffers. On disk units are read one by one, so that each
is scattered while it is in cache; of an object store many are asked for together.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache, partial
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, UInt8

from saestore.activations.layout import ArraySpec
from saestore.activations.memory import as_bytes, pages
from saestore.activations.reading import UnitReader
from saestore.activations.store import ActivationStore


Read = tuple[slice | Int64[np.ndarray, " unit"], Mapping[str, UInt8[np.ndarray, "row byte"]]]
"""Which of the units asked for, and the bytes of their rows of each array; valid until the next."""


_KEPT_CHUNKS = 64
"""Chunks that `_Cut` keeps: they are long, and units are not."""


@runtime_checkable
class Units(Protocol):
    """Reads units for one thread."""

    def read(self, starts: Int64[np.ndarray, " unit"]) -> Iterator[Read]:
        """Yield the units that begin with some rows, in the order of the store.

        What lies beyond the store's last row means nothing.

        Raises:
            DamagedArtefactError: A chunk does not match its crc32c.
        """
        ...


def units_of(store: ActivationStore, arrays: Mapping[str, ArraySpec], unit_rows: int) -> Units:
    """Return a reader of some arrays.

    Args:
        store: Where they lie.
        arrays: Which, by path.
        unit_rows: A power of two, and no longer than a shard.
    """
    readers = {path: _reader(store, path, array, unit_rows) for path, array in arrays.items()}
    found = {path: reader for path, reader in readers.items() if reader is not None}
    if len(found) == len(readers):
        return _OneByOne(found)
    return _Together(store, arrays, unit_rows)


def _reader(
    store: ActivationStore, path: str, array: ArraySpec, unit_rows: int
) -> "UnitReader | _Cut | None":
    if store.ranges_at_once > 1:
        return None
    if array.grid.chunk_rows > unit_rows:
        return _Cut(store, path, array, unit_rows)
    return store.unit_reader(path, unit_rows)


class _Cut:
    """Reads units of an array whose chunks are longer: one number a row."""

    def __init__(self, store: ActivationStore, path: str, array: ArraySpec, rows: int) -> None:
        self.rows = np.empty((rows, *array.tail), array.stored)
        self._chunk = lru_cache(maxsize=_KEPT_CHUNKS)(partial(store.read_chunk, path))
        self._size = array.grid.chunk_rows

    def read(self, start: int) -> None:
        """Read the unit that begins with a row."""
        chunk, within = divmod(start, self._size)
        self.rows[...] = self._chunk(chunk)[within : within + len(self.rows)]


class _OneByOne:
    def __init__(self, readers: Mapping[str, UnitReader | _Cut]) -> None:
        self._readers = readers

    def read(self, starts: Int64[np.ndarray, " unit"]) -> Iterator[Read]:
        """Yield the units; see `Units`."""
        readers = list(self._readers.values())
        rows = {path: as_bytes(reader.rows) for path, reader in self._readers.items()}
        order = np.argsort(starts)
        for place, start in zip(order.tolist(), starts[order].tolist(), strict=True):
            for reader in readers:
                reader.read(start)
            yield slice(place, place + 1), rows


class _Together:
    def __init__(self, store: ActivationStore, arrays: Mapping[str, ArraySpec], rows: int) -> None:
        self._store = store
        self._size = rows
        self._at_once = store.ranges_at_once
        self._kept = {
            path: pages((self._at_once * rows, *array.tail), array.stored)
            for path, array in arrays.items()
        }

    def read(self, starts: Int64[np.ndarray, " unit"]) -> Iterator[Read]:
        """Yield the units; see `Units`."""
        order, size = np.argsort(starts), self._size
        for at in range(0, len(order), self._at_once):
            together = order[at : at + self._at_once]
            bounds = [
                (start, min(start + size, self._store.n_rows))
                for start in starts[together].tolist()
            ]
            self._store.read_many(
                (path, start, stop, kept[place * size : place * size + stop - start])
                for path, kept in self._kept.items()
                for place, (start, stop) in enumerate(bounds)
            )
            yield (
                together,
                {p: as_bytes(kept[: len(together) * size]) for p, kept in self._kept.items()},
            )
