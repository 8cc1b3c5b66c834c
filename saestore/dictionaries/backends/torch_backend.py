"""The work on pairs by torch alone: it runs on every device, and is what the others are tested against."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag, pad
from typing_extensions import override


Chosen = tuple[Int64[Tensor, " _"], Int64[Tensor, " firing"]]
"""Where each row's pairs start, one more than there are rows; and the pairs' features."""

_BAGS_TOGETHER = 512
_SUM = 0
"""Torch's number of that mode of bags."""

ByFeature = tuple[Int[Tensor, " firing"], Int[Tensor, " firing"], Int[Tensor, " _"]]
"""Places of the pairs in order of feature, then row; their rows; and where each feature's start."""


class Torch:
    """Every operation, as torch has it.

    Attributes:
        product_rows: Rows of an encoder product whose scores are ranked row by row; None, all rows.
        ranked_rows: Of how many of these scores are ranked at once.
        gradient_bytes: How much of a gradient is computed at once, where it is kept; None, all of it
            as a new tensor.
    """

    name = "torch"
    product_rows: int | None = None
    ranked_rows: int = 1
    gradient_bytes: int | None = None

    def product(
        self, left: Float[Tensor, "row _"], right: Float[Tensor, "_ _"], dtype: torch.dtype
    ) -> Float[Tensor, "row _"]:
        """Return left @ right in a type as wide as theirs or wider."""
        return (left @ right).to(dtype)

    def bags(
        self,
        values: Float[Tensor, " firing"],
        indices: Int[Tensor, " firing"],
        vectors: Float[Tensor, "_ d"],
        offsets: Int[Tensor, " _"],
    ) -> Float[Tensor, "_ d"]:
        """Return each bag's vectors weighted and summed, in order; differentiable in the values.

        Args:
            values: Weight of each pair.
            indices: Which vector each pair uses.
            vectors: One a row; a constant.
            offsets: Where each bag's pairs start; one more than there are bags.
        """
        kind = torch.promote_types(values.dtype, vectors.dtype)
        result: Tensor = _Bags.apply(  # type: ignore[no-untyped-call]
            values.to(kind), indices, vectors.detach().to(kind), offsets
        )
        return result

    def long_bags(
        self,
        values: Float[Tensor, " firing"],
        indices: Int[Tensor, " firing"],
        vectors: Float[Tensor, "_ d"],
        offsets: Int[Tensor, " _"],
    ) -> Float[Tensor, "_ d"]:
        """Return the same for bags of which some may be very long; without gradient."""
        return self.bags(values.detach(), indices, vectors, offsets)

    def sums(
        self, values: Float[Tensor, " firing"], offsets: Int[Tensor, " _"]
    ) -> Float[Tensor, " _"]:
        """Return the sum of each stretch of values, in order."""
        zeros = torch.zeros(len(values), dtype=offsets.dtype, device=values.device)
        return self.bags(values, zeros, values.new_ones(1, 1), offsets)[:, 0]

    def largest(self, scores: Float[Tensor, "row d_sae"], k: int) -> Chosen:
        """Return at most k pairs of each row: its largest scores, positive ones only."""
        if k == scores.shape[1]:
            return of_mask(scores > 0)
        # One more than asked for: only rows whose k-th and next score are equal have a choice.
        top = torch.topk(scores, k + 1, dim=1)
        indices, values = top.indices[:, :k], top.values[:, :k]
        tied = (top.values[:, k] == values[:, k - 1]) & (values[:, k - 1] > 0)
        if tied.any():
            indices, values = indices.clone(), values.clone()
            indices[tied], values[tied] = exactly_largest(scores[tied], k)
        indices, order = indices.sort(dim=1)
        positive = values.gather(1, order) > 0
        return starts_of(positive.sum(dim=1)), indices[positive]

    def largest_in_all(self, scores: Float[Tensor, "row d_sae"], count: int) -> Chosen:
        """Return at most `count` pairs: the largest scores of all rows, positive ones only."""
        flat = scores.reshape(-1)
        if count >= flat.numel():
            return of_mask(scores > 0)
        if count == 0:
            return of_mask(torch.zeros_like(scores, dtype=torch.bool))
        limit = torch.topk(flat, count, sorted=False).values.min()
        if limit <= 0:
            return of_mask(scores > 0)
        kept = scores > limit
        tied = (scores == limit).reshape(-1).nonzero()[:, 0]
        kept.view(-1)[tied[: count - int(kept.sum())]] = True
        return of_mask(kept)

    def above(
        self, scores: Float[Tensor, "row d_sae"], limits: Float[Tensor, " d_sae"], *, most: int
    ) -> Chosen | None:
        """Return the pairs whose score exceeds their feature's limit; None when they are too many."""
        mask = scores > limits
        return of_mask(mask) if int(mask.sum()) <= most else None

    def firings(self, activations: Float[Tensor, "row d_sae"]) -> Int64[Tensor, " d_sae"]:
        """Return on how many rows each feature is not zero."""
        return torch.count_nonzero(activations, dim=0)

    def by_feature(
        self, indices: Int64[Tensor, " firing"], offsets: Int64[Tensor, " _"], d_sae: int
    ) -> ByFeature:
        """Return pairs by feature, then row."""
        ordered, order = torch.sort(indices, stable=True)
        features = torch.arange(d_sae + 1, device=indices.device)
        rows = row_ids(offsets, len(indices))
        return order, rows[order], torch.searchsorted(ordered, features)


