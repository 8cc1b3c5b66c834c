"""The `coactivation` table: which features fire on the same rows as each feature.

    phi = (n_both n - n_f n_o) / sqrt(n_f n_o (n - n_f) (n - n_o))

is the correlation of the indicators of firing on n rows, those without any firing among them. A
feature that never fires there, or on all of them, has none.
"""

import numpy as np
import pyarrow as pa
from jaxtyping import Float64

from saestore.analyze import segments
from saestore.analyze.block import FeatureBlock
from saestore.analyze.collectors.collector import Pieces
from saestore.analyze.joint import Sample
from saestore.analyze.relation_loops import together
from saestore.features import arrow
from saestore_schemas import tables
from saestore_schemas.analyze import CoactivationSettings


class Coactivation:
    """Collects the features that fire with each feature."""

    def __init__(self, sample: Sample, settings: CoactivationSettings) -> None:
        """Prepare to collect.

        Args:
            sample: The rows counted.
            settings: Which features are kept.
        """
        self._sample = sample
        self._settings = settings
        self.pieces = Pieces(tables.COACTIVATION.schema())

    def update(self, block: FeatureBlock) -> None:
        """Take features that it has not seen."""
        wanted, rows = self._settings, self._sample.rows
        here = self._sample.of(block)
        found = together(here, block.first, rows, top_k=wanted.top_k, min_both=wanted.min_both)
        own, other = np.diff(here[0])[found.feature], rows.counts[found.other]
        numbers = ratios(own, other, found.both, rows.n_rows)
        columns = {
            "feature": block.features[found.feature],
            "other": found.other.astype(np.uint32),
            "rank": found.rank.astype(np.uint16),
            "n_feature": own.astype(np.uint32),
            "n_other": other.astype(np.uint32),
            "n_both": found.both.astype(np.uint32),
            "n_rows": np.full(len(own), rows.n_rows, np.uint64),
            "sum_feature": segments.sums(here[2].astype(np.float64), here[0])[found.feature],
            "sum_product": found.product,
            **{name: each.astype(np.float32) for name, each in numbers.items()},
        }
        self.pieces.add(block.first, arrow.rows(self.pieces.schema, columns))

    def merge(self, other: "Coactivation") -> None:
        """Take everything another collector has seen."""
        self.pieces.merge(other.pieces)

    def table(self) -> pa.Table:
        """Return the rows of all features seen so far."""
        return self.pieces.table()


def ratios(
    own: np.ndarray, other: np.ndarray, both: np.ndarray, rows: int
) -> dict[str, Float64[np.ndarray, " _"]]:
    """Return what four counts say: jaccard, phi, lift."""
    a, b, n = own.astype(np.float64), other.astype(np.float64), np.float64(rows)
    return {
        "jaccard": both / (a + b - both),
        "phi": (both * n - a * b) / np.sqrt(a * b * (n - a) * (n - b)),
        "lift": both * n / (a * b),
    }
