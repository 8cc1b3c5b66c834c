"""How exact a conversion is: both sides compute one batch, and differences are reported.

Where float32 cannot tell which feature is the k-th of a row, the two sides may keep different
ones and both be right: such rows are counted, not compared.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from saestore.dictionaries import SparseDictionary


ROWS = 256
"""Rows of the fixed batch."""

SEED = 20_6_5412
"""Fixed, so that every export of a dictionary reports the same errors."""

TIE = 1e-5
"""Gap between the k-th and the next pre-activation, relative to the row's largest."""


@dataclass(frozen=True)
class Difference:
    """How far two sides are apart, relative.

    Attributes:
        rows: Rows compared or set aside.
        tied: Rows set aside.
        codes: Largest difference of a feature, relative to the largest feature of the batch.
        reconstruction: Largest length of a row's difference, relative to the row's length.
    """

    rows: int
    tied: int
    codes: float
    reconstruction: float

    def worse(self, other: "Difference") -> "Difference":
        """Return what both batches together show."""
        return Difference(
            self.rows + other.rows,
            self.tied + other.tied,
            max(self.codes, other.codes),
            max(self.reconstruction, other.reconstruction),
        )


def fixed_batch(dictionary: SparseDictionary) -> Float32[Tensor, "row d_in"]:
    """Return random rows where the dictionary's data lay, their lengths unequal."""
    generator = torch.Generator().manual_seed(SEED)
    scale = dictionary.scales[dictionary.hookpoints_in[0]]
    width = dictionary.config.d_in[0]
    noise = torch.randn(ROWS, width, generator=generator, dtype=torch.float64)
    lengths = torch.exp(0.5 * torch.randn(ROWS, 1, generator=generator, dtype=torch.float64))
    rows = noise * lengths / scale.record.a
    if scale.mean is not None:
        rows = rows + scale.mean.cpu()
    return rows.float()


def compare(
    ours: tuple[Float[Tensor, "row d_sae"], Float[Tensor, "row d_out"]],
    theirs: tuple[Float[Tensor, "row d_sae"], Float[Tensor, "row d_out"]],
    tied: Bool[Tensor, " row"],
) -> Difference:
    """Return the difference of two (codes, reconstruction) of the same rows."""
    (f, x), (g, y) = ([each.double()[~tied] for each in side] for side in (ours, theirs))
    if len(f) == 0:
        return Difference(len(tied), int(tied.sum()), 0.0, 0.0)
    largest = f.abs().max()
    codes = (f - g).abs().max() / largest if largest > 0 else g.abs().max()
    lengths = torch.linalg.vector_norm(x, dim=1).clamp(min=torch.finfo(torch.float64).tiny)
    apart = torch.linalg.vector_norm(x - y, dim=1) / lengths
    return Difference(len(tied), int(tied.sum()), float(codes), float(apart.max()))


def ties(pre_activations: Float[Tensor, "row d_sae"], k: int) -> Bool[Tensor, " row"]:
    """Return the rows whose k-th and next largest positive pre-activations are too close."""
    if k >= pre_activations.shape[1]:
        return torch.zeros(len(pre_activations), dtype=torch.bool)
    top = pre_activations.double().relu().topk(k + 1, dim=1).values
    return (top[:, k - 1] - top[:, k] <= TIE * top[:, 0]) & (top[:, k - 1] > 0)
