"""The `histograms` table: of each feature's values, and of its logit scores, in fixed numbers of bins."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Float64, Int64

from saestore.analyze.block import FeatureBlock
from saestore.analyze.collectors.collector import Pieces
from saestore.analyze.collectors.statistics import logit_scale
from saestore.analyze.logits import LogitHistogram
from saestore.analyze.scope import Scope
from saestore.analyze.segment_loops import over_runs
from saestore.compiled import compiled
from saestore.features import arrow
from saestore_schemas import tables


BINS = 50
"""Equal bins on [0, max] of `value` and `peak`."""
POSITIONS = 32
"""Equal bins over the context."""
LOG_EDGES = 2.0 ** (np.arange(-96, 64) / 4)
"""Lower edges of `log_value`: quarter octaves; the ends absorb the rest."""
_LOWEST = 127 - 24
"""Biased exponent of the lowest edge, 2^-24."""


class Histograms:
    """Collects `log_value`, `peak`, `position` and `value`; all counts 0 if a feature is dead.

    Histograms of logit scores, which need no firings, are put beside them.
    """

    def __init__(self, scope: Scope, logits: Sequence[LogitHistogram] = ()) -> None:
        """Prepare to collect.

        Args:
            scope: The rows analysed.
            logits: Histograms of the logit scores of all features, if they are known.
        """
        self._scope = scope
        self._logits = tuple(logits)
        self.pieces = Pieces(tables.HISTOGRAMS.schema())

    def update(self, block: FeatureBlock) -> None:
        """Take features that it has not seen."""
        peaks = block.peaks
        zero = np.zeros(block.n, np.float32)
        parts = [
            *fixed(log_counts(block), position_counts(block, self._scope), self._scope),
            ("peak", equal_counts(peaks.strength, peaks.offsets, block.maxima), zero, block.maxima),
            (
                "value",
                equal_counts(block.strength, block.offsets, block.maxima),
                zero,
                block.maxima,
            ),
        ]
        scaled = any(each.scaled for each in self._logits)
        scale = logit_scale(block, self._scope) if scaled else None
        scores = of_scores(self._logits, slice(block.first, block.first + block.n), scale)
        self.pieces.add(block.first, lines(block.first, [*parts, *scores]))

    def merge(self, other: "Histograms") -> None:
        """Take everything another collector has seen."""
        self.pieces.merge(other.pieces)

    def table(self) -> pa.Table:
        """Return the rows of all features seen so far."""
        return self.pieces.table()


def equal_counts(
    values: Float32[np.ndarray, " firing"],
    offsets: Int64[np.ndarray, " _"],
    top: Float32[np.ndarray, " feature"],
) -> Int64[np.ndarray, "feature 50"]:
    """Return how many values of each run are in bin min(floor(value / top * 50), 49), in float64."""
    counts = np.zeros((len(offsets) - 1, BINS), np.int64)
    over_runs(_count_equal, offsets, values, top.astype(np.float64), counts)
    return counts


def log_counts(block: FeatureBlock) -> Int64[np.ndarray, "feature 160"]:
    """Return each feature's firings in the bins of `log_value`."""
    counts = np.zeros((block.n, len(LOG_EDGES)), np.int64)
    strength = np.ascontiguousarray(block.strength)
    over_runs(_count_log, block.offsets, strength, strength.view(np.uint32), LOG_EDGES, counts)
    return counts


def position_counts(block: FeatureBlock, scope: Scope) -> Int64[np.ndarray, "feature 32"]:
    """Return each feature's firings in the bins of `position`."""
    counts = np.zeros((block.n, POSITIONS), np.int64)
    places = np.arange(scope.context_size) * POSITIONS // scope.context_size
    over_runs(_count_places, block.offsets, block.position, places, counts)
    return counts


@compiled
def _count_equal(first: int, stop: int, offsets: Any, values: Any, top: Any, counts: Any) -> None:
    bins = counts.shape[1]
    for run in range(first, stop):
        for at in range(offsets[run], offsets[run + 1]):
            place = np.int64(np.float64(values[at]) / top[run] * bins)
            counts[run, min(place, bins - 1)] += 1


@compiled
def _count_log(  # noqa: PLR0917 - arrays of one loop
    first: int, stop: int, offsets: Any, values: Any, bits: Any, edges: Any, counts: Any
) -> None:
    octaves = len(edges) // 4
    for run in range(first, stop):
        for at in range(offsets[run], offsets[run + 1]):
            # an octave is an exponent of float32; edges inside one are no float32
            octave = np.int64(bits[at] >> np.uint32(23)) - _LOWEST
            if octave < 0:
                counts[run, 0] += 1
            elif octave >= octaves:
                counts[run, 4 * octaves - 1] += 1
            else:
                value, place = np.float64(values[at]), 4 * octave
                place += (
                    (value >= edges[place + 1])
                    + (value >= edges[place + 2])
                    + (value >= edges[place + 3])
                )
                counts[run, place] += 1


@compiled
def _count_places(
    first: int, stop: int, offsets: Any, position: Any, places: Any, counts: Any
) -> None:
    for run in range(first, stop):
        for at in range(offsets[run], offsets[run + 1]):
            counts[run, places[min(np.int64(position[at]), len(places) - 1)]] += 1


Part = tuple[str, np.ndarray, np.ndarray, np.ndarray]
"""A histogram's name, its counts by feature and bin, and each feature's ends."""


def fixed(
    log_value: Int64[np.ndarray, "feature 160"],
    position: Int64[np.ndarray, "feature 32"],
    scope: Scope,
) -> list[Part]:
    """Return the histograms whose bins are the same for all features."""
    one = np.ones(len(position), np.float32)
    size = np.float32(scope.context_size)
    return [
        ("log_value", log_value, one * np.float32(LOG_EDGES[0]), one * np.float32(2.0**16)),
        ("position", position, one * 0, one * size),
    ]


def of_scores(
    logits: Sequence[LogitHistogram], features: slice, scale: Float64[np.ndarray, " feature"] | None
) -> list[Part]:
    """Return the histograms of logit scores of some features.

    Args:
        logits: Histograms of all features.
        features: Which.
        scale: Their logit scales, where a score needs them.
    """
    return [each.of(features, scale) for each in logits]


def lines(first: int, parts: Sequence[Part]) -> pa.Table:
    """Return one row per feature and histogram, by feature, then by name.

    Args:
        first: The first feature.
        parts: Histograms of consecutive features.
    """
    n = len(parts[0][1])
    every = sorted(parts, key=lambda part: part[0])
    schema = tables.HISTOGRAMS.schema()
    widths = np.array([counts.shape[1] for _, counts, _, _ in every])
    ends = np.concatenate([[0], np.cumsum(np.tile(widths, n))])
    counts = np.concatenate([counts for _, counts, _, _ in every], axis=1).astype(np.uint64)
    columns = {
        "feature": np.repeat(np.arange(first, first + n, dtype=np.uint32), len(every)),
        "what": [name for name, _, _, _ in every] * n,
        "lo": np.stack([lo for _, _, lo, _ in every], axis=1).reshape(-1),
        "hi": np.stack([hi for _, _, _, hi in every], axis=1).reshape(-1),
        "counts": arrow.lists(schema, "counts", ends, counts.reshape(-1)),
    }
    return arrow.rows(schema, columns)
