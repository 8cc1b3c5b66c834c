"""ReLU: every positive pre-activation fires; a penalty makes the code sparse.

    f = h where g > 0, else 0

The gradient is 1 where it fires and 0 elsewhere, at exactly 0 too. Use top-k when L0 must be set
rather than found.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saestore.dictionaries import products, selection
from saestore.dictionaries.activation_functions.base import ActivationFunction, at_inference
from saestore.dictionaries.code import DenseCode, RaggedCode, SparseCode, TrainingCode
from saestore.dictionaries.kernels import Pairs
from saestore.dictionaries.pre_activation import PreActivation


class Relu(ActivationFunction):
    """Keep what is positive."""

    fixes_l0: ClassVar[bool] = False

    @override
    def code(self, pre: PreActivation) -> TrainingCode:
        """Return all positive activations, differentiable."""
        most = int(products.dense_share(pre.gate) * pre.gate.numel())
        chosen = selection.above(pre.gate, pre.gate.new_zeros(pre.d_sae), most=most)
        if chosen is None:
            # Several times as fast as `where` over all of h; a length of 0 lets nothing pass.
            passed = torch.relu(pre.dense())
            return DenseCode(passed * (pre.lengths > 0) if pre.on_lengths else passed)
        pairs = Pairs(*chosen, pre.d_sae)
        return RaggedCode(pairs, pre.at(pairs))

    @override
    def firings(self, pre: PreActivation) -> SparseCode:
        """Return the positive pre-activations."""
        return at_inference(pre, selection.of_mask(pre.gate > 0))

    @classmethod
    @override
    def as_jumprelu(
        cls, tensors: Mapping[str, Float[Tensor, " d_sae"]]
    ) -> tuple[Float[Tensor, " d_sae"], dict[str, Float[Tensor, " d_sae"]]]:
        """Return thresholds of 0."""
        bias = tensors["b_enc"]
        return torch.ones_like(bias), {"b_enc": bias, "threshold": torch.zeros_like(bias)}
