"""TopK: the k largest positive pre-activations of each row fire.

    S = the k largest of relu(g),  f = h on S where it is positive, else 0

Exactly k are selected; equal scores go to the lowest feature index, so a row's code never depends
on how a sort was done. A selected score of zero is not a firing: L0 <= k. The gradient is the
identity on firings; there is none through the selection.

Source: Gao et al. 2024 (arXiv:2406.04093).
"""

from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from typing_extensions import override

from saestore.dictionaries.activation_functions.base import ActivationFunction
from saestore.dictionaries.code import DenseCode, PaddedCode, SparseCode, TrainingCode
from saestore.dictionaries.pre_activation import PreActivation
from saestore_schemas import dictionary as schemas


DENSE_SHARE = 1 / 8
"""Above this k / d_sae the dense products are faster than the bags."""


class TopK(ActivationFunction):
    """Keep the k largest."""

    fixes_l0: ClassVar[bool] = True

    @override
    def __init__(self, settings: schemas.TopK) -> None:
        self.k = settings.k

    @override
    def code(self, pre: PreActivation) -> TrainingCode:
        """Return the selected entries, differentiable."""
        indices, scores = largest(pre.gate, self.k)
        d_sae = pre.gate.shape[1]
        keep = scores > 0
        if self.k > DENSE_SHARE * d_sae:
            mask = torch.zeros_like(pre.gate, dtype=torch.bool).scatter_(1, indices, keep)
            return DenseCode(torch.where(mask, pre.dense(), 0))
        values, pairs = pre.at(indices, keep)
        return PaddedCode(pairs, values)

    @override
    def firings(
        self, values: Float[Tensor, "row d_sae"], gate: Float[Tensor, "row d_sae"]
    ) -> SparseCode:
        """Return the selected positive entries."""
        indices, scores = largest(gate, self.k)
        kept = torch.where(scores > 0, values.gather(1, indices), 0)
        return SparseCode.from_padded(indices, kept, gate.shape[1])

    @override
    def scalars(self) -> dict[str, float]:
        """Return k."""
        return {"k": float(self.k)}


def largest(
    scores: Float[Tensor, "row d_sae"], k: int
) -> tuple[Int64[Tensor, "row k"], Float[Tensor, "row k"]]:
    """Return the k largest positive scores of each row: features and scores, largest first.

    Equal scores go to the lowest feature. Where fewer than k are positive, the rest is filled with
    other features whose scores are not positive.
    """
    if k == scores.shape[1]:
        return exactly_largest(scores, k)
    # One more than asked for: only rows whose k-th and next score are equal have a choice.
    top = torch.topk(scores, k + 1, dim=1)
    indices, values = top.indices[:, :k], top.values[:, :k]
    tied = (top.values[:, k] == values[:, k - 1]) & (values[:, k - 1] > 0)
    if tied.any():
        indices = indices.clone()
        values = values.clone()
        indices[tied], values[tied] = exactly_largest(scores[tied], k)
    return indices.contiguous(), values


def exactly_largest(
    scores: Float[Tensor, "row d_sae"], k: int
) -> tuple[Int64[Tensor, "row k"], Float[Tensor, "row k"]]:
    """Return the same by a full stable sort: the definition, and slow."""
    values, indices = torch.sort(scores, dim=1, descending=True, stable=True)
    return indices[:, :k].contiguous(), values[:, :k]
