"""Moments of a hookpoint over the rows that training uses, exact and mergeable.

Float64 throughout: centred sums merged by Chan's formula, so a mean of 100 and a deviation of 1 lose
no digits. Measured while writing, per shard; a training run never estimates them from a few batches.
Rows are taken in tiles that stay in a core's cache while a compiled loop passes over them twice, for
their mean and for what is measured from it.

The rows' norms are also counted in fixed bins, eight to a factor of two, so that counts of any two sets
of rows add up and the distribution of norms is known without reading a row.

Source: Chan, Golub and LeVeque 1979, updating formulae for computing sample variances.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from saestore.compiled import compiled


NORM_BINS = 320
"""Bins of the norms: from 2**-16 to 2**24. The first also counts what is shorter, zero included,
the last what is longer."""
_PER_OCTAVE = 8
_LOWEST = -16
_SQUARED_EDGES = 2.0 ** (2 * (np.arange(1, NORM_BINS) / _PER_OCTAVE + _LOWEST))
"""Squared norms between two bins."""
_TILE = 1 << 16
"""Values of a tile: 256 KiB, half of what a core's own cache holds today."""


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
    def of(
        cls, rows: Float32[np.ndarray, "row d"], kept: Bool[np.ndarray, " row"] | None = None
    ) -> "Moments":
        """Return the moments of some rows.

        Args:
            rows: Contiguous, finite.
            kept: Which of them count; absent, all.
        """
        width = rows.shape[1]
        if kept is None:
            kept = np.ones(len(rows), np.bool_)
        mean, m2 = np.zeros(width), np.zeros(width)
        low, high = np.full(width, np.inf, np.float32), np.full(width, -np.inf, np.float32)
        squares = np.empty(len(rows))
        count = _measure(rows, kept, max(_TILE // max(width, 1), 1), mean, m2, low, high, squares)
        squares = squares[:count]
        bins = np.searchsorted(_SQUARED_EDGES, squares, side="right")
        return cls(
            count=count,
            mean=mean,
            m2=m2,
            norm_sum=float(np.sqrt(squares).sum()),
            norm_sq_sum=float(squares.sum()),
            min=low.astype(np.float64),
            max=high.astype(np.float64),
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


@compiled
def _measure(  # noqa: C901, PLR0912, PLR0917 - loops over one tile, while it is in cache
    rows: Float32[np.ndarray, "row d"],
    kept: Bool[np.ndarray, " row"],
    tile: int,
    mean: Float64[np.ndarray, " d"],
    m2: Float64[np.ndarray, " d"],
    low: Float32[np.ndarray, " d"],
    high: Float32[np.ndarray, " d"],
    squares: Float64[np.ndarray, " row"],
) -> int:
    """Fill in the moments of the kept rows and their squared norms; return how many they are."""
    width = rows.shape[1]
    here, square = np.empty(width), np.zeros(width)
    count = 0
    for start in range(0, len(rows), tile):
        stop = min(start + tile, len(rows))
        more = 0
        here[:] = 0
        for row in range(start, stop):
            if kept[row]:
                more += 1
                for at in range(width):
                    here[at] += rows[row, at]
        if more == 0:
            continue
        share = more / (count + more)
        for at in range(width):
            here[at] /= more
            apart = here[at] - mean[at]
            m2[at] += apart * apart * (count * share)
            mean[at] += apart * share
        for row in range(start, stop):
            if kept[row]:
                for at in range(width):
                    off = np.float64(rows[row, at]) - here[at]
                    m2[at] += off * off
                # Halves are added, so the sum is the same whatever the processor does at once.
                for at in range(width):
                    square[at] = np.float64(rows[row, at]) ** 2
                length = width
                while length > 1:
                    half = (length + 1) // 2
                    for at in range(length // 2):
                        square[at] += square[at + half]
                    length = half
                squares[count] = square[0]
                count += 1
        # Loops of their own: together with others they become code that does one value at once.
        for row in range(start, stop):
            if kept[row]:
                np.minimum(low, rows[row], low)
        for row in range(start, stop):
            if kept[row]:
                np.maximum(high, rows[row], high)
    return count
