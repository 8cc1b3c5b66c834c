"""The `features` table: counts, moments, quantiles, where and on what each feature fires."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Float64, Int64, UInt64

from saestore.analyze import segments
from saestore.analyze.block import FeatureBlock
from saestore.analyze.collectors.collector import Pieces
from saestore.analyze.exact_sums import ExactSums
from saestore.analyze.order import sample_offsets
from saestore.analyze.scope import Scope
from saestore.analyze.segment_loops import first_of_runs
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
        token, share = top_tokens(block, self._scope)
        at_start = first_positions(block, self._scope)
        numbers = {
            "n_firings": block.counts,
            "n_contexts": np.diff(block.peaks.offsets),
            **moments(block),
            **extremes(block),
            **quantiles(block),
            "first_row": first_rows(block, self._scope),
            "first_position_share": at_start / np.maximum(block.counts, 1),
            "top_token_id": token,
            "top_token_share": share,
            "logit_scale": logit_scale(block, self._scope),
        }
        self.pieces.add(block.first, lines(block.first, numbers, self._scope, self._weights))

    def merge(self, other: "Statistics") -> None:
        """Take everything another collector has seen."""
        self.pieces.merge(other.pieces)

    def table(self) -> pa.Table:
        """Return the rows of all features seen so far."""
        return self.pieces.table()


def lines(
    first: int, numbers: Mapping[str, np.ndarray], scope: Scope, weights: WeightFacts
) -> pa.Table:
    """Return the lines of consecutive features.

    Args:
        first: The first feature.
        numbers: Columns, `n_firings` among them; those that are missing are null, and those of features
            that never fire if they can be.
        scope: The rows analysed.
        weights: What the weights alone say about each feature.
    """
    counts = numbers["n_firings"]
    n = len(counts)
    columns = {
        **numbers,
        "feature": np.arange(first, first + n),
        "n_rows": np.full(n, scope.n_rows),
        "density": counts / np.float64(max(scope.n_rows, 1)),
        "sample_offset": sample_offsets(first, n, contexts=scope.n_contexts, seed=scope.seed),
    }
    schema = tables.FEATURES.schema()
    found = weights.columns(first, n)
    for field in schema:
        if field.name in columns:
            values = columns[field.name].astype(field.type.to_pandas_dtype())
            null = counts == 0 if field.nullable else None
            if field.name == "logit_scale":
                null = np.isnan(values)
            found[field.name] = arrow.column(values, field.type, null=null)
        elif field.name not in found:
            found[field.name] = pa.nulls(n, field.type)
    return arrow.rows(schema, found)


def first_rows(block: FeatureBlock, scope: Scope) -> UInt64[np.ndarray, " feature"]:
    """Return how many kept rows come before each feature's first firing; 0 if it never fires."""
    some = block.counts > 0
    first = block.offsets[:-1][some]
    rows = np.zeros(block.n, np.uint64)
    rows[some] = scope.kept_rows_before(
        block.context[first].astype(np.int64), block.position[first].astype(np.int64)
    )
    return rows


def first_positions(block: FeatureBlock, scope: Scope) -> Int64[np.ndarray, " feature"]:
    """Return how many firings of each feature are at a context's first kept position."""
    return segments.totals(scope.first_kept[block.context] == block.position, block.offsets)


def logit_scale(block: FeatureBlock, scope: Scope) -> Float64[np.ndarray, " feature"]:
    """Return each feature's mean of value over final-norm scale; NaN without firings, or without scales."""
    if scope.norm_scale is None:
        return np.full(block.n, np.nan)
    rows = scope.start[block.context] + block.position
    shares = block.value / np.asarray(scope.norm_scale[rows]).astype(np.float64)
    total = segments.sums(shares, block.offsets)
    return np.where(block.counts > 0, total / np.maximum(block.counts, 1), np.nan)


def moments(block: FeatureBlock) -> dict[str, Float64[np.ndarray, " feature"]]:
    """Return sums, mean and population standard deviation over each feature's firings."""
    sums = ExactSums.of(block.n)
    sums.add(block.value, block.offsets)
    return sums.moments(block.counts)


def extremes(block: FeatureBlock) -> dict[str, np.ndarray]:
    """Return each feature's largest strength with its first place, and its smallest."""
    at = first_of_runs(block.maxima, block.strength, block.offsets)
    at = np.where(block.counts > 0, at, 0)
    context, position = (
        column[at] if len(column) else np.zeros(block.n, column.dtype)
        for column in (block.context, block.position)
    )
    return {
        "max": block.maxima,
        "max_context": context,
        "max_position": position,
        "min": segments.minima(block.strength, block.offsets),
    }


def quantiles(block: FeatureBlock) -> dict[str, Float32[np.ndarray, " feature"]]:
    """Return the discrete quantiles of each feature's strengths."""
    keys = segments.sorted_within(segments.as_keys(block.strength), block.offsets)
    ascending = keys.view(np.float32)
    return {
        name: segments.permille(ascending, block.offsets, p) for name, p in tables.QUANTILES.items()
    }
