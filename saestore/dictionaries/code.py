"""Codes: which features fired on which rows, and how strongly.

`SparseCode` is what a dictionary gives everyone: compressed rows, only what fired. While training, a
forward pass keeps the form in which it computed the code, because losses differentiate through it:
`RaggedCode` (some entries of each row, of which a few may be zero) or `DenseCode`. Both answer the
same questions, so that no loss or metric asks which one it has.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from saestore.dictionaries import products, selection
from saestore.dictionaries.backends.torch_backend import row_ids
from saestore.dictionaries.kernels import Pairs, decoded, parted, placed
from saestore.dictionaries.transforms import Transforms


@dataclass(frozen=True)
class SparseCode:
    """Firings in compressed rows.

    Attributes:
        offsets: Where each row's firings start; one more than there are rows, the last is their
            number.
        indices: Feature of each firing, ascending within a row.
        values: Activation of each firing, never 0.
        d_sae: Features of the dictionary; of one with several gates, features of each.
    """

    offsets: Int64[Tensor, " _"]
    indices: Int64[Tensor, " firing"]
    values: Float[Tensor, " firing"]
    d_sae: int

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.offsets) - 1

    @property
    def row_ids(self) -> Int64[Tensor, " firing"]:
        """Row of each firing."""
        return row_ids(self.offsets, len(self.indices))

    def l0(self) -> Int64[Tensor, " row"]:
        """Return the number of firings of each row."""
        return self.offsets.diff()

    def to_dense(self) -> Float[Tensor, "row d_sae"]:
        """Return the activations with their zeros."""
        dense = self.values.new_zeros(self.n_rows, self.d_sae)
        dense[self.row_ids, self.indices] = self.values
        return dense

    def largest(self, gates: int) -> "SparseCode":
        """Return each feature's activation furthest from zero, of a code whose columns are those of gates."""
        features = self.d_sae // gates
        cells = self.row_ids * features + self.indices % features
        found, place = torch.unique(cells, return_inverse=True)
        high, low = (
            self.values.new_zeros(len(found)).scatter_reduce_(
                0, place, self.values, end, include_self=False
            )
            for end in ("amax", "amin")
        )
        values = torch.where(high >= -low, high, low)
        counts = torch.bincount(found // features, minlength=self.n_rows)
        return SparseCode(_offsets(counts), found % features, values, features)

    @classmethod
    def from_dense(cls, activations: Float[Tensor, "row d_sae"]) -> "SparseCode":
        """Return the non-zero activations."""
        rows, features = activations.nonzero(as_tuple=True)
        counts = torch.bincount(rows, minlength=len(activations))
        return cls(
            offsets=_offsets(counts),
            indices=features,
            values=activations[rows, features],
            d_sae=activations.shape[1],
        )

    @classmethod
    def concatenated(cls, parts: "list[SparseCode]") -> "SparseCode":
        """Return the rows of all parts, in order; there must be at least one part."""
        return cls(
            offsets=_offsets(torch.cat([part.l0() for part in parts])),
            indices=torch.cat([part.indices for part in parts]),
            values=torch.cat([part.values for part in parts]),
            d_sae=parts[0].d_sae,
        )

    @classmethod
    def side_by_side(cls, parts: "Sequence[SparseCode]") -> "SparseCode":
        """Return the code of stretches of features that follow each other, for the same rows."""
        each = [Pairs(part.offsets, part.indices, part.d_sae) for part in parts]
        pairs = Pairs.side_by_side(each)
        values = placed([part.values for part in parts], _places(pairs, [p.d_sae for p in parts]))
        return cls(pairs.offsets, pairs.indices, values, pairs.d_sae)


def _places(pairs: Pairs, sizes: Sequence[int]) -> list[Int64[Tensor, " _"]]:
    """Return where the pairs of stretches of features stand among all."""
    return [pairs.between(start, stop)[1] for start, stop in pairwise(accumulate(sizes, initial=0))]


def _offsets(counts: Int64[Tensor, " row"]) -> Int64[Tensor, " _"]:
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))


Entries = Shaped[Tensor, "..."]
"""Numbers of a code's own shape: (row, d_sae) of a dense code, (firing) of a ragged one."""


