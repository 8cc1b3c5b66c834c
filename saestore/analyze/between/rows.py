"""The rows that two analyses of one store have in common, and what fires on them.

A row is shared if both analyses have its context and kept it. Of many, whole contexts are drawn by their
shuffle rank, which SQL can draw again. Shared contexts lie side by side in a numbering of their own,
rows that are not kept included, so that a firing's row is its context's start and its position.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32, Float64, Int64, UInt32

from saestore.features import Analysis
from saestore_schemas import tables


FIRINGS = tables.FIRINGS_BY_FEATURE.name
_AT_ONCE = 1 << 22
"""Firings read at a time."""


def of_one_store(one: Analysis, other: Analysis) -> bool:
    """Return whether two analyses are of the same rows of activations, not only of the same name."""
    stores = [
        (each.provenance.activations, {p for p in each.manifest.parents if p.kind == "activations"})
        for each in (one, other)
    ]
    return stores[0] == stores[1]


@dataclass(frozen=True)
class SharedRows:
    """Rows that two analyses have in common.

    Attributes:
        starts: Of each analysis, the first of these rows in each of its contexts; -1, it has none.
        kept: Which of them both keep.
        contexts: How many contexts they are.
    """

    starts: tuple[Int64[np.ndarray, " context"], Int64[np.ndarray, " _"]]
    kept: Bool[np.ndarray, " row"]
    contexts: int

    @property
    def n_rows(self) -> int:
        """Rows that both keep."""
        return int(self.kept.sum())


def shared_rows(one: Analysis, other: Analysis, most: int | None) -> SharedRows:
    """Return the rows that two analyses of one store have in common.

    Args:
        one: An analysis; contexts are drawn by its shuffle ranks.
        other: Another one.
        most: Draw contexts until they have so many rows that both keep; None, all.
    """
    known = [_Contexts.of(each) for each in (one, other)]
    _, mine, theirs = np.intersect1d(known[0].row, known[1].row, return_indices=True)
    lengths = known[0].length[mine]
    starts = np.cumsum(lengths) - lengths
    kept = known[0].kept(mine, starts) & known[1].kept(theirs, starts)
    if most is not None:
        ends = np.concatenate([[0], np.cumsum(kept)])
        sizes = ends[starts + lengths] - ends[starts]
        order = np.argsort(known[0].rank[mine])
        drawn = np.zeros(len(mine), dtype=bool)
        drawn[order] = np.cumsum(sizes[order]) - sizes[order] < most
        kept = kept[np.repeat(drawn, lengths)]
        mine, theirs, lengths = mine[drawn], theirs[drawn], lengths[drawn]
        starts = np.cumsum(lengths) - lengths
    found = []
    for each, places in zip(known, (mine, theirs), strict=True):
        start = np.full(len(each.row), -1, np.int64)
        start[places] = starts
        found.append(start)
    return SharedRows((found[0], found[1]), kept, len(mine))


@dataclass(frozen=True)
class _Contexts:
    """The contexts of an analysis: first row in the store, length, shuffle rank, ignored positions."""

    row: Int64[np.ndarray, " context"]
    length: Int64[np.ndarray, " context"]
    rank: Int64[np.ndarray, " context"]
    ends: Int64[np.ndarray, " _"]
    ignored: Int64[np.ndarray, " _"]

    @classmethod
    def of(cls, analysis: Analysis) -> "_Contexts":
        names = ("store_row", "n_positions", "shuffle_rank", "ignored")
        table = analysis.columns("contexts", names).combine_chunks()
        row, length, rank = (_whole(table[name]) for name in names[:3])
        lists: Any = table["ignored"].combine_chunks()
        ends = np.concatenate([[0], np.cumsum(_whole(lists.value_lengths()))])
        return cls(row, length, rank, ends, _whole(lists.flatten()))

    def kept(
        self, places: Int64[np.ndarray, " _"], starts: Int64[np.ndarray, " _"]
    ) -> Bool[np.ndarray, " row"]:
        """Return which rows of some contexts, laid side by side, are kept."""
        kept = np.ones(int(self.length[places].sum()), dtype=bool)
        counts = np.diff(self.ends)[places]
        first = np.repeat(self.ends[places] - (np.cumsum(counts) - counts), counts)
        ignored = self.ignored[first + np.arange(counts.sum())]
        kept[np.repeat(starts, counts) + ignored] = False
        return kept


@dataclass(frozen=True)
class Codes:
    """What fires on shared rows, feature after feature.

    Attributes:
        ends: Where the firings of each feature end, from 0.
        row: Row of each firing, ascending within a feature.
        value: Its value.
        n_rows: Rows that both analyses keep.
    """

    ends: Int64[np.ndarray, " _"]
    row: Int64[np.ndarray, " firing"]
    value: Float32[np.ndarray, " firing"]
    n_rows: int

    @property
    def counts(self) -> Int64[np.ndarray, " feature"]:
        """Rows on which each feature fires."""
        return np.diff(self.ends)

    def moments(self) -> tuple[Float64[np.ndarray, " feature"], Float64[np.ndarray, " feature"]]:
        """Return the sum of each feature over all rows, and the root of its squared deviations' sum.

        The second is exactly 0 where a feature never changes.
        """
        total, spread = np.zeros(len(self.counts)), np.zeros(len(self.counts))
        for feature, (low, high) in enumerate(zip(self.ends[:-1], self.ends[1:], strict=True)):
            own = self.value[low:high].astype(np.float64)
            silent = self.n_rows - len(own)
            if not len(own) or (not silent and own.min() == own.max()):
                total[feature] = own.sum()
                continue
            total[feature] = own.sum()
            mean = total[feature] / self.n_rows
            spread[feature] = np.sqrt(np.square(own - mean).sum() + silent * mean**2)
        return total, spread

    def by_row(
        self, rows: Int64[np.ndarray, " row"]
    ) -> tuple[
        Int64[np.ndarray, " _"], UInt32[np.ndarray, " firing"], Float32[np.ndarray, " firing"]
    ]:
        """Return where the firings of each row end, and their features and values, row after row.

        Args:
            rows: Where each row stands: its own number, or another's to permute them.
        """
        moved = rows[self.row]
        order = np.argsort(moved, kind="stable")
        ends = np.concatenate([[0], np.cumsum(np.bincount(moved, minlength=len(rows)))])
        feature = np.repeat(np.arange(len(self.counts), dtype=np.uint32), self.counts)
        return ends, feature[order], self.value[order]


def codes(analysis: Analysis, start: Int64[np.ndarray, " context"], rows: SharedRows) -> Codes:
    """Return what fires on shared rows.

    Args:
        analysis: Whose features.
        start: First of the rows in each of its contexts.
        rows: The rows.
    """
    counts = np.zeros(analysis.n_features, np.int64)
    parts: list[tuple[np.ndarray, np.ndarray]] = [(np.zeros(0, np.int64), np.zeros(0, np.float32))]
    for table, row, inside in _on(analysis, start, rows):
        counts += np.bincount(_whole(table["feature"])[inside], minlength=len(counts))
        value = table["value"].combine_chunks().to_numpy(zero_copy_only=False)
        parts.append((row[inside], value[inside].astype(np.float32)))
    row, value = (np.concatenate(each) for each in zip(*parts, strict=True))
    return Codes(np.concatenate([[0], np.cumsum(counts)]), row, value, rows.n_rows)


def counts_on(
    analysis: Analysis, start: Int64[np.ndarray, " context"], rows: SharedRows
) -> Int64[np.ndarray, " feature"]:
    """Return on how many shared rows each feature fires; arguments as of `codes`."""
    counts = np.zeros(analysis.n_features, np.int64)
    for table, _, inside in _on(analysis, start, rows):
        counts += np.bincount(_whole(table["feature"])[inside], minlength=len(counts))
    return counts


def _on(
    analysis: Analysis, start: Int64[np.ndarray, " context"], rows: SharedRows
) -> Iterator[tuple[pa.Table, Int64[np.ndarray, " firing"], Bool[np.ndarray, " firing"]]]:
    """Yield firings in feature order with their rows, and which of them are on shared rows."""
    for table in _read(analysis):
        first, position = start[_whole(table["context"])], _whole(table["position"])
        inside = first >= 0
        inside[inside] = rows.kept[first[inside] + position[inside]]
        yield table, first + position, inside


def _read(analysis: Analysis) -> Iterator[pa.Table]:
    """Yield the firings in feature order, a bounded number at a time but for one feature's."""
    counts = _whole(analysis.columns("features", ("n_firings",))["n_firings"])
    before = np.concatenate([[0], np.cumsum(counts)])
    first = 0
    while first < len(counts):
        stop = int(np.searchsorted(before, before[first] + _AT_ONCE, side="right")) - 1
        stop = max(stop, first + 1)
        yield analysis.rows(FIRINGS, range(first, stop))
        first = stop


def _whole(column: Any) -> Int64[np.ndarray, " _"]:
    """Return a column of whole numbers."""
    found = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    numbers: np.ndarray = found.to_numpy(zero_copy_only=False)
    return numbers.astype(np.int64)
