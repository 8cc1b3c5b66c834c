"""Moments of a hookpoint over the rows that training uses, exact and mergeable.

Float64 throughout: centred sums merged by Chan's formula, so a mean of 100 and a deviation of 1 lose
no digits. Measured while writing, per shard; a training run never estimates them from a few batches.
Rows are taken in tiles whose float64 copy stays in a core's cache, in a kept buffer: a pass over memory
costs more than the arithmetic.

The rows' norms are also counted in fixed bins, eight to a factor of two, so that counts of any two sets
of rows add up and the distribution of norms is known without reading a row.

Source: Chan, Golub and LeVeque 1979, updating formulae for computing sample variances.
"""

import threading
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64


NORM_BINS = 320
"""Bins of the norms: from 2**-16 to 2**24. The first also counts what is shorter, zero included,
the last what is longer."""
_PER_OCTAVE = 8
_LOWEST = -16
_SQUARED_EDGES = 2.0 ** (2 * (np.arange(1, NORM_BINS) / _PER_OCTAVE + _LOWEST))
"""Squared norms between two bins."""
_TILE = 1 << 17
"""Values of a tile: 1 MiB of float64, half of what a core's own cache holds today."""
_KEPT = threading.local()
_SHORT_DOT = 8192
"""Up to this width a BLAS dot product runs in one thread, so its rounding does not depend on how many
there are."""


@dataclass(frozen=True)
class Moments:
    """Count, mean, centred squares, norms and range of some rows.

    Attributes:
        count: Rows.
        mean: Mean of each dimension.
        m2: Sum of squared deviations from the mean, of each dimension.
        norm_sum: Sum of the rows' L2 norms.
        norm_sq_sum: Sum of the rows' squared L2 norms.
        min: Smallest value of each dimension; infinity without rows.
        max: Largest value of each dimension; minus infinity without rows.
        norms: Rows by their L2 norm, in the bins between `norm_edges`.
    """

    count: int
    mean: Float64[np.ndarray, " d"]
    m2: Float64[np.ndarray, " d"]
    norm_sum: float
    norm_sq_sum: float
    min: Float64[np.ndarray, " d"]
    max: Float64[np.ndarray, " d"]
    norms: Int64[np.ndarray, " bin"]

    @classmethod
    def none(cls, width: int) -> "Moments":
        """Return the moments of no rows."""
        zero = np.zeros(width)
        nobody = np.zeros(NORM_BINS, np.int64)
        return cls(0, zero, zero, 0.0, 0.0, zero + np.inf, zero - np.inf, nobody)

    @classmethod
    def of(cls, rows: Float32[np.ndarray, "row d"]) -> "Moments":
        """Return the moments of some rows."""
        width = rows.shape[1]
        step = max(_TILE // max(width, 1), 1)
        total = cls.none(width)
        for start in range(0, len(rows), step):
            total = total.merge(cls._of_tile(rows[start : start + step]))
        return total

    @classmethod
    def _of_tile(cls, rows: Float32[np.ndarray, "row d"]) -> "Moments":
        wide = _scratch(rows.size).reshape(rows.shape)
        np.copyto(wide, rows)
        if rows.shape[1] <= _SHORT_DOT:
            squares = np.vecdot(wide, wide)
        else:
            squares = np.einsum("rd,rd->r", wide, wide)
        mean = np.add.reduce(wide, axis=0) / len(rows)
        np.subtract(wide, mean, out=wide)
        bins = np.searchsorted(_SQUARED_EDGES, squares, side="right")
        return cls(
            count=len(rows),
            mean=mean,
            m2=np.einsum("rd,rd->d", wide, wide),
            norm_sum=float(np.sqrt(squares).sum()),
            norm_sq_sum=float(squares.sum()),
            min=np.minimum.reduce(rows, axis=0).astype(np.float64),
            max=np.maximum.reduce(rows, axis=0).astype(np.float64),
            norms=np.bincount(bins, minlength=NORM_BINS),
        )

    def merge(self, other: "Moments") -> "Moments":
        """Return the moments of both sets of rows together."""
        count = self.count + other.count
        if self.count == 0 or other.count == 0:
            return other if self.count == 0 else self
        delta = other.mean - self.mean
        return Moments(
            count=count,
            mean=self.mean + delta * (other.count / count),
            m2=self.m2 + other.m2 + delta**2 * (self.count * other.count / count),
            norm_sum=self.norm_sum + other.norm_sum,
            norm_sq_sum=self.norm_sq_sum + other.norm_sq_sum,
            min=np.minimum(self.min, other.min),
            max=np.maximum(self.max, other.max),
            norms=self.norms + other.norms,
        )

    @property
    def variance(self) -> Float64[np.ndarray, " d"]:
        """Population variance of each dimension; NaN without rows."""
        return self.m2 / (self.count or np.nan)

    @property
    def trace_cov(self) -> float:
        """Trace of the population covariance: the mean squared distance from the mean."""
        return float(self.m2.sum() / self.count) if self.count else float("nan")

    @property
    def mean_norm(self) -> float:
        """Mean L2 norm of a row."""
        return self.norm_sum / self.count if self.count else float("nan")

    @property
    def mean_sq_norm(self) -> float:
        """Mean squared L2 norm of a row."""
        return self.norm_sq_sum / self.count if self.count else float("nan")

    @property
    def std(self) -> Float64[np.ndarray, " d"]:
        """Population standard deviation of each dimension; NaN without rows."""
        std: Float64[np.ndarray, " d"] = np.sqrt(self.variance)
        return std

    def norm_quantile(self, share: float) -> float:
        """Return the norm that a share of the rows does not exceed, known to a bin's width of 9 %.

        It is the geometric middle of the bin in which that row lies; NaN without rows.
        """
        if not self.count:
            return float("nan")
        place = int(np.searchsorted(np.cumsum(self.norms), max(share * self.count, 1)))
        low, high = norm_edges()[place : place + 2]
        return float(np.sqrt(low * high))


def norm_edges() -> Float64[np.ndarray, " _"]:
    """Return the norms at which the bins of `Moments.norms` begin, and at which the last one ends."""
    edges: Float64[np.ndarray, " _"] = 2.0 ** (np.arange(NORM_BINS + 1) / _PER_OCTAVE + _LOWEST)
    return edges


def _scratch(values: int) -> Float64[np.ndarray, " _"]:
    """Return this thread's buffer: fresh pages would cost more than what is done in them."""
    kept: Float64[np.ndarray, " _"] | None = getattr(_KEPT, "buffer", None)
    if kept is None or len(kept) < values:
        kept = _KEPT.buffer = np.empty(max(values, _TILE))
    return kept[:values]
