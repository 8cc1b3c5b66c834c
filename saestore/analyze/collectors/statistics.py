"""The `features` table: counts, moments, quantiles, where and on what each feature fires."""

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Float64

from saestore.analyze import segments
from saestore.analyze.block import FeatureBlock
from saestore.analyze.collectors.collector import Pieces
from saestore.analyze.order import sample_offsets
from saestore.analyze.scope import Scope
from saestore.analyze.top_tokens import top_tokens
from saestore.analyze.weights import WeightFacts
from saestore.features import arrow
from saestore_schemas import tables


class Statistics:
    """Collects one line per feature; dead features have one too."""

    def __init__(self, scope: Scope, weights: WeightFacts) -> None:
        """Prepare to collect.

        Args:
            scope: The rows analysed.
            weights: What the weights alone say about each feature.
        """
        self._scope = scope
        self._weights = weights
        self.pieces = Pieces(tables.FEATURES.schema())

    def update(self, block: FeatureBlock) -> None:
        """Take features that it has not seen."""
        dead = block.counts == 0
        token, share = top_tokens(block, self._scope)
        columns = {
            "feature": block.features,
            "n_rows": np.full(block.n, self._scope.n_rows, np.uint64),
            "n_firings": block.counts.astype(np.uint64),
            "density": block.counts / np.float64(max(self._scope.n_rows, 1)),
            "n_contexts": np.diff(block.peaks.offsets).astype(np.uint32),
            **moments(block),
            **extremes(block),
            **quantiles(block),
            **self._places(block),
            "top_token_id": token,
            "top_token_share": share,
            "logit_scale": logit_scale(block, self._scope),
            "sample_offset": sample_offsets(
                block.first, block.n, contexts=self._scope.n_contexts, seed=self._scope.seed
            ),
        }
        schema = self.pieces.schema
        given = self._weights.columns(block.first, block.n)
        for name, values in columns.items():
            field = schema.field(name)
            null = dead if field.nullable else None
            if name == "logit_scale":
                null = np.isnan(values)
            given[name] = arrow.column(values, field.type, null=null)
        self.pieces.add(block.first, arrow.rows(schema, given))

    def merge(self, other: "Statistics") -> None:
        """Take everything another collector has seen."""
        self.pieces.merge(other.pieces)

    def table(self) -> pa.Table:
        """Return the rows of all features seen so far."""
        return self.pieces.table()

    def _places(self, block: FeatureBlock) -> dict[str, np.ndarray]:
        """Return when each feature first fires, and how often at a context's first kept row."""
        some = block.counts > 0
        first = block.offsets[:-1][some]
        rows = np.zeros(block.n, np.uint64)
        rows[some] = self._scope.kept_rows_before(
            block.context[first].astype(np.int64), block.position[first].astype(np.int64)
        )
        at_start = self._scope.first_kept[block.context] == block.position
        share = segments.totals(at_start, block.offsets) / np.maximum(block.counts, 1)
        return {"first_row": rows, "first_position_share": share}


def logit_scale(block: FeatureBlock, scope: Scope) -> Float64[np.ndarray, " feature"]:
    """Return each feature's mean of value over final-norm scale; NaN without firings, or without scales."""
    if scope.norm_scale is None:
        return np.full(block.n, np.nan)
    rows = scope.start[block.context] + block.position
    shares = block.value / np.asarray(scope.norm_scale[rows]).astype(np.float64)
    total = segments.sums(shares, block.offsets)
    return np.where(block.counts > 0, total / np.maximum(block.counts, 1), np.nan)


def moments(block: FeatureBlock) -> dict[str, Float64[np.ndarray, " feature"]]:
    """Return sums, mean and population standard deviation over each feature's firings.

    The deviation is summed around the mean: differences of raw sums would lose digits.
    """
    value = block.value.astype(np.float64)
    total = segments.sums(value, block.offsets)
    mean = total / np.maximum(block.counts, 1)
    square = segments.sums(value * value, block.offsets)
    value -= np.repeat(mean, block.counts)
    spread = segments.sums(value * value, block.offsets) / np.maximum(block.counts, 1)
    return {"sum": total, "sum_sq": square, "mean": mean, "std": np.sqrt(spread)}


def extremes(block: FeatureBlock) -> dict[str, np.ndarray]:
    """Return each feature's largest value with its first place, and its smallest."""
    at = segments.first_of(block.maxima, block.value, block.offsets)
    at = np.where(block.counts > 0, at, 0)
    context, position = (
        column[at] if len(column) else np.zeros(block.n, column.dtype)
        for column in (block.context, block.position)
    )
    return {
        "max": block.maxima,
        "max_context": context,
        "max_position": position,
        "min": segments.minima(block.value, block.offsets),
    }


def quantiles(block: FeatureBlock) -> dict[str, Float32[np.ndarray, " feature"]]:
    """Return each feature's discrete quantiles over its firings."""
    keys = segments.sorted_within(segments.as_keys(block.value), block.offsets)
    ascending = keys.view(np.float32)
    return {
        name: segments.permille(ascending, block.offsets, p) for name, p in tables.QUANTILES.items()
    }
