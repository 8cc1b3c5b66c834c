"""Sparse products for codes with a fixed number of entries a row, and their gradients.

A top-k step needs one dense product, the encoder's. Everything after the selection touches row * k
pairs only. With the pairs of a row being (feature, value) and δ the gradient of the reconstruction:

    ŷ      = Σ_j val_j W_dec[idx_j]                    a bag of decoder rows
    ∂val_j = δ · W_dec[idx_j]                          the same bag's gradient in its weights
    ∂W_dec[i] = Σ_{pairs of i} val δ_row               a bag of δ rows, pairs sorted by feature
    ∂W_enc[:, i] = Σ_{pairs of i} ∂val x_row           a bag of x rows, the same pairs

All four are `embedding_bag`, which runs on every device and sums each bag in order. Pairs are
sorted by feature, then row, so every sum has one order and a step is reproducible.

Dense autograd needs five products of the encoder's size; `python -m benchmarks train_step` measures it.
Do not use it when k is a large share of d_sae: the bags gather rows one by one.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag, pad
from typing_extensions import override

from saestore.dictionaries import products


class Pairs:
    """Which features each row uses, readable by row and by feature.

    Attributes:
        indices: Features of each row, distinct within a row.
        d_sae: Features of the dictionary.
    """

    def __init__(self, indices: Int64[Tensor, "row k"], d_sae: int) -> None:
        self.indices = indices
        self.d_sae = d_sae
        self._by_feature: tuple[Tensor, Tensor, Tensor] | None = None

    def by_feature(
        self,
    ) -> tuple[Int64[Tensor, " firing"], Int64[Tensor, " firing"], Int64[Tensor, " _"]]:
        """Return the pairs' places, their rows, and where each feature's pairs start.

        Sorted by feature, then row.
        """
        if self._by_feature is None:
            flat = self.indices.reshape(-1)
            order = torch.sort(flat, stable=True).indices
            starts = pad(torch.bincount(flat, minlength=self.d_sae).cumsum(0), (1, 0))
            self._by_feature = (order, order // self.indices.shape[1], starts)
        return self._by_feature

    def by_rows(
        self, values: Float[Tensor, "row k"], vectors: Float[Tensor, "d_sae _"]
    ) -> Float[Tensor, "row _"]:
        """Return, for each row, its features' vectors weighted and summed."""
        return embedding_bag(self.indices, vectors, per_sample_weights=values, mode="sum")

    def by_features(
        self, values: Float[Tensor, "row k"], rows: Float[Tensor, "row d"]
    ) -> Float[Tensor, "d_sae d"]:
        """Return, for each feature, the rows that use it weighted and summed."""
        order, row_ids, starts = self.by_feature()
        return embedding_bag(
            row_ids,
            rows,
            starts,
            per_sample_weights=values.reshape(-1)[order],
            mode="sum",
            include_last_offset=True,
        )

    def sums(self, values: Float[Tensor, "row k"]) -> Float[Tensor, " d_sae"]:
        """Return each feature's sum of values."""
        order, _, starts = self.by_feature()
        ones = values.new_ones(1, 1)
        return embedding_bag(
            torch.zeros_like(order),
            ones,
            starts,
            per_sample_weights=values.reshape(-1)[order],
            mode="sum",
            include_last_offset=True,
        )[:, 0]


class _Picked(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        rows, encoder, bias, values, keep, pairs = inputs
        ctx.save_for_backward(rows, encoder, keep)
        ctx.pairs = pairs
        del bias  # its gradient needs no value
        return torch.where(keep, values, 0)

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, encoder, keep = ctx.saved_tensors
        pairs: Pairs = ctx.pairs
        gradient = torch.where(keep, gradients[0], 0)
        needs = ctx.needs_input_grad
        return (
            pairs.by_rows(gradient, encoder) if needs[0] else None,
            pairs.by_features(gradient, rows) if needs[1] else None,
            pairs.sums(gradient) if needs[2] else None,
            None,
            None,
            None,
        )


class _DecoderGradient(torch.autograd.Function):
    """Hands a reconstruction through, and gives the decoder its sparse gradient."""

    @staticmethod
    @override
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        reconstruction, decoder, values, pairs = inputs
        del decoder
        ctx.save_for_backward(values)
        ctx.pairs = pairs
        through: Tensor = reconstruction.view_as(reconstruction)
        return through

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (values,) = ctx.saved_tensors
        pairs: Pairs = ctx.pairs
        gradient = gradients[0].contiguous()
        needed = ctx.needs_input_grad[1]
        return gradient, pairs.by_features(values, gradient) if needed else None, None, None


def picked(
    rows: Float[Tensor, "row d_in"],
    encoder: Float[Tensor, "d_sae d_in"],
    bias: Float[Tensor, " d_sae"],
    values: Float[Tensor, "row k"],
    keep: Bool[Tensor, "row k"],
    pairs: Pairs,
) -> Float[Tensor, "row k"]:
    """Return already computed pre-activations, with their gradient; 0 where not kept.

    Args:
        rows: What the encoder read.
        encoder: Encoder vectors, one a row.
        bias: Encoder bias.
        values: `rows @ encoder.T + bias` at the pairs.
        keep: Which pairs have a value and a gradient.
        pairs: Where they are.
    """
    result: Tensor = _Picked.apply(  # type: ignore[no-untyped-call]
        rows, encoder, bias, values, keep, pairs
    )
    return result


def decoded(
    values: Float[Tensor, "row k"], decoder: Float[Tensor, "d_sae d_out"], pairs: Pairs
) -> Float[Tensor, "row d_out"]:
    """Return Σ_j values_j decoder[idx_j] for each row, with its gradient; no bias."""
    reconstruction = pairs.by_rows(values, decoder.detach())
    result: Tensor = _DecoderGradient.apply(  # type: ignore[no-untyped-call]
        reconstruction, decoder, values.detach(), pairs
    )
    return result


class _Dense(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        rows, encoder, bias, values = inputs
        ctx.save_for_backward(rows, encoder)
        ctx.dtype = products.asked(rows.device)
        del bias
        result: Tensor = values.detach()
        return result

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, encoder = ctx.saved_tensors
        gradient = gradients[0]
        needs = ctx.needs_input_grad
        return (
            products.product(gradient, encoder, ctx.dtype) if needs[0] else None,
            products.product(gradient.T, rows, ctx.dtype) if needs[1] else None,
            gradient.sum(dim=0) if needs[2] else None,
            None,
        )


def dense(
    rows: Float[Tensor, "row d_in"],
    encoder: Float[Tensor, "d_sae d_in"],
    bias: Float[Tensor, " d_sae"],
    values: Float[Tensor, "row d_sae"],
) -> Float[Tensor, "row d_sae"]:
    """Return all already computed pre-activations, with their gradient."""
    result: Tensor = _Dense.apply(rows, encoder, bias, values)  # type: ignore[no-untyped-call]
    return result
