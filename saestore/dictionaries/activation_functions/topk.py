"""TopK: the k largest positive pre-activations of each row fire.

    S = the k largest of relu(g),  f = h on S where it is positive, else 0

Exactly k are selected; equal scores go to the lowest feature index, so a row's code never depends
on how a sort was done. A selected score of zero is not a firing: L0 <= k. The gradient is the
identity on firings; there is none through the selection.

Source: Gao et al. 2024 (arXiv:2406.04093).
"""

from collections.abc import Mapping
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saestore.dictionaries import products, selection
from saestore.dictionaries.activation_functions.base import (
    ActivationFunction,
    at_inference,
    kept,
)
from saestore.dictionaries.code import RaggedCode, SparseCode, TrainingCode
from saestore.dictionaries.pre_activation import PreActivation
from saestore_schemas.dictionary import Semantics


class TopK(ActivationFunction):
    """Keep the k largest."""

    fixes_l0: ClassVar[bool] = True
    ranks: ClassVar[bool] = True

    def __init__(self, semantics: Semantics, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(semantics, tensors)
        self.k = int(semantics.activation.model_dump()["k"])
        self.k_now = self.k

    @override
    def code(self, pre: PreActivation) -> TrainingCode:
        """Return the selected entries, differentiable."""
        k = min(self.k_now, pre.d_sae)

        def largest(gate: Tensor) -> selection.Chosen:
            return selection.largest(self.scores(gate), k)

        if self.in_parts(pre.d_sae, products.dense_share(pre.lengths)):
            return RaggedCode(*pre.chosen(largest))
        return kept(pre, largest(pre.gate))

    @override
    def in_parts(self, d_sae: int, dense_share: float) -> bool:
        """Return whether k is so small that a code is never dense."""
        return self.k_now <= dense_share * d_sae

    @override
    def firings(self, pre: PreActivation) -> SparseCode:
        """Return the selected positive entries."""
        return at_inference(pre, selection.largest(self.scores(pre.gate), self.k))

    @staticmethod
    def scores(gate: Float[Tensor, "row d_sae"]) -> Float[Tensor, "row d_sae"]:
        """Return what is ranked."""
        return gate

    @override
    def keep_k(self, k: float | None) -> None:
        """Keep another number of features while training."""
        self.k_now = self.k if k is None else round(k)

    @override
    def scalars(self) -> dict[str, float]:
        """Return k."""
        return {"k": float(self.k_now)}