class OnCuda(Torch):
    """The same with products of narrow factors whose sum stays wide."""

    name = "cuda"

    @override
    def product(
        self, left: Float[Tensor, "row _"], right: Float[Tensor, "_ _"], dtype: torch.dtype
    ) -> Float[Tensor, "row _"]:
        """Return left @ right in a type as wide as theirs or wider."""
        if dtype != torch.float32:
            return super().product(left, right, dtype)
        wide: Tensor = torch.mm(left, right, out_dtype=torch.float32)
        return wide


class _Bags(torch.autograd.Function):
    """Bags whose gradient is computed some bags at a time: torch's own notes down each pair's bag."""

    @staticmethod
    @override
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        values, indices, vectors, offsets = inputs
        ctx.save_for_backward(indices, vectors, offsets)
        return embedding_bag(
            indices, vectors, offsets,
            per_sample_weights=values, mode="sum", include_last_offset=True,
        )  # fmt: skip

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        indices, vectors, offsets = ctx.saved_tensors
        gradient = upstream[0].contiguous()
        parts = []
        for start in range(0, len(gradient), _BAGS_TOGETHER):
            ends = offsets[start : start + _BAGS_TOGETHER + 1]
            first, last = int(ends[0]), int(ends[-1])
            own = ends - first
            parts.append(
                torch.ops.aten._embedding_bag_per_sample_weights_backward(  # noqa: SLF001 - torch's own gradient
                    gradient[start : start + _BAGS_TOGETHER],
                    vectors,
                    indices[first:last],
                    own[:-1],
                    row_ids(own, last - first),
                    _SUM,
                )
            )
        return torch.cat(parts) if parts else gradient.new_zeros(0), None, None, None


def exactly_largest(
    scores: Float[Tensor, "row d_sae"], k: int
) -> tuple[Int64[Tensor, "row k"], Float[Tensor, "row k"]]:
    """Return the k largest scores of each row by a full stable sort: the definition, and slow."""
    values, indices = torch.sort(scores, dim=1, descending=True, stable=True)
    return indices[:, :k].contiguous(), values[:, :k]


def of_mask(mask: Bool[Tensor, "row d_sae"]) -> Chosen:
    """Return the pairs where a mask is true."""
    indices = mask.nonzero()[:, 1]
    return starts_of(mask.sum(dim=1)), indices


def starts_of(counts: Int64[Tensor, " _"]) -> Int64[Tensor, " _"]:
    """Return where each starts when so many of each lie one after the other; and the end."""
    return pad(counts.cumsum(0), (1, 0))


def row_ids(offsets: Int64[Tensor, " _"], pairs: int) -> Int64[Tensor, " firing"]:
    """Return the row of each of so many pairs, from where each row's start."""
    rows = torch.arange(len(offsets) - 1, device=offsets.device)
    return torch.repeat_interleave(rows, offsets.diff(), output_size=pairs)
