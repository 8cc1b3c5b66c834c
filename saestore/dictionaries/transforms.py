"""Linear maps of low rank, one a feature, and sums of them over codes.

    ŷ = Σ_t φ_t (x V_tᵀ) U_tᵀ          U_t (d_out, r_t), V_t (r_t, d_in)
    n_t² = ‖U_t V_t‖_F² = tr((U_tᵀ U_t)(V_t V_tᵀ))

Features of one rank stand together. No product U_t V_t is ever made: it has d_out · d_in entries, its
Gram matrices r_t². There are two ways to the sum. Of all pairs of row and feature: two products with the
transforms of a rank side by side. Of some: for each feature the rows it fires on are gathered, put
through its transform and added where they came from; with δ the gradient of ŷ,

    ∂φ = ⟨x V_tᵀ, δ U_t⟩      ∂U_t = Σ δᵀ φ (x V_tᵀ)      ∂V_t = Σ (φ δ U_t)ᵀ x      ∂x = Σ_t φ_t (δ U_t) V_t

Pairs of a feature are in the order of their rows and features in theirs, so every sum has one order.
The work on pairs is proportional to them, and each feature costs some calls more: at one pair in eight both
ways take as long, forward and backward (measured: 1 024 rows of 576, 496 maps of rank 64 to 4). That is where
activation functions change from one kind of code to the other.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable
from typing_extensions import override

from saestore.dictionaries import products
from saestore.dictionaries.kernels import Pairs


@dataclass(frozen=True)
class Group:
    """The transforms of one rank.

    Attributes:
        U: What each writes with.
        V: What each reads with.
    """

    U: Float[Tensor, "feature d_out rank"]
    V: Float[Tensor, "feature rank d_in"]

    def __len__(self) -> int:
        """Return the number of features."""
        return len(self.U)

    @property
    def rank(self) -> int:
        """Rank of each."""
        return self.V.shape[1]

    def norms(self) -> Float[Tensor, " feature"]:
        """Return ‖U V‖_F of each, differentiable; the gradient of a norm of 0 is 0."""
        written = self.U.transpose(1, 2) @ self.U
        read = self.V @ self.V.transpose(1, 2)
        squares = (written * read).sum(dim=(1, 2))
        positive = squares > 0  # a sum of 0 may be rounded to less
        norms: Tensor = torch.where(positive, squares, 1.0).sqrt() * positive
        return norms

    def leading(self) -> tuple[Float[Tensor, "feature d_out"], Float[Tensor, "feature d_in"]]:
        """Return what each writes most, as long as that is, and the unit row for which it does.

        Leading singular vectors of U V, the left one times its singular value; together they have a sign,
        each alone has none.
        """
        left, across = torch.linalg.qr(self.U)
        right, down = torch.linalg.qr(self.V.transpose(1, 2))
        u, s, v = torch.linalg.svd(across @ down.transpose(1, 2))
        written = left @ (u[:, :, :1] * s[:, :1].unsqueeze(2))
        return written.squeeze(2), (right @ v[:, :1].transpose(1, 2)).squeeze(2)


@dataclass(frozen=True)
class Transforms:
    """The transforms of all features, or of some.

    Attributes:
        groups: Those of each rank, features in their order.
    """

    groups: tuple[Group, ...]

    def located(self) -> Iterator[tuple[slice, Group]]:
        """Yield each group with its features."""
        start = 0
        for group in self.groups:
            yield slice(start, start + len(group)), group
            start += len(group)

    def detached(self) -> "Transforms":
        """Return them as constants."""
        return Transforms(tuple(Group(g.U.detach(), g.V.detach()) for g in self.groups))

    def wide(self, dtype: torch.dtype) -> "Transforms":
        """Return them in the type in which one computes with them."""
        return Transforms(tuple(Group(g.U.to(dtype), g.V.to(dtype)) for g in self.groups))

    def between(self, start: int, stop: int) -> "Transforms":
        """Return those of a range of features."""
        found = []
        for place, group in self.located():
            mine = slice(max(start - place.start, 0), max(stop - place.start, 0))
            found.append(Group(group.U[mine], group.V[mine]))
        return Transforms(tuple(found))

    def of(self, features: Int64[Tensor, " feature"]) -> "Transforms":
        """Return those of some features, which ascend."""
        found = []
        for place, group in self.located():
            mine = features[(features >= place.start) & (features < place.stop)] - place.start
            found.append(Group(group.U[mine], group.V[mine]))
        return Transforms(tuple(found))

    def norms(self) -> Float[Tensor, " d_sae"]:
        """Return ‖U_t V_t‖_F of each feature, differentiable."""
        return torch.cat([group.norms() for group in self.groups])

    def of_all(
        self, rows: Float[Tensor, "row d_in"], strengths: Float[Tensor, "row d_sae"]
    ) -> Float[Tensor, "row d_out"]:
        """Return each row put through all transforms, weighted and summed; differentiable in all.

        Args:
            rows: What is read.
            strengths: Weight of each transform on each row.
        """
        parts = [
            _of_group(rows, strengths[:, place], group) for place, group in self.located() if len(group)
        ]  # fmt: skip
        return sum(parts[1:], start=parts[0])

    @property
    def width(self) -> int:
        """Numbers that all of them read of a row together: their ranks."""
        return sum(len(group) * group.rank for group in self.groups)

    def read_sums(
        self, rows: Float[Tensor, "row d_in"], weights: Float64[Tensor, "firing _"], pairs: Pairs
    ) -> Float64[Tensor, "... _"]:
        """Return sums over pairs of weights times V x, transforms side by side; no gradient.

        Args:
            rows: What is read.
            weights: Several of each pair; there is a sum with each.
            pairs: Which transforms each row is put through.
        """
        order, _, _ = pairs.by_feature()
        ordered, found = weights[order], weights.new_zeros(weights.shape[1], self.width)
        sizes = [len(group) * group.rank for group in self.groups]
        parts = torch.split(found, sizes, dim=1)
        for share in _shares(pairs, [len(group) for group in self.groups]):
            V = self.groups[share.group].V[share.own]
            mine = slice(share.own * len(V), (share.own + 1) * len(V))
            read = share.of(rows).to(V) @ V.T
            parts[share.group][:, mine] = ordered[share.pairs].T @ read.double()
        return found

    def written(self, sums: Float64[Tensor, " _"]) -> Float64[Tensor, "d_sae d_out"]:
        """Return U of what transforms read, side by side as `read_sums` has it."""
        sizes = [len(group) * group.rank for group in self.groups]
        return torch.cat(
            [
                torch.einsum("for,fr->fo", group.U.double(), part.view(len(group), group.rank))
                for group, part in zip(self.groups, torch.split(sums, sizes), strict=True)
            ]
        )

    def of_pairs(
        self, rows: Float[Tensor, "row d_in"], strengths: Float[Tensor, " firing"], pairs: Pairs
    ) -> Float[Tensor, "row d_out"]:
        """Return each row put through the transforms of its pairs; differentiable in all.

        Args:
            rows: What is read.
            strengths: Weight of each pair.
            pairs: Which transforms each row is put through.
        """
        weights = [tensor for group in self.groups for tensor in (group.U, group.V)]
        result: Tensor = _OfPairs.apply(  # type: ignore[no-untyped-call]
            rows, strengths, pairs, *weights
        )
        return result


def _of_group(rows: Tensor, strengths: Tensor, group: Group) -> Float[Tensor, "row d_out"]:
    read = products.mixed(rows, group.V.flatten(0, 1).T)
    weighted = read.view(len(rows), len(group), group.rank) * strengths.unsqueeze(2)
    return products.mixed(weighted.flatten(1), group.U.transpose(1, 2).flatten(0, 1))


@dataclass(frozen=True)
class _Share:
    """The pairs of one feature.

    Attributes:
        group: Which group it is in.
        own: Which of the group it is.
        pairs: Places of its pairs among those sorted by feature.
        rows: Their rows; None, all rows in order.
    """

    group: int
    own: int
    pairs: slice
    rows: Int[Tensor, " firing"] | None

    def of(self, matrix: Tensor) -> Tensor:
        """Return its rows of a matrix."""
        return matrix if self.rows is None else matrix.index_select(0, self.rows)

    def add_(self, matrix: Tensor, part: Tensor) -> None:
        """Add to its rows of a matrix."""
        if self.rows is None:
            matrix += part
        else:
            matrix.index_add_(0, self.rows, part)


def _shares(pairs: Pairs, counts: list[int]) -> Iterator[_Share]:
    """Yield what each feature has to do, of those that have something to do."""
    _, row_ids, starts = pairs.by_feature()
    bounds = starts.tolist()
    feature = 0
    for group, count in enumerate(counts):
        for own in range(count):
            mine = slice(bounds[feature], bounds[feature + 1])
            feature += 1
            if mine.stop > mine.start:
                everywhere = mine.stop - mine.start == pairs.n_rows
                yield _Share(group, own, mine, None if everywhere else row_ids[mine])


class _OfPairs(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        rows, strengths, pairs, *weights = inputs
        kind = products.asked(rows.device)
        order, _, _ = pairs.by_feature()
        sorted_strengths = strengths[order].unsqueeze(1)
        result: Tensor = rows.new_zeros(len(rows), weights[0].shape[1])
        reads = []
        for share in _shares(pairs, [len(U) for U in weights[::2]]):
            U, V = (each[share.own] for each in weights[2 * share.group : 2 * share.group + 2])
            read = products.product(share.of(rows), V.T, kind)
            reads.append(read)
            share.add_(result, products.product(read * sorted_strengths[share.pairs], U.T, kind))
        ctx.save_for_backward(rows, sorted_strengths, *weights)
        ctx.reads, ctx.pairs, ctx.kind = reads, pairs, kind
        return result

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, strengths, *weights = ctx.saved_tensors
        pairs: Pairs = ctx.pairs
        kind, gradient = ctx.kind, gradients[0].contiguous()
        by_rows, _, _, *by_weights = ctx.needs_input_grad
        to_rows = torch.zeros_like(rows) if by_rows else None
        to_strengths = torch.empty_like(strengths[:, 0])
        to_weights = [
            torch.zeros_like(each, dtype=rows.dtype) if needed else None
            for each, needed in zip(weights, by_weights, strict=True)
        ]
        shares = _shares(pairs, [len(U) for U in weights[::2]])
        for share, read in zip(shares, ctx.reads, strict=True):
            first, strength = 2 * share.group, strengths[share.pairs]
            U, V = weights[first][share.own], weights[first + 1][share.own]
            own = share.of(gradient)
            back = products.product(own, U, kind)
            to_strengths[share.pairs] = torch.linalg.vecdot(back, read)
            back = back * strength
            to_U, to_V = to_weights[first : first + 2]
            if to_U is not None:
                to_U[share.own] = products.product(own.T, read * strength, kind)
            if to_V is not None:
                to_V[share.own] = products.product(back.T, share.of(rows), kind)
            if to_rows is not None:
                share.add_(to_rows, products.product(back, V, kind))
        order, _, _ = pairs.by_feature()
        unsorted = torch.empty_like(to_strengths)
        unsorted[order] = to_strengths
        return to_rows, unsorted, None, *to_weights
