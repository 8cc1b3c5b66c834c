"""Moments of a weighted mix, from the moments of its stores.

A row of the mix is one of store i with probability s_i, its share. So

    mean = Σ s_i mean_i        variance = Σ s_i (variance_i + (mean_i − mean)²)

and the mean norm and the mean squared norm are the shares' averages too: exact, whatever the sizes of
the stores, and no row is read. Shares in proportion to the rows give the moments of all rows together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from saestore.activations.moments import Moments
from saestore.errors import ConfigError


@dataclass(frozen=True)
class MixedMoments:
    """Moments of a hookpoint over a mix, as sums over `count` rows of it.

    Attributes:
        count: Rows that were measured, of all stores.
        mean: Mean of each dimension.
        m2: Sum of squared deviations from the mean, of each dimension.
        norm_sum: Sum of the rows' L2 norms.
        norm_sq_sum: Sum of the rows' squared L2 norms.
    """

    count: int
    mean: Float64[np.ndarray, " d"]
    m2: Float64[np.ndarray, " d"]
    norm_sum: float
    norm_sq_sum: float

    @classmethod
    def of(cls, parts: Sequence[Moments], weights: Sequence[float]) -> "MixedMoments":
        """Return the moments of a mix.

        Args:
            parts: Moments of each store.
            weights: Its share is this over the sum of all.

        Raises:
            ConfigError: A store has no row that was measured.
        """
        if not all(part.count for part in parts):
            raise ConfigError(
                field="activations.sources",
                found=[part.count for part in parts],
                expected="stores with rows whose moments were measured: rows without flags",
            )
        shares = np.array(weights, np.float64) / sum(weights)
        count = sum(part.count for part in parts)
        means = np.stack([part.mean for part in parts])
        mean = shares @ means
        spread = np.stack([part.variance for part in parts]) + (means - mean) ** 2
        norms = np.array([(part.mean_norm, part.mean_sq_norm) for part in parts])
        norm, sq_norm = (shares @ norms).tolist()
        return cls(count, mean, count * (shares @ spread), count * norm, count * sq_norm)
