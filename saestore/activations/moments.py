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
        running = RunningMoments(rows.shape[1])
        running.add(rows, np.ones(len(rows), np.bool_) if kept is None else kept)
        return running.moments()

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


class RunningMoments:
    """Moments of rows that come piece by piece, in memory that is kept."""

    def __init__(self, width: int) -> None:
        """Begin without rows."""
        self._count = 0
        self._mean, self._m2 = np.zeros((2, width))
        self._range = np.empty((2, width), np.float32)
        self._range[0], self._range[1] = np.inf, -np.inf
        self._norms = np.zeros(NORM_BINS, np.int64)
        self._norm_sums = np.zeros(2)
        self._room = np.empty((4, width))

    def add(self, rows: Float32[np.ndarray, "row d"], kept: Bool[np.ndarray, " row"]) -> None:
        """Add the kept ones of some rows: contiguous, finite."""
        self._count += _add(
            rows,
            kept,
            self._count,
            self._mean,
            self._m2,
            self._range,
            self._norms,
            self._norm_sums,
            _SQUARED_EDGES,
            self._room,
            _FIRST,
        )

    def moments(self) -> Moments:
        """Return the moments of all rows so far."""
        low, high = self._range.astype(np.float64)
        return Moments(
            count=self._count,
            mean=self._mean.copy(),
            m2=self._m2.copy(),
            norm_sum=float(self._norm_sums[0]),
            norm_sq_sum=float(self._norm_sums[1]),
            min=low,
            max=high,
            norms=self._norms.copy(),
        )


@compiled
def _add(  # noqa: PLR0917 - all that a pass over rows fills
    rows: Float32[np.ndarray, "row d"],
    kept: Bool[np.ndarray, " row"],
    before: int,
    mean: Float64[np.ndarray, " d"],
    m2: Float64[np.ndarray, " d"],
    extremes: Float32[np.ndarray, "2 d"],
    norms: Int64[np.ndarray, " bin"],
    norm_sums: Float64[np.ndarray, " _"],
    edges: Float64[np.ndarray, " _"],
    room: Float64[np.ndarray, "_ d"],
    few: int,
) -> int:
    """Merge the moments of the kept rows into those of the rows before; return how many there were.

    `room` is scratch memory; distances are measured from the mean of the first few.
    """
    chosen = np.flatnonzero(kept)
    count = len(chosen)
    if count == 0:
        return 0
    middle, first, second, square = room[0], room[1], room[2], room[3]
    _mean_of(rows, chosen[:few], middle)
    first[:] = 0.0
    second[:] = 0.0
    _measure(rows, chosen, middle, first, second, extremes[0], extremes[1])
    total = before + count
    share, weight = count / total, before * count / total
    for at in range(len(mean)):
        mine = middle[at] + first[at] / count
        squares = max(second[at] - first[at] * first[at] / count, 0.0)
        delta = mine - mean[at]
        mean[at] = mean[at] + delta * share if before else mine
        m2[at] += squares + delta * delta * weight
    for place in range(count):
        squared = _squared_norm(rows[chosen[place]], square)
        norms[np.searchsorted(edges, squared, side="right")] += 1
        norm_sums[0] += np.sqrt(squared)
        norm_sums[1] += squared
    return count


@compiled
def _mean_of(
    rows: Float32[np.ndarray, "row d"],
    chosen: Int64[np.ndarray, " row"],
    mean: Float64[np.ndarray, " d"],
) -> None:
    """Fill in the mean of the chosen rows."""
    mean[:] = 0.0
    for place in range(len(chosen)):
        row = rows[chosen[place]]
        for at in range(len(mean)):
            mean[at] += row[at]
    mean /= len(chosen)


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
def _squared_norm(row: Float32[np.ndarray, " d"], square: Float64[np.ndarray, " d"]) -> float:
    """Return the squared norm of a row; `square` is scratch memory.

    Eighths are added, then halves of what comes of them, so that many values are added at once and the
    sum is the same whatever the processor does at once.
    """
    length = len(row) // 8
    for at in range(length):
        a, b = np.float64(row[at]), np.float64(row[at + length])
        c, d = np.float64(row[at + 2 * length]), np.float64(row[at + 3 * length])
        e, f = np.float64(row[at + 4 * length]), np.float64(row[at + 5 * length])
        g, h = np.float64(row[at + 6 * length]), np.float64(row[at + 7 * length])
        square[at] = ((a * a + b * b) + (c * c + d * d)) + ((e * e + f * f) + (g * g + h * h))
    total = 0.0
    for at in range(8 * length, len(row)):
        value = np.float64(row[at])
        total += value * value
    while length > 1:
        half = (length + 1) // 2
        for at in range(length // 2):
            square[at] += square[at + half]
        length = half
    return total + square[0] if length else total
