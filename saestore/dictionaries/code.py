"""Codes: which features fired on which rows, and how strongly.

`SparseCode` is what a dictionary gives everyone: compressed rows, only what fired. While training, a
forward pass keeps the form in which it computed the code, because losses differentiate through it:
`PaddedCode` (k entries a row, some of them zero) or `DenseCode`. All three answer the same
questions, so that no loss or metric asks which one it has.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from saestore.dictionaries.kernels import Pairs, decoded


@dataclass(frozen=True)
class SparseCode:
    """Firings in compressed rows.

    Attributes:
        offsets: Where each row's firings start; one more than there are rows, the last is their
            number.
        indices: Feature of each firing, ascending within a row.
        values: Activation of each firing, never 0.
        d_sae: Features of the dictionary.
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
        return torch.repeat_interleave(
            torch.arange(self.n_rows, device=self.offsets.device),
            self.offsets.diff(),
            output_size=len(self.indices),
        )

    def l0(self) -> Int64[Tensor, " row"]:
        """Return the number of firings of each row."""
        return self.offsets.diff()

    def to_dense(self) -> Float[Tensor, "row d_sae"]:
        """Return the activations with their zeros."""
        dense = self.values.new_zeros(self.n_rows, self.d_sae)
        dense[self.row_ids, self.indices] = self.values
        return dense

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
    def from_padded(
        cls, indices: Int64[Tensor, "row k"], values: Float[Tensor, "row k"], d_sae: int
    ) -> "SparseCode":
        """Return the non-zero ones among k entries a row, brought into ascending order."""
        indices, order = indices.sort(dim=1)
        values = values.gather(1, order)
        fired = values != 0
        return cls(
            offsets=_offsets(fired.sum(dim=1)),
            indices=indices[fired],
            values=values[fired],
            d_sae=d_sae,
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


def _offsets(counts: Int64[Tensor, " row"]) -> Int64[Tensor, " _"]:
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))


@runtime_checkable
@runtime_checkable
class TrainingCode(Protocol):
    """A code that losses differentiate through."""

    def fired(self) -> Bool[Tensor, " d_sae"]:
        """Return which features fired on any row."""
        ...

    def firings(self) -> Int64[Tensor, " d_sae"]:
        """Return how many rows each feature fired on."""
        ...

    def l0(self) -> Int64[Tensor, " row"]:
        """Return the number of firings of each row."""
        ...

    def weighted_sum(self, weights: Float[Tensor, " d_sae"]) -> Float[Tensor, " row"]:
        """Return the weighted sum of each row's activations, differentiable in both."""
        ...

    def decoded(self, decoder: Float[Tensor, "d_sae d_out"]) -> Float[Tensor, "row d_out"]:
        """Return each row's decoder vectors weighted and summed, differentiable in both."""
        ...

    def to_sparse(self) -> SparseCode:
        """Return the firings, without gradient."""
        ...


@dataclass(frozen=True)
class DenseCode:
    """All activations of all features.

    Attributes:
        activations: Zero where a feature did not fire.
    """

    activations: Float[Tensor, "row d_sae"]

    def fired(self) -> Bool[Tensor, " d_sae"]:
        """Return which features fired on any row."""
        return self.firings() > 0

    def firings(self) -> Int64[Tensor, " d_sae"]:
        """Return how many rows each feature fired on."""
        return torch.count_nonzero(self.activations.detach(), dim=0)

    def l0(self) -> Int64[Tensor, " row"]:
        """Return the number of firings of each row."""
        return torch.count_nonzero(self.activations.detach(), dim=1)

    def weighted_sum(self, weights: Float[Tensor, " d_sae"]) -> Float[Tensor, " row"]:
        """Return the weighted sum of each row's activations."""
        return self.activations @ weights

    def decoded(self, decoder: Float[Tensor, "d_sae d_out"]) -> Float[Tensor, "row d_out"]:
        """Return each row's decoder vectors weighted and summed."""
        return self.activations @ decoder

    def to_sparse(self) -> SparseCode:
        """Return the firings, without gradient."""
        return SparseCode.from_dense(self.activations.detach())


@dataclass(frozen=True)
class PaddedCode:
    """Exactly k entries a row, of which those with value 0 are not firings.

    Attributes:
        pairs: Which features; their order within a row means nothing.
        values: Their activations.
    """

    pairs: Pairs
    values: Float[Tensor, "row k"]

    def fired(self) -> Bool[Tensor, " d_sae"]:
        """Return which features fired on any row."""
        return self.firings() > 0

    def firings(self) -> Int64[Tensor, " d_sae"]:
        """Return how many rows each feature fired on."""
        fired = self.pairs.indices[self.values.detach() != 0]
        return torch.bincount(fired, minlength=self.pairs.d_sae)

    def l0(self) -> Int64[Tensor, " row"]:
        """Return the number of firings of each row."""
        return torch.count_nonzero(self.values.detach(), dim=1)

    def weighted_sum(self, weights: Float[Tensor, " d_sae"]) -> Float[Tensor, " row"]:
        """Return the weighted sum of each row's activations."""
        return (self.values * weights[self.pairs.indices]).sum(dim=1)

    def decoded(self, decoder: Float[Tensor, "d_sae d_out"]) -> Float[Tensor, "row d_out"]:
        """Return each row's decoder vectors weighted and summed."""
        return decoded(self.values, decoder, self.pairs)

    def to_sparse(self) -> SparseCode:
        """Return the firings, without gradient."""
        return SparseCode.from_padded(self.pairs.indices, self.values.detach(), self.pairs.d_sae)
