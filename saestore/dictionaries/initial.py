"""How weights start: what can be said of a family's starting weights without knowing the family.

    geometric median   the m that minimises Σ ‖x_b − m‖: m ← Σ x_b/‖x_b − m‖ / Σ 1/‖x_b − m‖
    active subspace    W_dec ← W_dec[:, :r] U_rᵀ, U_r the r directions of most variance
    data points        W_dec[i] = a row minus the mean of rows, at length 1
    norm search        the length r of all decoder vectors with the least squared error

All of them read one sample of rows in normalised units, which training sees again.

Source: Weiszfeld 1937, Vardi and Zhang 2000; arXiv:2508.16929 (active subspace); Anthropic, "Circuits updates, October
2025" (data points); Llamascopium (norm search).
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64

from saestore.errors import ConfigError


_WIDE = np.linspace(0.1, 5.0, 50)
_NEAR = np.linspace(-0.09, 0.10, 20)
"""Lengths that a norm search tries, and then around the best of them."""
_SETTLED = 1e-6
_MOST_STEPS = 1000
"""When the geometric median is found: this relative change, or so many steps."""


def geometric_median(rows: Float64[np.ndarray, "row d"]) -> Float64[np.ndarray, " d"]:
    """Return the point with the least sum of distances to some rows."""
    found: Float64[np.ndarray, " d"] = rows.mean(axis=0)
    for _ in range(_MOST_STEPS):
        moved = _nearer(rows, found)
        change, length = float(np.linalg.norm(moved - found)), float(np.linalg.norm(moved))
        found = moved
        if change <= _SETTLED * length:
            break
    return found


def _nearer(
    rows: Float64[np.ndarray, "row d"], point: Float64[np.ndarray, " d"]
) -> Float64[np.ndarray, " d"]:
    """Return the next point of Weiszfeld's; rows that lie on this one have no distance to divide by."""
    apart = np.linalg.norm(rows - point, axis=1)
    on = apart <= np.finfo(np.float64).eps * max(float(np.linalg.norm(point)), 1.0)
    if on.all():
        return point
    weights = 1 / apart[~on]
    moved: Float64[np.ndarray, " d"] = weights @ rows[~on] / weights.sum()
    if not on.any():
        return moved
    # Rows on the point hold it with their number, the others pull (Vardi and Zhang 2000).
    pull = float(np.linalg.norm(weights @ (rows[~on] - point)))
    free = max(1 - int(on.sum()) / pull, 0.0) if pull else 0.0
    return np.asarray(point + free * (moved - point))


def active_subspace(rows: Float64[np.ndarray, "row d"], rank: int) -> Float64[np.ndarray, "d _"]:
    """Return the orthonormal directions in which rows vary most.

    Raises:
        ConfigError: They vary in fewer.
    """
    centred = rows - rows.mean(axis=0)
    _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
    there = int((lengths > lengths[:1] * max(rows.shape) * np.finfo(np.float32).eps).sum())
    if rank > there:
        raise ConfigError(
            field="init.active_subspace",
            found=rank,
            expected=f"at most {there}: the sample's rows vary in so many directions",
            hint="take a smaller dimension, or a larger init.sample_rows",
        )
    found: Float64[np.ndarray, "d _"] = directions[:rank].T
    return found


def data_points(
    rows: Float64[np.ndarray, "row d"], count: int, *, noise: float, rng: np.random.Generator
) -> Float64[np.ndarray, "feature d"]:
    """Return so many different rows, minus the mean of all, at length 1.

    Args:
        rows: The sample.
        count: How many.
        noise: Length of a random vector added to each before it is brought to length 1 again.
        rng: Draws rows and noise.

    Raises:
        ConfigError: There are fewer that are not the mean itself.
    """
    centred = rows - rows.mean(axis=0)
    usable = np.flatnonzero(np.linalg.norm(centred, axis=1) > 0)
    if len(usable) < count:
        raise ConfigError(
            field="init.data_points",
            found=f"{len(usable)} rows that differ from their mean",
            expected=f"one for each of {count} features",
            hint="generate more tokens, lower d_sae, or start from random directions",
        )
    vectors = unit(centred[rng.choice(usable, count, replace=False)])
    if noise:
        vectors = unit(vectors + noise * unit(rng.standard_normal(vectors.shape)))
    return vectors


def unit(vectors: Float64[np.ndarray, "feature d"]) -> Float64[np.ndarray, "feature d"]:
    """Return vectors brought to length 1; none may be zero."""
    found: Float64[np.ndarray, "feature d"] = vectors / np.linalg.norm(
        vectors, axis=1, keepdims=True
    )
    return found


def best_length(error: Callable[[float], float]) -> float:
    """Return the length with the least error: of 50 between .1 and 5, then of 20 around the best."""
    wide: list[float] = _WIDE.tolist()
    best = min(wide, key=error)
    near: list[float] = (best + _NEAR).tolist()
    return min(near, key=error)
