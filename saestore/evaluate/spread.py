"""Count, mean and spread of rows, in a form that merges exactly.

Source: Chan, Golub, LeVeque 1979.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64


@dataclass(frozen=True)
class Spread:
    """Count, mean and summed squared deviations of rows, all but the count per dimension.

    Attributes:
        count: Rows.
        shift: A row that was subtracted before anything was summed.
        mean: Mean of the shifted rows.
        m2: Sum of squared deviations from the mean.
    """

    count: int
    shift: Float64[np.ndarray, " d"]
    mean: Float64[np.ndarray, " d"]
    m2: Float64[np.ndarray, " d"]

    @classmethod
    def of(cls, rows: Float[np.ndarray, "row d"]) -> "Spread":
        """Return the spread of some rows, at least one."""
        shift = rows[0].astype(np.float64)
        shifted = rows.astype(np.float64) - shift
        mean = shifted.mean(axis=0)
        return cls(len(rows), shift, mean, np.square(shifted - mean).sum(axis=0))

    def merge(self, other: "Spread") -> "Spread":
        """Return the spread of both sets of rows (Chan's formula)."""
        count = self.count + other.count
        delta = (other.shift - self.shift) + (other.mean - self.mean)
        return Spread(
            count,
            self.shift,
            self.mean + delta * (other.count / count),
            self.m2 + other.m2 + np.square(delta) * (self.count * other.count / count),
        )

    @property
    def centre(self) -> Float64[np.ndarray, " d"]:
        """Mean of the rows themselves."""
        centre: Float64[np.ndarray, " d"] = self.shift + self.mean
        return centre
