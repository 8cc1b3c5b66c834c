"""What an activation function does: decide which pre-activations become firings.

One kind is one file and one registry entry. It may own parameters, which stand in the dictionary's
file under names of its own, and says what becomes of them when weights are rewritten. Nothing else
asks which kind it is.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from saestore.dictionaries import products, selection
from saestore.dictionaries.code import DenseCode, RaggedCode, SparseCode, TrainingCode
from saestore.dictionaries.kernels import Pairs
from saestore.dictionaries.pre_activation import PreActivation
from saestore.errors import UnsupportedError
from saestore_schemas.dictionary import InferenceRecord, SameAsTraining, Semantics
from saestore_schemas.train import InitSettings


class ActivationFunction(nn.Module, ABC):
    """f = select(g) * h, with g the gate score and h the pre-activation."""

    fixes_l0: ClassVar[bool]
    """Whether it sets L0 by itself; otherwise a penalty must."""
    ranks: ClassVar[bool] = False
    """Whether it compares features with each other, so that features must not be rescaled one by
    one."""
    row_wise: ClassVar[bool] = True
    """Whether a row's code in training depends on that row alone, so that losses are means over
    rows."""
    firing: ClassVar[Literal["positive", "nonzero"]] = "positive"
    """Which activations are firings."""
    has_gate: ClassVar[bool] = False
    """Whether penalties act on a gate of its own, which must learn to reconstruct."""
    learned_thresholds: ClassVar[tuple[str, ...]] = ()
    """Parameters that are thresholds: they have a learning rate of their own."""
    bias_name: ClassVar[str] = "b_enc"
    """Name of the encoder bias in the file: the one in the gate score."""

    def __init__(self, semantics: Semantics, tensors: Mapping[str, Tensor]) -> None:
        """Take settings, and parameters by the names of the file."""
        super().__init__()
        del semantics, tensors

    @classmethod
    def shapes(cls, d_sae: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of each of its tensors in the file, the encoder bias not among them."""
        del d_sae
        return {}

    @classmethod
    def start(cls, settings: Any, d_sae: int, init: InitSettings) -> dict[str, Tensor]:
        """Return its tensors before training; with one number of each feature, of those of all gates."""
        del settings, init
        return {name: torch.zeros(shape) for name, shape in cls.shapes(d_sae).items()}

    @classmethod
    def inference(cls) -> InferenceRecord:
        """Return how an untrained dictionary computes codes at inference."""
        return SameAsTraining()

    def tensors(self) -> dict[str, Tensor]:
        """Return its tensors by the names of the file, without gradient."""
        return {}

    @abstractmethod
    def code(self, pre: PreActivation) -> TrainingCode:
        """Return the code while training, differentiable."""

    @abstractmethod
    def firings(self, pre: PreActivation) -> SparseCode:
        """Return the code at inference: row by row, whatever the other rows are."""

    def thresholds(self) -> Float[Tensor, " d_sae"] | None:
        """Return what gate scores must exceed at inference; None where that is no fixed number."""
        return None

    def in_parts(self, d_sae: int, dense_share: float) -> bool:
        """Return whether `code` looks at some rows at a time: pre-activations need not exist whole.

        Args:
            d_sae: Features.
            dense_share: See `products.dense_share`.
        """
        del d_sae, dense_share
        return False

    def below(
        self, pre: PreActivation, features: Tensor | None
    ) -> Float[Tensor, " row"]:  # pragma: no cover - settings refuse it
        """Return by how much each row's gate scores fall short of their thresholds, differentiable.

        Summed over features, in units of the output: what is missing times decoder length.

        Args:
            pre: The pre-activations.
            features: Which features count; None, all.

        Raises:
            UnsupportedError: It has no thresholds that training moves.
        """
        del pre, features
        raise UnsupportedError(
            f"{type(self).__name__} has no thresholds that training moves",
            found=type(self).__name__,
            expected="activation.kind = 'jumprelu'",
            hint="remove loss.pre_activation",
        )

    @classmethod
    def rewritten(
        cls,
        tensors: Mapping[str, Float[Tensor, " _"]],
        *,
        shift: Float[Tensor, " d_sae"],
        values: Float[Tensor, " d_sae"],
        gate: Float[Tensor, " _"],
    ) -> dict[str, Float[Tensor, " _"]]:
        """Return encoder bias and parameters that keep the code, up to its units.

        Args:
            tensors: Its tensors, and the encoder bias under `bias_name`.
            shift: What the rewritten encoder adds to pre-activations, to be taken off again.
            values: Factor that pre-activations take after that, above 0.
            gate: Factor that gate scores take, above 0; one of each column of the code.
        """
        del gate
        return {**tensors, cls.bias_name: (tensors[cls.bias_name] - shift) * values}

    @classmethod
    def as_jumprelu(
        cls, tensors: Mapping[str, Float[Tensor, " _"]]
    ) -> tuple[Float[Tensor, " d_sae"], dict[str, Float[Tensor, " _"]]]:
        """Return a JumpReLU with the same codes at inference, for all inputs.

        Args:
            tensors: Its tensors, and the encoder bias under `bias_name`.

        Returns:
            What each encoder vector is multiplied with, and `b_enc` and `threshold`.

        Raises:
            UnsupportedError: It ranks a row's features, which no threshold can say.
        """
        del tensors
        raise UnsupportedError(
            f"{cls.__name__} keeps a number of features a row, which no threshold can say",
            found=cls.__name__,
            expected="an activation function that compares each feature with a number",
            hint="export it as it is, or train with activation.kind = 'batchtopk'",
        )

    def scalars(self) -> dict[str, float]:
        """Return numbers worth logging; none here."""
        return {}

    def keep_k(self, k: float | None) -> None:
        """Keep another number of features while training; None, that of the settings.

        Raises:
            UnsupportedError: It keeps no given number.
        """
        if k is not None:
            raise UnsupportedError(
                f"{type(self).__name__} keeps no given number of features",
                found=type(self).__name__,
                expected="one of topk, batchtopk, abstopk",
                hint="remove loss.k_schedule",
            )