@runtime_checkable
class TrainingCode(Protocol):
    """A code that losses differentiate through."""

    @property
    def steps(self) -> Callable[[], Entries] | None:
        """Returns 1 for each entry that fires and 0 elsewhere, with a gradient for thresholds.

        None where the activation function estimates no such gradient.
        """
        ...

    @property
    def penalised(self) -> "TrainingCode":
        """What sparsity penalties act on: the code itself, unless its gate is one of its own."""
        ...

    def fired(self) -> Bool[Tensor, " d_sae"]:
        """Return which features fired on any row."""
        ...

    def firings(self) -> Int64[Tensor, " d_sae"]:
        """Return how many rows each feature fired on."""
        ...

    def l0(self) -> Int64[Tensor, " row"]:
        """Return the number of firings of each row."""
        ...

    def scaled(self, weights: Float[Tensor, " d_sae"]) -> Entries:
        """Return every entry times its feature's weight, differentiable in both."""
        ...

    def row_sums(self, entries: Entries) -> Float[Tensor, " row"]:
        """Return the sum over each row, differentiable."""
        ...

    def feature_sums(self, entries: Entries) -> Float[Tensor, " d_sae"]:
        """Return the sum over each feature, differentiable."""
        ...

    def weighted_sum(self, weights: Float[Tensor, " d_sae"]) -> Float[Tensor, " row"]:
        """Return the weighted sum of each row's activations, differentiable in both."""
        ...

    def decoded(self, decoder: Float[Tensor, "d_sae d_out"]) -> Float[Tensor, "row d_out"]:
        """Return each row's decoder vectors weighted and summed, differentiable in both."""
        ...

    def transformed(
        self, rows: Float[Tensor, "row d_in"], transforms: Transforms
    ) -> Float[Tensor, "row d_out"]:
        """Return each row put through its features' transforms, weighted and summed, differentiable.

        Args:
            rows: What the transforms read.
            transforms: One of each feature.
        """
        ...

    def between(self, start: int, stop: int) -> "TrainingCode":
        """Return the code of a range of features alone, counted from its start."""
        ...

    def split(self, sizes: Sequence[int]) -> "Sequence[TrainingCode]":
        """Return the codes of stretches of features that follow each other; together they are all."""
        ...

    def to_dense(self) -> Float[Tensor, "row d_sae"]:
        """Return the activations with their zeros, differentiable."""
        ...

    def to_sparse(self) -> SparseCode:
        """Return the firings, without gradient."""
        ...


@dataclass(frozen=True)
class DenseCode:
    """All activations of all features.

    Attributes:
        activations: Zero where a feature did not fire.
        steps: See `TrainingCode`.
        gate: What penalties act on, when it is not the code itself.
    """

    activations: Float[Tensor, "row d_sae"]
    steps: Callable[[], Entries] | None = field(default=None, repr=False, compare=False)
    gate: Float[Tensor, "row d_sae"] | None = field(default=None, repr=False, compare=False)

    @property
    def penalised(self) -> "DenseCode":
        """What sparsity penalties act on."""
        return self if self.gate is None else DenseCode(self.gate)

    def fired(self) -> Bool[Tensor, " d_sae"]:
        """Return which features fired on any row."""
        return self.firings() > 0

    def firings(self) -> Int64[Tensor, " d_sae"]:
        """Return how many rows each feature fired on."""
        return selection.firings(self.activations.detach())

    def l0(self) -> Int64[Tensor, " row"]:
        """Return the number of firings of each row."""
        return torch.count_nonzero(self.activations.detach(), dim=1)

    def scaled(self, weights: Float[Tensor, " d_sae"]) -> Entries:
        """Return every entry times its feature's weight."""
        return self.activations * weights

    def row_sums(self, entries: Entries) -> Float[Tensor, " row"]:
        """Return the sum over each row."""
        return entries.sum(dim=1)

    def feature_sums(self, entries: Entries) -> Float[Tensor, " d_sae"]:
        """Return the sum over each feature."""
        return entries.sum(dim=0)

    def weighted_sum(self, weights: Float[Tensor, " d_sae"]) -> Float[Tensor, " row"]:
        """Return the weighted sum of each row's activations."""
        return self.activations @ weights

    def decoded(self, decoder: Float[Tensor, "d_sae d_out"]) -> Float[Tensor, "row d_out"]:
        """Return each row's decoder vectors weighted and summed."""
        return products.mixed(self.activations, decoder)

    def transformed(
        self, rows: Float[Tensor, "row d_in"], transforms: Transforms
    ) -> Float[Tensor, "row d_out"]:
        """Return each row put through all transforms, weighted and summed."""
        return transforms.of_all(rows, self.activations)

    def between(self, start: int, stop: int) -> "DenseCode":
        """Return the code of a range of features alone."""
        return DenseCode(self.activations[:, start:stop])

    def split(self, sizes: Sequence[int]) -> "list[DenseCode]":
        """Return the codes of stretches of features."""
        return [DenseCode(part) for part in torch.split(self.activations, list(sizes), dim=1)]

    def to_dense(self) -> Float[Tensor, "row d_sae"]:
        """Return the activations with their zeros."""
        return self.activations

    def to_sparse(self) -> SparseCode:
        """Return the firings, without gradient."""
        return SparseCode.from_dense(self.activations.detach())


