"""Moments of a hookpoint over the rows that training uses, exact and mergeable.

Float64 throughout: centred sums merged by Chan's formula, so a mean of 100 and a deviation of 1 lose
no digits. Measured while writing, per shard; a training run never estimates them from a few batches.
A compiled loop passes over rows once, and adds up distances from the mean of the first few: that is near
enough to the mean of all for their squares to lose nothing.

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
_FIRST = 16
"""Rows from whose mean distances are measured: one row could be an outlier."""
_TOGETHER = 4
"""Rows that are added at once."""


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
        chosen = _kept_rows(kept)
        count = len(chosen)
        if count == 0:
            return cls.none(width)
        middle = _mean_of(rows, chosen[:_FIRST])
        first, second = np.zeros(width), np.zeros(width)
        low, high = np.full(width, np.inf, np.float32), np.full(width, -np.inf, np.float32)
        _measure(rows, chosen, middle, first, second, low, high)
        squares = np.empty(count)
        _squared_norms(rows, chosen, squares)
        bins = np.searchsorted(_SQUARED_EDGES, squares, side="right")
        return cls(
            count=count,
            mean=middle + first / count,
            m2=np.maximum(second - first * first / count, 0.0),
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
def _kept_rows(kept: Bool[np.ndarray, " row"]) -> Int64[np.ndarray, " row"]:
    """Return which rows are kept."""
    chosen = np.empty(len(kept), np.int64)
    count = 0
    for row in range(len(kept)):
        if kept[row]:
            chosen[count] = row
            count += 1
    return chosen[:count]


@compiled
def _mean_of(
    rows: Float32[np.ndarray, "row d"], chosen: Int64[np.ndarray, " row"]
) -> Float64[np.ndarray, " d"]:
    """Return the mean of some rows."""
    mean = np.zeros(rows.shape[1])
    for place in range(len(chosen)):
        row = rows[chosen[place]]
        for at in range(len(mean)):
            mean[at] += row[at]
    mean /= len(chosen)
    return mean


@compiled
def _measure(  # noqa: PLR0917 - one pass fills all of them
    rows: Float32[np.ndarray, "row d"],
    chosen: Int64[np.ndarray, " row"],
    middle: Float64[np.ndarray, " d"],
    first: Float64[np.ndarray, " d"],
    second: Float64[np.ndarray, " d"],
    low: Float32[np.ndarray, " d"],
    high: Float32[np.ndarray, " d"],
) -> None:
    """Add the chosen rows' distances from `middle` and their squares, and widen the range.

    Four rows at a time, so that the sums are fetched and put back once for four values.
    """
    width = rows.shape[1]
    whole = len(chosen) // _TOGETHER * _TOGETHER
    for group in range(0, whole, _TOGETHER):
        one, two = rows[chosen[group]], rows[chosen[group + 1]]
        three, four = rows[chosen[group + 2]], rows[chosen[group + 3]]
        for at in range(width):
            m = middle[at]
            a, b = np.float64(one[at]) - m, np.float64(two[at]) - m
            c, d = np.float64(three[at]) - m, np.float64(four[at]) - m
            first[at] += (a + b) + (c + d)
            second[at] += (a * a + b * b) + (c * c + d * d)
        # Loops of their own: together with others they become code that does one value at once.
        for at in range(width):
            low[at] = min(low[at], one[at], two[at], three[at], four[at])
        for at in range(width):
            high[at] = max(high[at], one[at], two[at], three[at], four[at])
    for place in range(whole, len(chosen)):
        row = rows[chosen[place]]
        for at in range(width):
            a = np.float64(row[at]) - middle[at]
            first[at] += a
            second[at] += a * a
            low[at] = min(low[at], row[at])
            high[at] = max(high[at], row[at])


@compiled
def _squared_norms(
    rows: Float32[np.ndarray, "row d"],
    chosen: Int64[np.ndarray, " row"],
    squares: Float64[np.ndarray, " row"],
) -> None:
    """Fill in the squared norms of the chosen rows.

    Halves are added, so that a sum is the same whatever the processor does at once.
    """
    square = np.empty(rows.shape[1])
    for place in range(len(chosen)):
        row = rows[chosen[place]]
        for at in range(len(square)):
            value = np.float64(row[at])
            square[at] = value * value
        length = len(square)
        while length > 1:
            half = (length + 1) // 2
            for at in range(length // 2):
                square[at] += square[at + half]
            length = half
        squares[place] = square[0]
