"""Units of reading on their way to a window: neighbouring rows of one array, each to its place.

A reader belongs to one thread and keeps its memory. How it reads depends on where the array lies and
how: by machine code, chunk by chunk while it is in cache; by the interpreter, one unit or, of an
object store, many asked for together.
"""

from functools import lru_cache, partial
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, UInt8
from typing_extensions import override

from saestore.activations.fetch import Scatter
from saestore.activations.layout import ArraySpec
from saestore.activations.memory import as_bytes, pages, put_rows
from saestore.activations.store import ActivationStore


_KEPT_CHUNKS = 64
"""Chunks that `_Cut` keeps: they are long, and units are not."""


@runtime_checkable
class Units(Protocol):
    """Reads units of one array for one thread."""

    def put(
        self,
        starts: Int64[np.ndarray, " unit"],
        places: Int64[np.ndarray, "unit row"],
        target: UInt8[np.ndarray, "_ byte"],
    ) -> None:
        """Read units and put each of their rows into its place.

        Rows beyond the store's last go to theirs too, or do not: what is there means nothing.

        Args:
            starts: First row of each unit.
            places: Where each row goes.
            target: `as_bytes` of the window.

        Raises:
            DamagedArtefactError: A chunk does not match its crc32c.
        """
        ...


def units_of(store: ActivationStore, path: str, array: ArraySpec, unit_rows: int) -> Units:
    """Return a reader of an array.

    Args:
        store: Where it lies.
        path: Its path.
        array: What it is.
        unit_rows: A power of two.
    """
    if store.ranges_at_once == 1 and array.grid.chunk_rows > unit_rows:
        return _Cut(store, path, array, unit_rows)
    grid = array.grid
    if grid.chunk_rows <= unit_rows <= grid.shard_rows and store.direct(path):
        return _Direct(store, path, array, unit_rows)
    return _Together(store, path, array, unit_rows)


class _Direct(Units):
    def __init__(self, store: ActivationStore, path: str, array: ArraySpec, rows: int) -> None:
        self._store, self._path, self._rows = store, path, rows
        self._scatter = Scatter(array.grid.chunk_rows, array.grid.row_bytes)
        self._otherwise = _Together(store, path, array, rows)

    @override
    def put(
        self,
        starts: Int64[np.ndarray, " unit"],
        places: Int64[np.ndarray, "unit row"],
        target: UInt8[np.ndarray, "_ byte"],
    ) -> None:
        at = self._store.located(self._path, starts, self._rows)
        done = self._scatter.put(at.files, at.offsets, at.crcs, places, target)
        if done < len(starts):  # this says what is wrong, or it was for a moment
            self._otherwise.put(starts[done:], places[done:], target)


class _Cut(Units):
    """Reads units of an array whose chunks are longer: one number a row."""

    def __init__(self, store: ActivationStore, path: str, array: ArraySpec, rows: int) -> None:
        self._chunk = lru_cache(maxsize=_KEPT_CHUNKS)(partial(store.read_chunk, path))
        self._size, self._rows = array.grid.chunk_rows, rows

    @override
    def put(
        self,
        starts: Int64[np.ndarray, " unit"],
        places: Int64[np.ndarray, "unit row"],
        target: UInt8[np.ndarray, "_ byte"],
    ) -> None:
        for start, there in zip(starts.tolist(), places, strict=True):
            chunk, within = divmod(start, self._size)
            rows = self._chunk(chunk)[within : within + self._rows]
            put_rows(target, there, as_bytes(rows))


class _Together(Units):
    def __init__(self, store: ActivationStore, path: str, array: ArraySpec, rows: int) -> None:
        self._store, self._path, self._size = store, path, rows
        self._at_once = store.ranges_at_once
        self._array = array
        self._memory: np.ndarray | None = None

    @override
    def put(
        self,
        starts: Int64[np.ndarray, " unit"],
        places: Int64[np.ndarray, "unit row"],
        target: UInt8[np.ndarray, "_ byte"],
    ) -> None:
        size = self._size
        if self._memory is None:
            self._memory = pages((self._at_once * size, *self._array.tail), self._array.stored)
        memory = self._memory
        for at in range(0, len(starts), self._at_once):
            together = starts[at : at + self._at_once].tolist()
            self._store.read_many(
                (self._path, start, stop, memory[place * size : place * size + stop - start])
                for place, start in enumerate(together)
                for stop in (min(start + size, self._store.n_rows),)
            )
            there = places[at : at + len(together)].ravel()
            put_rows(target, there, as_bytes(memory[: len(together) * size]))