@dataclass(frozen=True)
class RaggedCode:
    """Some entries of each row; those with value 0 are not firings.

    Attributes:
        pairs: Which features of which rows.
        values: Their activations.
        steps: See `TrainingCode`.
        gate: What penalties act on, when it is not the code itself.
    """

    pairs: Pairs
    values: Float[Tensor, " firing"]
    steps: Callable[[], Entries] | None = field(default=None, repr=False, compare=False)
    gate: Float[Tensor, " firing"] | None = field(default=None, repr=False, compare=False)

    @property
    def penalised(self) -> "RaggedCode":
        """What sparsity penalties act on."""
        return self if self.gate is None else RaggedCode(self.pairs, self.gate)

    def fired(self) -> Bool[Tensor, " d_sae"]:
        """Return which features fired on any row."""
        return self.firings() > 0

    def firings(self) -> Int64[Tensor, " d_sae"]:
        """Return how many rows each feature fired on."""
        fired = self.pairs.indices[self.values.detach() != 0]
        return torch.bincount(fired, minlength=self.pairs.d_sae)

    def l0(self) -> Int64[Tensor, " row"]:
        """Return the number of firings of each row."""
        fired = self.pairs.row_ids[self.values.detach() != 0]
        return torch.bincount(fired, minlength=self.pairs.n_rows)

    def scaled(self, weights: Float[Tensor, " d_sae"]) -> Entries:
        """Return every entry times its feature's weight."""
        return self.values * self.pairs.spread(weights)

    def row_sums(self, entries: Entries) -> Float[Tensor, " row"]:
        """Return the sum over each row."""
        return self.pairs.row_sums(entries)

    def feature_sums(self, entries: Entries) -> Float[Tensor, " d_sae"]:
        """Return the sum over each feature."""
        return self.pairs.feature_sums(entries)

    def weighted_sum(self, weights: Float[Tensor, " d_sae"]) -> Float[Tensor, " row"]:
        """Return the weighted sum of each row's activations."""
        return self.row_sums(self.scaled(weights))

    def decoded(self, decoder: Float[Tensor, "d_sae d_out"]) -> Float[Tensor, "row d_out"]:
        """Return each row's decoder vectors weighted and summed."""
        return decoded(self.values, decoder, self.pairs)

    def transformed(
        self, rows: Float[Tensor, "row d_in"], transforms: Transforms
    ) -> Float[Tensor, "row d_out"]:
        """Return each row put through its features' transforms, weighted and summed."""
        return transforms.of_pairs(rows, self.values, self.pairs)

    def between(self, start: int, stop: int) -> "RaggedCode":
        """Return the code of a range of features alone."""
        pairs, places = self.pairs.between(start, stop)
        return RaggedCode(pairs, self.values[places])

    def split(self, sizes: Sequence[int]) -> "list[RaggedCode]":
        """Return the codes of stretches of features."""
        spans = list(pairwise(accumulate(sizes, initial=0)))
        values = parted(self.values, _places(self.pairs, sizes))
        return [
            RaggedCode(self.pairs.between(*span)[0], part)
            for span, part in zip(spans, values, strict=True)
        ]

    def to_dense(self) -> Float[Tensor, "row d_sae"]:
        """Return the activations with their zeros."""
        zeros = self.values.new_zeros(self.pairs.n_rows, self.pairs.d_sae)
        return zeros.index_put((self.pairs.row_ids, self.pairs.indices), self.values)

    def to_sparse(self) -> SparseCode:
        """Return the firings, without gradient."""
        values = self.values.detach()
        fired = values != 0
        counted = torch.nn.functional.pad(fired.cumsum(0), (1, 0))
        return SparseCode(
            offsets=counted[self.pairs.offsets],
            indices=self.pairs.indices[fired],
            values=values[fired],
            d_sae=self.pairs.d_sae,
        )


def side_by_side(codes: Sequence[TrainingCode]) -> TrainingCode:
    """Return the code of stretches of features that follow each other, for the same rows."""
    ragged = [code for code in codes if isinstance(code, RaggedCode)]
    if len(ragged) < len(codes):
        return DenseCode(torch.cat([code.to_dense() for code in codes], dim=1))
    pairs = Pairs.side_by_side([code.pairs for code in ragged])
    places = _places(pairs, [code.pairs.d_sae for code in ragged])
    return RaggedCode(pairs, placed([code.values for code in ragged], places))
