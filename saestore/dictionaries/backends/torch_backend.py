"""The work on pairs by torch alone: it runs on every device, and is what the others are tested against."""

import math
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
_WORTH = 4
"""Ranking in two steps is worth it where the second ranks at most one part in so many."""

ByFeature = tuple[Int[Tensor, " firing"], Int[Tensor, " firing"], Int[Tensor, " _"]]
"""Places of the pairs in order of feature, then row; their rows; and where each feature's start."""


class Torch:
    """Every operation, as torch has it.

    Attributes:
        product_rows: Rows of an encoder product whose scores are ranked row by row; None, all rows.
        ranked_rows: Of how many of these scores are ranked at once.
        gradient_bytes: How much of a gradient is computed at once, where it is kept; None, all of it
            as a new tensor.
        product_features: Of what the features of a dense product should be a multiple.
    """

    name = "torch"
    product_rows: int | None = None
    ranked_rows: int = 1
    gradient_bytes: int | None = None
    product_features: int = 1

    def dense_share(self, dtype: torch.dtype) -> float:
        """Return the share of pairs among all entries above which dense products are faster.

        Measured on the CPU by `python -m benchmarks train_paths`: at this share a sparse pass takes .92 to
        1.15 of a dense one.

        Args:
            dtype: Type in which products are computed.
        """
        del dtype
        return 1 / 8

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
        indices, values, tied = self._ranked(scores, k)
        some_tied, all_positive = torch.stack([tied.any(), (values > 0).all()]).tolist()
        if some_tied:
            indices, values = indices.clone(), values.clone()
            indices[tied], values[tied] = exactly_largest(scores[tied], k)
        indices, order = indices.sort(dim=1)
        if all_positive:
            return starts_of(indices.new_full((len(indices),), k)), indices.reshape(-1)
        positive = values.gather(1, order) > 0
        return starts_of(positive.sum(dim=1)), indices[positive]

    def _ranked(self, scores: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return k largest scores of each row, where and what, and in which rows there is a choice."""
        # One more than asked for: only rows whose k-th and next score are equal have a choice.
        top = torch.topk(scores, k + 1, dim=1)
        least = top.values[:, k - 1]
        return top.indices[:, :k], top.values[:, :k], (top.values[:, k] == least) & (least > 0)

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
    """The same with products of narrow factors whose sum stays wide, and with ranking in two steps.

    What is large is ranked only where it can matter: the k largest scores lie in the k stretches with
    the largest maxima, and reading everything once finds those. `torch.topk` reads it five times.
    """

    name = "cuda"
    product_features = 64  # narrow matrices whose rows begin anywhere have no fast product

    @override
    def dense_share(self, dtype: torch.dtype) -> float:
        """Return the share of pairs among all entries above which dense products are faster."""
        narrow = dtype.itemsize < torch.float32.itemsize
        return 1 / 256 if narrow else 1 / 16

    def maxima(self, scores: Float[Tensor, "row _"], wide: int) -> Float[Tensor, "row _"]:
        """Return the largest of each `wide` scores that lie side by side in a row."""
        return scores.view(len(scores), scores.shape[1] // wide, wide).amax(dim=2)

    @override
    def _ranked(self, scores: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return k largest scores of each row, where and what, and in which rows there is a choice."""
        wide = _stretch(scores.shape[1], k)
        if wide == 1:
            return super()._ranked(scores, k)
        count = scores.shape[1] // wide
        best = torch.topk(self.maxima(scores[:, : count * wide], wide), k + 1, dim=1)
        chosen = best.indices[:, :k]
        places = (chosen.unsqueeze(2) * wide + torch.arange(wide, device=scores.device)).flatten(1)
        rest = torch.arange(count * wide, scores.shape[1], device=scores.device)
        places = torch.cat([places, rest.expand(len(scores), -1)], dim=1)
        top = torch.topk(scores.gather(1, places), k + 1, dim=1)
        least = top.values[:, k - 1]
        # Any score elsewhere is at most the next stretch's maximum.
        tied = (torch.maximum(top.values[:, k], best.values[:, k]) == least) & (least > 0)
        return places.gather(1, top.indices[:, :k]), top.values[:, :k], tied

    @override
    def largest_in_all(self, scores: Float[Tensor, "row d_sae"], count: int) -> Chosen:
        """Return at most `count` pairs: the largest scores of all rows, positive ones only."""
        wide = _stretch(scores.numel(), count) if count else 1
        wide = math.gcd(wide, scores.shape[1])
        if wide == 1:
            return super().largest_in_all(scores, count)
        maxima = self.maxima(scores, wide)
        least = torch.topk(maxima.view(-1), count, sorted=False).values.min()
        # At least so many scores are not below the maxima's least; none that is below is chosen.
        below = torch.nextafter(least, least.new_tensor(-math.inf)).clamp(min=0)
        found = self.above(scores, below.expand(scores.shape[1]), most=scores.numel())
        return first_largest(scores, *(found or of_mask(scores > below)), count)

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


def first_largest(
    scores: Float[Tensor, "row d_sae"],
    offsets: Int64[Tensor, " _"],
    indices: Int64[Tensor, " _"],
    count: int,
) -> Chosen:
    """Return at most `count` of some pairs: those with the largest scores, and the first of equal ones."""
    if len(indices) <= count:
        return offsets, indices
    rows = row_ids(offsets, len(indices))
    values = scores[rows, indices]
    limit = torch.topk(values, count, sorted=False).values.min()
    kept = values > limit
    tied = (values == limit).nonzero()[:, 0]
    kept[tied[: count - int(kept.sum())]] = True
    counts = torch.zeros_like(offsets[:-1]).scatter_add_(0, rows, kept.to(offsets.dtype))
    return starts_of(counts), indices[kept]


def _stretch(scores: int, kept: int) -> int:
    """Return of how many scores a maximum is taken, so that the least is ranked; 1, none."""
    wide = 1 << max(scores // max(kept, 1), 1).bit_length() // 2
    return wide if wide * kept * _WORTH <= scores else 1


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
