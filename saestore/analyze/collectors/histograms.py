"""The `histograms` table: of each feature's values, and of its logit scores, in fixed numbers of bins."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Float64, Int64

from saestore.analyze import segments
from saestore.analyze.block import FeatureBlock
from saestore.analyze.collectors.collector import Pieces
from saestore.analyze.collectors.statistics import logit_scale
from saestore.analyze.logits import LogitHistogram
from saestore.analyze.scope import Scope
from saestore.features import arrow
from saestore_schemas import tables


BINS = 50
"""Equal bins on [0, max] of `value` and `peak`."""
POSITIONS = 32
"""Equal bins over the context."""
LOG_EDGES = 2.0 ** (np.arange(-96, 64) / 4)
"""Lower edges of `log_value`: quarter octaves; the ends absorb the rest."""


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
        size = self._scope.context_size
        peaks = block.peaks
        log_bin = np.searchsorted(LOG_EDGES, block.value.astype(np.float64), side="right") - 1
        place = np.minimum(block.position.astype(np.int64) * POSITIONS // size, POSITIONS - 1)
        zero = np.zeros(block.n, np.float32)
        own = slice(block.first, block.first + block.n)
        scaled = any(each.scaled for each in self._logits)
        scale = logit_scale(block, self._scope) if scaled else None
        parts = [
            *(each.of(own, scale) for each in self._logits),
            (
                "log_value",
                counted(np.maximum(log_bin, 0), block.offsets, len(LOG_EDGES)),
                zero + np.float32(LOG_EDGES[0]),
                zero + np.float32(2.0**16),
            ),
            (
                "peak",
                counted(equal_bins(peaks.value, peaks.offsets, block.maxima), peaks.offsets, BINS),
                zero,
                block.maxima,
            ),
            (
                "position",
                counted(place, block.offsets, POSITIONS),
                zero,
                zero + np.float32(size),
            ),
            (
                "value",
                counted(equal_bins(block.value, block.offsets, block.maxima), block.offsets, BINS),
                zero,
                block.maxima,
            ),
        ]
        # by name, as the table is sorted
        self.pieces.add(block.first, _rows(block, sorted(parts, key=lambda part: part[0])))

    def merge(self, other: "Histograms") -> None:
        """Take everything another collector has seen."""
        self.pieces.merge(other.pieces)

    def table(self) -> pa.Table:
        """Return the rows of all features seen so far."""
        return self.pieces.table()


def equal_bins(
    values: Float32[np.ndarray, " firing"],
    offsets: Int64[np.ndarray, " _"],
    top: Float32[np.ndarray, " feature"],
) -> Int64[np.ndarray, " firing"]:
    """Return min(floor(value / max * 50), 49) in float64, max being that of the value's run."""
    share: Float64[np.ndarray, " firing"] = values.astype(np.float64)
    share /= np.repeat(top.astype(np.float64), np.diff(offsets))
    share *= BINS
    return np.minimum(share.astype(np.int64), BINS - 1)


def counted(
    bins: Int64[np.ndarray, " firing"], offsets: Int64[np.ndarray, " _"], n: int
) -> Int64[np.ndarray, "feature bin"]:
    """Return how many elements of each run fall into each of n bins."""
    runs = len(offsets) - 1
    flat = np.bincount(segments.run_of(offsets) * n + bins, minlength=runs * n)
    return flat.reshape(runs, n)


def _rows(
    block: FeatureBlock, parts: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]
) -> pa.Table:
    """Return one row per feature and histogram, by feature, then by name."""
    schema = tables.HISTOGRAMS.schema()
    widths = np.array([counts.shape[1] for _, counts, _, _ in parts])
    ends = np.concatenate([[0], np.cumsum(np.tile(widths, block.n))])
    counts = np.concatenate([counts for _, counts, _, _ in parts], axis=1).astype(np.uint64)
    columns = {
        "feature": np.repeat(block.features, len(parts)),
        "what": [name for name, _, _, _ in parts] * block.n,
        "lo": np.stack([lo for _, _, lo, _ in parts], axis=1).reshape(-1),
        "hi": np.stack([hi for _, _, _, hi in parts], axis=1).reshape(-1),
        "counts": arrow.lists(schema, "counts", ends, counts.reshape(-1)),
    }
    return arrow.rows(schema, columns)
