"""ReLU: every positive pre-activation fires; a penalty makes the code sparse.

    f = h where g > 0, else 0

The gradient is 1 where it fires and 0 elsewhere, at exactly 0 too. Use top-k when L0 must be set
rather than found.
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saestore.dictionaries.activation_functions.base import ActivationFunction
from saestore.dictionaries.code import DenseCode, SparseCode
from saestore.dictionaries.pre_activation import PreActivation
from saestore_schemas import dictionary as schemas


class Relu(ActivationFunction):
    """Keep what is positive."""

    fixes_l0: ClassVar[bool] = False

    @override
    def __init__(self, settings: schemas.Relu) -> None:
        self.settings = settings

    @override
    def code(self, pre: PreActivation) -> DenseCode:
        """Return all activations, differentiable."""
        h = pre.dense()
        if pre.gate is pre.values:
            return DenseCode(torch.relu(h))
        return DenseCode(torch.where(pre.gate > 0, h, 0))

    @override
    def firings(
        self, values: Float[Tensor, "row d_sae"], gate: Float[Tensor, "row d_sae"]
    ) -> SparseCode:
        """Return the positive pre-activations."""
        return SparseCode.from_dense(torch.where(gate > 0, values, 0))
