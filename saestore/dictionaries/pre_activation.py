"""Pre-activations computed once, without gradient, into memory that is kept from step to step.

An activation function looks at the numbers, decides, and asks for the gradient of what it keeps:
of some entries a row (`at`) or of all (`dense`). Pages that the system has never handed out cost
several times what it takes to fill them, and h is by far the largest array of a step.
"""

import threading
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from typing_extensions import override

from saestore.dictionaries import kernels


class Scratch(threading.local):
    """Kept memory, by name, for each thread; copies of its owner start with none."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def take(self, name: str, rows: int, width: int, like: Tensor) -> Float[Tensor, "row _"]:
        """Return memory of that shape with whatever it held before."""
        kept = self._kept.get(name)
        if (
            kept is None
            or kept.numel() < rows * width
            or kept.dtype != like.dtype
            or kept.device != like.device
        ):
            kept = torch.empty(rows * width, dtype=like.dtype, device=like.device)
            self._kept[name] = kept
        return kept[: rows * width].view(rows, width)

    @override
    def __reduce__(self) -> tuple[type["Scratch"], tuple[()]]:
        """Copy and pickle without contents."""
        return (Scratch, ())


@dataclass(frozen=True)
class PreActivation:
    """What an activation function decides on.

    Attributes:
        values: h, without gradient; overwritten by the next forward pass.
        gate: What is ranked or compared: h, or h times decoder length.
        rows: What the encoder read.
        encoder: Encoder vectors, one a row.
        bias: Encoder bias.
    """

    values: Float[Tensor, "row d_sae"]
    gate: Float[Tensor, "row d_sae"]
    rows: Float[Tensor, "row d_in"]
    encoder: Float[Tensor, "d_sae d_in"]
    bias: Float[Tensor, " d_sae"]

    def at(
        self, indices: Int64[Tensor, "row k"], keep: Bool[Tensor, "row k"]
    ) -> tuple[Float[Tensor, "row k"], kernels.Pairs]:
        """Return some entries of each row, differentiable; 0 without gradient where not kept."""
        pairs = kernels.Pairs(indices, len(self.encoder))
        values = self.values.gather(1, indices)
        kept = kernels.picked(self.rows, self.encoder, self.bias, values, keep, pairs)
        return kept, pairs

    def dense(self) -> Float[Tensor, "row d_sae"]:
        """Return all entries, differentiable."""
        return kernels.dense(self.rows, self.encoder, self.bias, self.values)
