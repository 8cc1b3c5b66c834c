"""How well rows are reconstructed: one pass, float64, the same for any split of the rows.

Variances come from centred moments merged by Chan's formula, never from differences of raw sums.
Rows are shifted by the first one seen, so that a constant hookpoint has a variance of exactly 0
and its explained variance is undefined rather than a ratio of rounding errors.

Source: Chan, Golub, LeVeque 1979 (merging); arXiv:2404.16014 eq. 10 (reconstruction bias). Other
libraries' forms have names of their own: `ev_scalar_mean` and `nmse_row` here, those that are
averages over batches in `batched`.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from saestore.evaluate.batched import BATCHED, Batched
from saestore.evaluate.metrics import Score, complement, mean, ratio
from saestore.evaluate.spread import Spread


class Reconstruction:
    """Scores of the rows of one hookpoint against their reconstruction."""

    def __init__(self) -> None:
        self._target: Spread | None = None
        self._sums = dict.fromkeys(
            ("ee", "yy", "pp", "yp", "e", "y", "cosine", "l2_ratio", "nmse_row"), 0.0
        )
        self._rows = {"cosine": 0, "l2_ratio": 0, "nmse_row": 0}
        self._batched = Batched()

    @property
    def rows(self) -> int:
        """Rows seen."""
        return 0 if self._target is None else self._target.count

    @property
    def zero_rows(self) -> int:
        """Rows left out of `cosine`, because the row or its reconstruction is zero."""
        return self.rows - self._rows["cosine"]

    @property
    def spread(self) -> Spread | None:
        """Mean and spread of the rows; None before the first."""
        return self._target

    @property
    def squared_error(self) -> float:
        """Squared errors, summed."""
        return self._sums["ee"]

    def update(self, y: Float[np.ndarray, "row d"], y_hat: Float[np.ndarray, "row d"]) -> None:
        """Add rows `y` and their reconstructions, raw units."""
        if len(y) == 0:
            return
        y, y_hat = y.astype(np.float64), y_hat.astype(np.float64)
        error = y - y_hat
        target = Spread.of(y)
        self._target = target if self._target is None else self._target.merge(target)
        self._batched.update(y, error)
        ee, yy, pp = (np.einsum("ij,ij->i", each, each) for each in (error, y, y_hat))
        yp = np.einsum("ij,ij->i", y, y_hat)
        sums = self._sums
        sums["ee"] += float(ee.sum())
        sums["yy"] += float(yy.sum())
        sums["pp"] += float(pp.sum())
        sums["yp"] += float(yp.sum())
        sums["e"] += float(np.sqrt(ee).sum())
        sums["y"] += float(np.sqrt(yy).sum())
        self._add("cosine", yp, np.sqrt(yy * pp))
        self._add("l2_ratio", np.sqrt(pp), np.sqrt(yy))
        self._add("nmse_row", ee, yy)

    def _add(
        self, name: str, over: Float[np.ndarray, " row"], under: Float[np.ndarray, " row"]
    ) -> None:
        defined = under > 0
        self._sums[name] += float((over[defined] / under[defined]).sum())
        self._rows[name] += int(defined.sum())

    def values(self) -> dict[str, tuple[float | None, int]]:
        """Return each metric's value, None where undefined, and the rows it rests on."""
        rows, sums = self.rows, self._sums
        if self._target is None:
            return dict.fromkeys((*_NAMES, *BATCHED), (None, 0))
        total, width = float(self._target.m2.sum()), len(self._target.m2)
        mean_sq = sums["yy"] / rows
        unexplained = ratio(sums["ee"], total)
        scalar = ratio(sums["ee"] / rows, mean_sq - (mean_sq / width) ** 2)
        means = {name: (mean(sums[name], counted), counted) for name, counted in self._rows.items()}
        found = {
            "explained_variance": (complement(unexplained), rows),
            "fvu": (unexplained, rows),
            "mse": (sums["ee"] / rows, rows),
            "mse_per_dim": (sums["ee"] / rows / width, rows),
            "l2_error_ratio": (ratio(sums["e"], sums["y"]), rows),
            "reconstruction_bias": (ratio(sums["pp"], sums["yp"]), rows),
            "ev_scalar_mean": (complement(scalar), rows),
            **means,
        }
        return {**{name: found[name] for name in _NAMES}, **self._batched.values()}

    def scores(self, suffix: str = "") -> list[Score]:
        """Return the scores, their names followed by `suffix`."""
        return [Score(f"{name}{suffix}", value, n) for name, (value, n) in self.values().items()]


_NAMES = (
    "explained_variance", "fvu", "mse", "mse_per_dim", "cosine", "l2_ratio", "l2_error_ratio",
    "reconstruction_bias", "nmse_row", "ev_scalar_mean",
)  # fmt: skip


def pooled(parts: Sequence[Reconstruction], factors: Sequence[float]) -> list[Score]:
    """Return the scores of several hookpoints together, each in its normalised units.

    Args:
        parts: One for each hookpoint.
        factors: The factor of each one's normalisation: raw units of one hookpoint mean nothing
            beside those of another.
    """
    rows = max((part.rows for part in parts), default=0)
    error = math.fsum(a**2 * part.squared_error for part, a in zip(parts, factors, strict=True))
    total = math.fsum(
        a**2 * float(part.spread.m2.sum())
        for part, a in zip(parts, factors, strict=True)
        if part.spread is not None
    )
    return [
        Score("explained_variance_pooled", complement(ratio(error, total)), rows),
        Score("mse_pooled", error / rows if rows else None, rows),
    ]
