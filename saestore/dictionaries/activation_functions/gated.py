"""Gated: one bias decides which features fire, another how strongly.

    z = read W_enc        π = z + b_gate        f = relu(e^r z + b_mag) where π > 0, else 0

The penalty acts on relu(π), so that it does not shrink f, and an auxiliary reconstruction from
relu(π) by a detached decoder keeps the gate meaningful (`train/objectives/gated_aux.py`). At inference
it is a JumpReLU for all inputs:

    W' = e^r W_enc        b' = b_mag        θ' = max(0, b_mag − e^r b_gate)

It costs one and a half times a ReLU.

Source: Rajamanoharan et al. 2024 (arXiv:2404.16014).
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from saestore.dictionaries import products, selection
from saestore.dictionaries.activation_functions.base import ActivationFunction
from saestore.dictionaries.code import DenseCode, RaggedCode, SparseCode, TrainingCode
from saestore.dictionaries.kernels import Pairs
from saestore.dictionaries.pre_activation import PreActivation
from saestore_schemas.dictionary import Semantics


class Gated(ActivationFunction):
    """Keep what a gate lets through.

    Attributes:
        b_mag: Bias of the strength.
        r_mag: Logarithm of the factor from gate to strength.
    """

    fixes_l0: ClassVar[bool] = False
    has_gate: ClassVar[bool] = True
    bias_name: ClassVar[str] = "b_gate"

    def __init__(self, semantics: Semantics, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(semantics, tensors)
        self.b_mag = nn.Parameter(tensors["b_mag"].clone())
        self.r_mag = nn.Parameter(tensors["r_mag"].clone())

    @classmethod
    @override
    def shapes(cls, d_sae: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of bias and factor; both start at zero."""
        return {"b_mag": (d_sae,), "r_mag": (d_sae,)}

    @override
    def tensors(self) -> dict[str, Tensor]:
        """Return bias and factor."""
        return {"b_mag": self.b_mag.detach(), "r_mag": self.r_mag.detach()}

    @override
    def code(self, pre: PreActivation) -> TrainingCode:
        """Return what passes the gate, differentiable."""
        vectors = (pre.linear.bias, self.b_mag, self.r_mag)
        most = int(products.dense_share(pre.values) * pre.values.numel())
        chosen = selection.above(pre.values, pre.values.new_zeros(pre.d_sae), most=most)
        if chosen is None:
            h = pre.dense()
            return DenseCode(
                torch.where(pre.values > 0, _strength(h, *vectors), 0), gate=torch.relu(h)
            )
        pairs = Pairs(*chosen, pre.d_sae)
        h = pre.at(pairs)
        return RaggedCode(pairs, _strength(h, *(pairs.spread(each) for each in vectors)), gate=h)

    @override
    def firings(self, pre: PreActivation) -> SparseCode:
        """Return what passes the gate."""
        strength = _strength(pre.values, pre.linear.bias, self.b_mag, self.r_mag)
        return SparseCode.from_dense(torch.where(pre.values > 0, strength, 0))

    @classmethod
    @override
    def rewritten(
        cls,
        tensors: Mapping[str, Float[Tensor, " d_sae"]],
        *,
        shift: Float[Tensor, " d_sae"],
        values: Float[Tensor, " d_sae"],
        gate: Float[Tensor, " d_sae"],
    ) -> dict[str, Float[Tensor, " d_sae"]]:
        """Return biases that keep the code, up to its units; the factor between them stays."""
        plain = super().rewritten(tensors, shift=shift, values=values, gate=gate)
        moved = tensors["b_mag"] - tensors["r_mag"].exp() * shift
        return {**plain, "b_mag": moved * values}

    @classmethod
    @override
    def as_jumprelu(
        cls, tensors: Mapping[str, Float[Tensor, " d_sae"]]
    ) -> tuple[Float[Tensor, " d_sae"], dict[str, Float[Tensor, " d_sae"]]]:
        """Return the JumpReLU above."""
        factor = tensors["r_mag"].exp()
        threshold = (tensors["b_mag"] - factor * tensors["b_gate"]).clamp(min=0)
        return factor, {"b_enc": tensors["b_mag"], "threshold": threshold}

    @override
    def scalars(self) -> dict[str, float]:
        """Return the mean logarithm of the factor."""
        return {"r_mag_mean": float(self.r_mag.detach().double().mean())}


def _strength(h: Tensor, b_gate: Tensor, b_mag: Tensor, r_mag: Tensor) -> Tensor:
    """Return relu(e^r z + b_mag), with z = h − b_gate."""
    return torch.relu(r_mag.exp() * (h - b_gate) + b_mag)
