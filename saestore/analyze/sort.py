"""From context order to feature order in bounded memory: an external sort.

Firings arrive by (context, position, feature). As many as fit are sorted stably by feature, which
leaves each feature's firings by (context, position), and spilled as one run. Later runs hold later
contexts, so merging a range of features is: read its stretch of every run in turn, sort stably by
feature again. How many firings each feature has is known, so sorting is putting each in its place. The result never depends on where runs were cut. The price: what is spilled is
written and read once, and the firings of the busiest single feature must fit in memory.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64, UInt16, UInt32

from saestore.analyze.block import FeatureBlock
from saestore.compiled import compiled
from saestore.lake.storage import storage_errors


BYTES_PER_FIRING = 96
"""Peak memory of one firing while it is sorted or counted: 14 bytes of columns, twice while they
are permuted, and at most eight float64 or key arrays beside them. Measured, rounded up."""

_RANGE = 1 << 20
"""Most firings of one block of features: few enough for the caches, many enough for numpy."""

_COLUMNS = (("context", np.uint32), ("position", np.uint16), ("value", np.float32))


@dataclass(frozen=True)
class Firings:
    """Firings in any order, column by column.

    Attributes:
        feature: Which feature.
        context: Row of `contexts`.
        position: Position in the context.
        value: Its stored value.
    """

    feature: UInt32[np.ndarray, " firing"]
    context: UInt32[np.ndarray, " firing"]
    position: UInt16[np.ndarray, " firing"]
    value: Float32[np.ndarray, " firing"]

    def __len__(self) -> int:
        """How many."""
        return len(self.feature)


@dataclass(frozen=True)
class _Run:
    """One sorted run, in memory or in a file of its columns end to end."""

    offsets: Int64[np.ndarray, " _"]
    columns: dict[str, np.ndarray] | Path

    def read(self, column: str, start: int, stop: int) -> np.ndarray:
        if not isinstance(self.columns, Path):
            return self.columns[column][start:stop]
        at = 0
        for name, dtype in _COLUMNS:
            size = np.dtype(dtype).itemsize
            if name == column:
                with self.columns.open("rb") as file:
                    return np.fromfile(
                        file, dtype=dtype, count=stop - start, offset=at + start * size
                    )
            at += size * int(self.offsets[-1])
        raise KeyError(column)


class Sorter:
    """Takes firings in context order and gives them back feature by feature."""

    def __init__(self, folder: Path | None, *, features: int, memory_mib: int) -> None:
        """Prepare to sort.

        Args:
            folder: Where runs are spilled; its files are the caller's to remove. None, nowhere: the
                caller takes blocks often enough.
            features: Features of the dictionary.
            memory_mib: Memory for sorting.
        """
        self._folder = folder
        self._features = features
        self._room = max(1, memory_mib * (1 << 20) // BYTES_PER_FIRING)
        self._held: list[Firings] = []
        self._n_held = 0
        self._runs: list[_Run] = []
        self.n_firings = 0

    @property
    def spilled(self) -> int:
        """Runs written to disk so far."""
        return sum(isinstance(run.columns, Path) for run in self._runs)

    def add(self, firings: Firings) -> None:
        """Take firings that come after all earlier ones by (context, position).

        Raises:
            StorageError: The disk is full.
        """
        self._held.append(firings)
        self._n_held += len(firings)
        self.n_firings += len(firings)
        if self._folder is not None and self._n_held >= self._room:
            self._spill(self._folder)

    def blocks(self, *, again: bool = False) -> Iterator[FeatureBlock]:
        """Return all features in order, dead ones included, in blocks of complete features.

        Args:
            again: Whether they will be asked for once more: what is in memory is kept for it.
        """
        last = self._sorted()
        runs = [*self._runs, *([last] if last is not None else [])]
        if again:
            self._runs = runs
        self._held, self._n_held = [], 0
        counts = sum((np.diff(run.offsets) for run in runs), np.zeros(self._features, np.int64))
        for first, stop in ranges(counts, most=min(_RANGE, self._room)):
            yield _merge(runs, first, stop)

    def _sorted(self) -> _Run | None:
        if not self._n_held:
            return None
        counts = np.zeros(self._features, np.int64)
        for each in self._held:
            counts += np.bincount(each.feature, minlength=self._features)
        offsets = np.concatenate([[0], np.cumsum(counts)])
        held = ((each.feature, vars(each)) for each in self._held)
        return _Run(offsets=offsets, columns=_placed(held, offsets))

    def _spill(self, folder: Path) -> None:
        run = self._sorted()
        if run is None or isinstance(run.columns, Path):
            return
        path = folder / f"run-{len(self._runs):05d}"
        with storage_errors(f"writing {path}"):
            folder.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                for name, _ in _COLUMNS:
                    file.write(run.columns[name].data)
        self._runs.append(_Run(run.offsets, path))
        self._held, self._n_held = [], 0


def ranges(counts: Int64[np.ndarray, " feature"], *, most: int) -> Iterator[tuple[int, int]]:
    """Return consecutive ranges of features holding at most `most` firings, or one feature."""
    ends = np.cumsum(counts)
    first = 0
    while first < len(counts):
        before = int(ends[first] - counts[first])
        stop = max(first + 1, int(np.searchsorted(ends, before + most, side="right")))
        # A range of silent features costs nothing per firing, but each costs something.
        stop = min(stop, first + (1 << 14))
        yield first, stop
        first = stop


def stable_order(keys: UInt32[np.ndarray, " firing"]) -> Int64[np.ndarray, " firing"]:
    """Return the indices that sort the keys, ties as they stand.

    The index in the low half makes every key unique, so numpy's fast unstable sort is stable.
    """
    tagged = keys.astype(np.uint64) << np.uint64(32)
    tagged |= np.arange(len(keys), dtype=np.uint64)
    tagged.sort()
    tagged &= np.uint64(0xFFFFFFFF)
    return tagged.view(np.int64)


def _merge(runs: list[_Run], first: int, stop: int) -> FeatureBlock:
    counts = [np.diff(run.offsets[first : stop + 1]) for run in runs]
    offsets = np.concatenate([[0], np.cumsum(sum(counts, np.zeros(stop - first, np.int64)))])
    stretches = (
        {
            name: run.read(name, int(run.offsets[first]), int(run.offsets[stop]))
            for name, _ in _COLUMNS
        }
        for run in runs
    )
    if len(runs) == 1:
        columns = next(stretches)
    else:
        local = np.arange(stop - first, dtype=np.uint32)
        features = (np.repeat(local, each) for each in counts)
        columns = _placed(zip(features, stretches, strict=True), offsets)
    return FeatureBlock(first=first, offsets=offsets, **columns)


def _placed(
    parts: Iterable[tuple[UInt32[np.ndarray, " _"], Mapping[str, np.ndarray]]],
    offsets: Int64[np.ndarray, " _"],
) -> dict[str, np.ndarray]:
    """Return the columns of all parts by feature, those of one feature as they come.

    Args:
        parts: The feature of each firing, from 0, and the columns.
        offsets: Where each feature's firings end, from 0.
    """
    found = {name: np.empty(offsets[-1], dtype) for name, dtype in _COLUMNS}
    following = offsets[:-1].copy()
    for feature, columns in parts:
        given = tuple(np.ascontiguousarray(columns[name]) for name, _ in _COLUMNS)
        _place(np.ascontiguousarray(feature), given, following, tuple(found.values()))
    return found


@compiled
def _place(feature: Any, given: Any, following: Any, found: Any) -> None:
    context, position, value = given
    to_context, to_position, to_value = found
    for firing in range(len(feature)):
        at = following[feature[firing]]
        following[feature[firing]] = at + 1
        to_context[at], to_position[at] = context[firing], position[firing]
        to_value[at] = value[firing]
