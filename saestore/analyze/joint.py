"""The rows on which features are counted together: those of contexts drawn at random.

Counting pairs takes rows times the square of the firings on a row, so it is done on a sample: whole
contexts by their shuffle rank, which SQL can draw again. Firings of these contexts are written to
working files as they come, and read back if there is room, else mapped.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int64, Shaped
from pydantic import JsonValue

from saestore.analyze import segments
from saestore.analyze.block import FeatureBlock
from saestore.analyze.relation_loops import JointRows
from saestore.analyze.scope import Scope
from saestore.analyze.sort import Firings
from saestore.compiled import compiled
from saestore.lake.storage import storage_errors
from saestore_schemas.analyze import CoactivationSettings


_AT_ONCE = 1 << 22
"""Firings looked at at a time."""
_KINDS = np.uint32, np.float32
"""Types of the columns kept: feature and value."""
_BYTES = sum(np.dtype(each).itemsize for each in _KINDS)
"""Of a firing."""


@dataclass(frozen=True)
class Sample:
    """Some contexts, and all firings on them.

    Attributes:
        start: First row of each context in the sample; -1 where it is not in it.
        rows: The firings of its rows.
    """

    start: Int64[np.ndarray, " context"]
    rows: JointRows

    def size(self) -> dict[str, JsonValue]:
        """Return how many contexts and kept rows are counted."""
        return {"contexts": int((self.start >= 0).sum()), "rows": self.rows.n_rows}

    def of(
        self, block: FeatureBlock
    ) -> tuple[
        Int64[np.ndarray, " _"], Int64[np.ndarray, " firing"], Float32[np.ndarray, " firing"]
    ]:
        """Return the ends of each feature's firings here, their rows and values."""
        start = self.start[block.context]
        inside = start >= 0
        counts = segments.totals(inside, block.offsets)
        row = _those(inside, start) + _those(inside, block.position)
        return np.concatenate([[0], np.cumsum(counts)]), row, _those(inside, block.value)


class Sampler:
    """Takes firings in context order and keeps those of the contexts drawn."""

    def __init__(
        self,
        scope: Scope,
        settings: CoactivationSettings,
        folder: Path,
        *,
        features: int,
        memory_mib: int,
    ) -> None:
        """Prepare to take them.

        Args:
            scope: The rows analysed.
            settings: How many rows are drawn.
            folder: For working files, which are the caller's to remove.
            features: Features of the dictionary.
            memory_mib: Memory for the firings; where they need more than an eighth, they are written to files, and
                where more than half, these are mapped.
        """
        self._scope = scope
        self._settings = settings
        self._folder = folder
        self._features = features
        self._memory = memory_mib << 20
        taken = drawn(scope, scope.kept_in, settings.rows)
        lengths = np.where(taken, scope.length, 0)
        self._start = np.where(taken, np.cumsum(lengths) - lengths, -1)
        self._counts = np.zeros(int(lengths.sum()), np.int64)
        self._held: list[tuple[np.ndarray, ...]] = []
        self._n_held = 0
        self._paths = folder / "feature", folder / "value"
        with storage_errors(f"writing {folder}"):
            for path in self._paths:
                path.unlink(
                    missing_ok=True
                )  # of a run that was killed: more would be put behind it

    def add(self, firings: Firings) -> None:
        """Take firings that come after all earlier ones by (context, position).

        Raises:
            StorageError: The disk is full.
        """
        n = _count(firings.context, firings.position, self._start, self._counts)
        if not n:
            return
        columns = firings.feature, firings.value
        if n < len(firings):
            inside = self._start[firings.context] >= 0
            columns = firings.feature[inside], firings.value[inside]
        self._held.append(columns)
        self._n_held += n
        if self._n_held * _BYTES > self._memory // 8:
            self._spill()

    def _spill(self) -> None:
        with storage_errors(f"writing {self._folder}"):
            self._folder.mkdir(parents=True, exist_ok=True)
            for path, columns in zip(self._paths, zip(*self._held, strict=True), strict=True):
                with path.open("ab") as file:
                    file.writelines(each.data for each in columns)
        self._held, self._n_held = [], 0

    def sample(self) -> Sample:
        """Return the contexts drawn, fewer if they have too many pairs, with their firings."""
        ends = np.concatenate([[0], np.cumsum(self._counts)])
        feature, value = self._columns(int(ends[-1]))
        start = np.where(self._few(), self._start, -1)
        kept = self._scope.kept_in[start >= 0].sum()
        used = np.repeat(start >= 0, np.where(self._start >= 0, self._scope.length, 0))
        counts = np.zeros(self._features, np.int64)
        bounds = np.searchsorted(ends, np.arange(0, len(feature), _AT_ONCE)).tolist()
        for low, high in pairwise([*bounds, len(used)]):
            part = feature[ends[low] : ends[high]]
            if not used[low:high].all():
                part = part[np.repeat(used[low:high], self._counts[low:high])]
            counts += np.bincount(part, minlength=self._features)
        return Sample(start, JointRows(int(kept), ends, feature, value, counts))

    def _columns(self, firings: int) -> Iterator[np.ndarray]:
        """Yield the firings' features, then their values."""
        spilled = self._n_held < firings
        if spilled and self._held:
            self._spill()
        for column, (path, dtype) in enumerate(zip(self._paths, _KINDS, strict=True)):
            if not spilled:
                yield np.concatenate([np.empty(0, dtype), *(each[column] for each in self._held)])
            elif 2 * firings * np.dtype(dtype).itemsize <= self._memory:
                yield np.fromfile(path, dtype=dtype)  # in memory pages are large
            else:
                yield np.asarray(np.memmap(path, dtype=dtype, mode="r+"))
        self._held = []

    def _few(self) -> Bool[np.ndarray, " context"]:
        """Return the contexts drawn whose pairs, and those of all drawn before, are not too many."""
        taken = np.flatnonzero(self._start >= 0)
        before = np.concatenate([[0], np.cumsum(self._counts**2)])
        stop = self._start[taken] + self._scope.length[taken]
        pairs = np.zeros(self._scope.n_contexts, np.int64)
        pairs[taken] = before[stop] - before[self._start[taken]]
        return drawn(self._scope, pairs, self._settings.pairs, whole=True)


def _those(
    flags: Bool[np.ndarray, " _"], values: Shaped[np.ndarray, " _"]
) -> Shaped[np.ndarray, " _"]:
    """Return the flagged values: mostly all of them, which are not copied."""
    return values if flags.all() else values[flags]


@compiled
def _count(context: Any, position: Any, start: Any, counts: Any) -> int:
    """Count firings by row of the sample; return how many are in it."""
    inside = 0
    for firing in range(len(context)):
        first = start[context[firing]]
        if first >= 0:
            counts[first + position[firing]] += 1
            inside += 1
    return inside


def drawn(
    scope: Scope, sizes: Int64[np.ndarray, " context"], most: int, *, whole: bool = False
) -> Bool[np.ndarray, " context"]:
    """Return the contexts of smallest shuffle rank until their sizes add up.

    Args:
        scope: The contexts.
        sizes: How much each counts.
        most: What they add up to.
        whole: Leave out the context that goes beyond.
    """
    order = np.empty(scope.n_contexts, np.int64)
    order[scope.shuffle_rank] = np.arange(scope.n_contexts)
    total = np.cumsum(sizes[order])
    taken = np.zeros(scope.n_contexts, dtype=bool)
    taken[order] = total <= most if whole else total - sizes[order] < most
    return taken
