"""The `examples` table: the contexts shown for each feature, cut to a window around the peak."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int64, UInt16

from saestore.analyze import segments
from saestore.analyze.block import FeatureBlock
from saestore.analyze.collectors.collector import Pieces
from saestore.analyze.negatives import Negatives
from saestore.analyze.scope import Scope
from saestore.analyze.sort import stable_order
from saestore.analyze.subsamples import Asked, Chosen, choose
from saestore.features import arrow
from saestore_schemas import tables
from saestore_schemas.analyze import Subsample


class Examples:
    """Collects the examples of every subsample asked for."""

    def __init__(
        self,
        scope: Scope,
        subsamples: Mapping[str, Subsample],
        negatives: Negatives | None = None,
    ) -> None:
        """Prepare to collect.

        Args:
            scope: The rows analysed.
            subsamples: What to choose, by name.
            negatives: What hard negatives are found with, if some are chosen.
        """
        self._scope = scope
        self._negatives = negatives or Negatives()
        self._subsamples = dict(sorted(subsamples.items()))
        self.pieces = Pieces(tables.EXAMPLES.schema())

    def update(self, block: FeatureBlock) -> None:
        """Take features that it has not seen."""
        parts = [self._rows(name, subsample, block) for name, subsample in self._subsamples.items()]
        rows = pa.concat_tables([self.pieces.schema.empty_table(), *parts]).combine_chunks()
        # each part is sorted and the parts are by name: only the features are left to bring together
        self.pieces.add(block.first, rows.take(stable_order(rows["feature"].to_numpy())))

    def merge(self, other: "Examples") -> None:
        """Take everything another collector has seen."""
        self.pieces.merge(other.pieces)

    def table(self) -> pa.Table:
        """Return the rows of all features seen so far."""
        return self.pieces.table()

    def _rows(self, name: str, subsample: Subsample, block: FeatureBlock) -> pa.Table:
        chosen = choose(subsample, Asked(block, self._scope, self._negatives))
        fires = chosen.pair >= 0
        pair = chosen.pair[fires]
        peak, value = chosen.position, np.zeros(len(fires), np.float32)
        at_peak = block.peaks.position[pair] == peak[fires]
        value[fires] = np.where(at_peak, block.peaks.strength[pair], np.float32(0))
        size = self._scope.length[chosen.context]
        length = size if subsample.window is None else np.minimum(size, subsample.window)
        half = 0 if subsample.window is None else subsample.window // 2
        start = np.clip(peak - half, 0, size - length)
        positions, values = _inside(chosen, block, start, start + length)
        n = len(fires)
        columns = {
            "feature": (chosen.feature + block.first).astype(np.uint32),
            "subsample": arrow.repeated(name, n),
            "stratum": chosen.stratum.astype(np.uint8),
            "rank": chosen.rank.astype(np.uint16),
            "context": chosen.context,
            "peak_position": peak.astype(np.uint16),
            "peak": value,
            "window_start": start.astype(np.uint16),
            "window_length": length.astype(np.uint16),
            "positions": positions,
            "values": values,
            "n_eligible": chosen.n_eligible.astype(np.uint32),
        }
        return arrow.rows(self.pieces.schema, columns)


def _inside(
    chosen: Chosen,
    block: FeatureBlock,
    low: Int64[np.ndarray, " example"],
    high: Int64[np.ndarray, " example"],
) -> tuple[Any, Any]:
    """Return the firings of each example inside its window, as lists of positions and values."""
    fires = chosen.pair >= 0
    start, stop = np.zeros(len(fires), np.int64), np.zeros(len(fires), np.int64)
    start[fires] = block.peaks.start[chosen.pair[fires]]
    stop[fires] = block.peaks.stop[chosen.pair[fires]]
    firing, offsets = segments.ragged(start, stop)
    position: UInt16[np.ndarray, " firing"] = block.position[firing]
    lengths = np.diff(offsets)
    inside = (position >= np.repeat(low, lengths)) & (position < np.repeat(high, lengths))
    ends = np.concatenate([[0], np.cumsum(segments.totals(inside, offsets))])
    schema = tables.EXAMPLES.schema()
    return (
        arrow.lists(schema, "positions", ends, position[inside]),
        arrow.lists(schema, "values", ends, block.value[firing[inside]]),
    )
