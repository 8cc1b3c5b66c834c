"""What other libraries compute from their files, written plainly: the other side of a measurement.

Nothing here uses our own encoder. Each function takes pre-activations and returns the codes with
the distance of every entry from where it is decided: rounding may put an entry that lies on the
line on either side of it, and both sides are right.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Codes(NamedTuple):
    """Feature activations, and how far each entry was from firing or not.

    Attributes:
        values: Activations.
        margin: Distance of what is compared from what it is compared with, relative to the row's
            largest; None where activations are continuous, so that there is no line.
    """

    values: Float[Tensor, "row d_sae"]
    margin: Float[Tensor, "row d_sae"] | None = None


class Computed(NamedTuple):
    """One side of a measurement.

    Attributes:
        codes: Feature activations.
        reconstruction: What they give back, in raw units.
    """

    codes: Codes
    reconstruction: Float[Tensor, "row d_out"]


Compute = Callable[[Float[Tensor, "row d_in"]], Computed]
"""Rows in raw units to what a library computes from them."""


Back = Callable[[Float[Tensor, "row d"]], Float[Tensor, "row d"]]
"""A normalised reconstruction to one in raw units."""


def relu(h: Float[Tensor, "row d_sae"]) -> Codes:
    """Return what is positive."""
    return Codes(h.relu())


def topk(
    h: Float[Tensor, "row d_sae"], k: int, *, gate: Float[Tensor, "row d_sae"] | None = None
) -> Codes:
    """Return the k largest of each row where they are positive.

    Args:
        h: Pre-activations.
        k: How many.
        gate: What is ranked; absent, `h`.
    """
    ranked = h if gate is None else gate
    if k >= h.shape[1]:
        return Codes(torch.where(ranked > 0, h, 0))
    top = ranked.topk(k + 1, dim=1)
    kept = torch.zeros_like(h, dtype=torch.bool).scatter_(1, top.indices[:, :k], True)  # noqa: FBT003
    line = (top.values[:, k - 1 : k] + top.values[:, k:]) / 2
    return Codes(torch.where(kept & (ranked > 0), h, 0), _relative(ranked, ranked - line))


def abstopk(
    h: Float[Tensor, "row d_sae"], k: int, *, gate: Float[Tensor, "row d_sae"] | None = None
) -> Codes:
    """Return the k of each row that are furthest from zero, signs kept.

    Args:
        h: Pre-activations.
        k: How many.
        gate: What is ranked; absent, `h`.
    """
    size = (h if gate is None else gate).abs()
    chosen = topk(size, k)
    return Codes(torch.where(chosen.values > 0, h, 0), chosen.margin)


def batchtopk(
    h: Float[Tensor, "row d_sae"], k: int | float, *, gate: Float[Tensor, "row d_sae"] | None = None
) -> Codes:
    """Return the k largest a row of the whole batch where they are positive.

    Args:
        h: Pre-activations.
        k: How many on one row on average.
        gate: What is ranked; absent, `h`.
    """
    ranked = h if gate is None else gate
    flat = topk(ranked.reshape(1, -1), int(k * len(h)))
    kept = flat.values.reshape(h.shape) > 0
    margin = None if flat.margin is None else flat.margin.reshape(h.shape)
    return Codes(torch.where(kept, h, 0), margin)


def above(
    h: Float[Tensor, "row d_sae"],
    threshold: Float[Tensor, " d_sae"] | float,
    *,
    gate: Float[Tensor, "row d_sae"] | None = None,
) -> Codes:
    """Return the pre-activations whose gate score is above a threshold and positive.

    Args:
        h: Pre-activations.
        threshold: Of each feature, or one for all.
        gate: What is compared; absent, `h`.
    """
    compared = h if gate is None else gate
    fires = (compared > threshold) & (compared > 0)
    return Codes(torch.where(fires, h, 0), _relative(compared, compared - threshold))


def gated(
    z: Float[Tensor, "row d_sae"],
    r_mag: Float[Tensor, " d_sae"],
    b_mag: Float[Tensor, " d_sae"],
    b_gate: Float[Tensor, " d_sae"],
) -> Codes:
    """Return the magnitudes whose gate is open.

    Args:
        z: Rows times encoder, without a bias.
        r_mag: Logarithm of the factor of the magnitudes.
        b_mag: Bias of the magnitudes.
        b_gate: Bias of the gates.
    """
    gate = z + b_gate
    magnitude = (z * r_mag.exp() + b_mag).relu()
    return Codes(torch.where(gate > 0, magnitude, 0), _relative(gate, gate))


def _dataset(rows: Tensor, a: float) -> tuple[Tensor, Back]:
    return rows * a, lambda out: out / a


def _token_norm(rows: Tensor, a: float) -> tuple[Tensor, Back]:
    factor = a * rows.shape[1] ** 0.5 / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows * factor, lambda out: out / factor


def _token_layer_norm(rows: Tensor, a: float) -> tuple[Tensor, Back]:
    mean, deviation = rows.mean(dim=1, keepdim=True), rows.std(dim=1, keepdim=True)
    return a * (rows - mean) / (deviation + EPSILON), lambda out: out / a * deviation + mean


EPSILON = 1e-5
"""Added to a row's deviation by SAELens and OpenAI, on the way in only."""

NORMALISATIONS: Mapping[str, Callable[[Tensor, float], tuple[Tensor, Back]]] = {
    "none": lambda rows, _: (rows, lambda out: out),
    "dataset_mean_norm": _dataset,
    "token_norm": _token_norm,
    "token_layer_norm": _token_layer_norm,
}
"""Kind to rows in normalised units, given the factor a, and the way back."""


def _relative(
    compared: Float[Tensor, "row d_sae"], distance: Float[Tensor, "row d_sae"]
) -> Float[Tensor, "row d_sae"]:
    largest = compared.abs().amax(dim=1, keepdim=True)
    return distance.abs() / largest.clamp(min=torch.finfo(largest.dtype).tiny)
