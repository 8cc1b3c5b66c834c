"""How well rows are reconstructed: one pass, float64, the same for any split of the rows.

Variances come from centred moments merged by Chan's formula, never from differences of raw sums.
Rows are shifted by the first one seen, so that a constant hookpoint has a variance of exactly 0
and its explained variance is undefined rather than a ratio of rounding errors.

Source: Chan, Golub, LeVeque 1979 (merging); arXiv:2404.16014 eq. 10 (reconstruction bias). The
legacy forms are those of other libraries under names of their own: see `metrics.RECONSTRUCTION`.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from saestore.evaluate.metrics import Score


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


class Reconstruction:
    """Scores of the rows of one hookpoint against their reconstruction.

    Args:
        centre: Mean of all rows that will be seen; only `ev_legacy_row`, which needs it before
            the first row, uses it.
    """

    def __init__(self, centre: Float64[np.ndarray, " d"]) -> None:
        self._centre = centre
        self._target: Spread | None = None
        self._error: Spread | None = None
        self._sums = dict.fromkeys(
            ("ee", "yy", "pp", "yp", "e", "y", "cosine", "l2_ratio", "nmse_row", "legacy_row"), 0.0
        )
        self._rows = {"cosine": 0, "l2_ratio": 0, "legacy_row": 0}

    @property
    def rows(self) -> int:
        """Rows seen."""
        return 0 if self._target is None else self._target.count

    @property
    def zero_rows(self) -> int:
        """Rows left out of `cosine`, because the row or its reconstruction is zero."""
        return self.rows - self._rows["cosine"]

    def update(self, y: Float[np.ndarray, "row d"], y_hat: Float[np.ndarray, "row d"]) -> None:
        """Add rows `y` and their reconstructions, raw units."""
        if len(y) == 0:
            return
        y, y_hat = y.astype(np.float64), y_hat.astype(np.float64)
        error = y - y_hat
        target, residual = Spread.of(y), Spread.of(error)
        self._target = target if self._target is None else self._target.merge(target)
        self._error = residual if self._error is None else self._error.merge(residual)
        ee, yy, pp = (np.square(each).sum(axis=1) for each in (error, y, y_hat))
        yp = (y * y_hat).sum(axis=1)
        around = np.square(y - self._centre).sum(axis=1)
        sums = self._sums
        sums["ee"] += float(ee.sum())
        sums["yy"] += float(yy.sum())
        sums["pp"] += float(pp.sum())
        sums["yp"] += float(yp.sum())
        sums["e"] += float(np.sqrt(ee).sum())
        sums["y"] += float(np.sqrt(yy).sum())
        self._add("cosine", yp, np.sqrt(yy * pp))
        self._add("l2_ratio", np.sqrt(pp), np.sqrt(yy))
        self._add("legacy_row", around - ee, around)
        some = yy > 0
        sums["nmse_row"] += float((ee[some] / yy[some]).sum())

    def _add(
        self, name: str, over: Float64[np.ndarray, " row"], under: Float64[np.ndarray, " row"]
    ) -> None:
        defined = under > 0
        self._sums[name] += float((over[defined] / under[defined]).sum())
        self._rows[name] += int(defined.sum())

    def values(self) -> dict[str, tuple[float | None, int]]:
        """Return each metric's value, None where undefined, and the rows it rests on."""
        rows, sums, counted = self.rows, self._sums, self._rows
        if self._target is None or self._error is None:
            return dict.fromkeys(_NAMES, (None, 0))
        total, width = float(self._target.m2.sum()), len(self._centre)
        mean_sq = sums["yy"] / rows
        unexplained = ratio(sums["ee"], total)
        centred = ratio(float(self._error.m2.sum()), total)
        scalar = ratio(sums["ee"] / rows, mean_sq - (mean_sq / width) ** 2)
        found = {
            "explained_variance": (_complement(unexplained), rows),
            "fvu": (unexplained, rows),
            "mse": (sums["ee"] / rows, rows),
            "mse_per_dim": (sums["ee"] / rows / width, rows),
            "cosine": _mean(sums["cosine"], counted["cosine"]),
            "l2_ratio": _mean(sums["l2_ratio"], counted["l2_ratio"]),
            "l2_error_ratio": (ratio(sums["e"], sums["y"]), rows),
            "reconstruction_bias": (ratio(sums["pp"], sums["yp"]), rows),
            "ev_legacy_row": _mean(sums["legacy_row"], counted["legacy_row"]),
            "ev_residual_centred": (_complement(centred), rows),
            "ev_scalar_mean": (_complement(scalar), rows),
            "nmse_row": _mean(sums["nmse_row"], counted["l2_ratio"]),
        }
        return {name: found[name] for name in _NAMES}

    def scores(self, suffix: str = "") -> list[Score]:
        """Return the scores, their names followed by `suffix`."""
        return [Score(f"{name}{suffix}", value, n) for name, (value, n) in self.values().items()]


_NAMES = (
    "explained_variance", "fvu", "mse", "mse_per_dim", "cosine", "l2_ratio", "l2_error_ratio",
    "reconstruction_bias", "ev_legacy_row", "ev_residual_centred", "ev_scalar_mean", "nmse_row",
)  # fmt: skip


def ratio(over: float, under: float) -> float | None:
    """Return a quotient, or None when it is 0/0 or x/0."""
    return None if under == 0 else over / under


def _mean(total: float, count: int) -> tuple[float | None, int]:
    return (total / count if count else None), count


def _complement(value: float | None) -> float | None:
    return None if value is None else 1.0 - value