class Thresholded(ActivationFunction):
    """Fires at inference where the gate score exceeds a threshold of each feature."""

    @classmethod
    @override
    def shapes(cls, d_sae: int) -> dict[str, tuple[int, ...]]:
        """Return the thresholds' shape."""
        return {"threshold": (d_sae,)}

    @override
    def tensors(self) -> dict[str, Tensor]:
        """Return the thresholds."""
        return {"threshold": self.thresholds()}

    @override
    @abstractmethod
    def thresholds(self) -> Float[Tensor, " d_sae"]:
        """Return what gate scores must exceed at inference."""

    @override
    def firings(self, pre: PreActivation) -> SparseCode:
        """Return the pre-activations above their thresholds."""
        limits = self.thresholds().to(pre.gate.dtype)
        return at_inference(pre, selection.of_mask(pre.gate > limits))

    @classmethod
    @override
    def rewritten(
        cls,
        tensors: Mapping[str, Float[Tensor, " _"]],
        *,
        shift: Float[Tensor, " d_sae"],
        values: Float[Tensor, " d_sae"],
        gate: Float[Tensor, " _"],
    ) -> dict[str, Float[Tensor, " _"]]:
        """Return bias and thresholds that keep the code, up to its units."""
        plain = super().rewritten(tensors, shift=shift, values=values, gate=gate)
        return {**plain, "threshold": tensors["threshold"] * gate}

    @classmethod
    @override
    def as_jumprelu(
        cls, tensors: Mapping[str, Float[Tensor, " _"]]
    ) -> tuple[Float[Tensor, " d_sae"], dict[str, Float[Tensor, " _"]]]:
        """Return the same: at inference it is one."""
        return torch.ones_like(tensors["b_enc"]), dict(tensors)


def kept(pre: PreActivation, chosen: selection.Chosen) -> TrainingCode:
    """Return the code that is h at some pairs, differentiable, by the faster path."""
    pairs = Pairs(*chosen, pre.d_sae)
    if len(pairs) > products.dense_share(pre.gate) * pre.gate.numel():
        mask = torch.zeros_like(pre.gate, dtype=torch.bool)
        mask[pairs.row_ids, pairs.indices] = True
        return DenseCode(torch.where(mask, pre.dense(), 0))
    return RaggedCode(pairs, pre.at(pairs))


def at_inference(pre: PreActivation, chosen: selection.Chosen) -> SparseCode:
    """Return the code that is h at some pairs, without gradient."""
    offsets, indices = chosen
    values = pre.taken(Pairs(offsets, indices, pre.d_sae))
    return SparseCode(offsets, indices, values, pre.d_sae)
