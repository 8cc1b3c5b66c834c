"""Pre-activations computed once, without gradient, into memory that is kept from step to step.

An activation function looks at the numbers, decides, and asks for the gradient of what it keeps:
of some pairs (`at`) or of all (`dense`). Pages that the system has never handed out cost several
times what it takes to fill them, and h is by far the largest array of a step.
"""

import threading
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from typing_extensions import override

from saestore.dictionaries import kernels
from saestore.dictionaries.kernels import Pairs


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
class Projection:
    """Rows times vectors plus a bias, already computed; differentiable where asked.

    Attributes:
        values: The result, without gradient; overwritten by the next forward pass.
        rows: What was multiplied.
        vectors: By what, one feature a row.
        bias: What was added.
    """

    values: Float[Tensor, "row d_sae"]
    rows: Float[Tensor, "row d_in"]
    vectors: Float[Tensor, "d_sae d_in"]
    bias: Float[Tensor, " d_sae"]

    def at(self, pairs: Pairs) -> Float[Tensor, " firing"]:
        """Return the values at some pairs, differentiable."""
        return kernels.picked(self.rows, self.vectors, self.bias, pairs.of(self.values), pairs)

    def of(self, features: Int64[Tensor, " feature"]) -> "Projection":
        """Return the projection on some features' vectors alone."""
        return Projection(
            self.values[:, features], self.rows, self.vectors[features], self.bias[features]
        )

    def dense(self) -> Float[Tensor, "row d_sae"]:
        """Return all values, differentiable."""
        return kernels.dense(self.rows, self.vectors, self.bias, self.values)


@dataclass(frozen=True)
class PreActivation:
    """What an activation function decides on.

    Attributes:
        values: h, without gradient; overwritten by the next forward pass.
        gate: What is ranked or compared, likewise: h itself, or h times decoder length.
        linear: The encoder's projection; h itself when there is no `dimmer`.
        dimmer: Second projection of a GLU encoder, whose sigmoid multiplies the first; or None.
        lengths: Decoder lengths, differentiable.
        on_lengths: Whether the gate is h times decoder length.
    """

    values: Float[Tensor, "row d_sae"]
    gate: Float[Tensor, "row d_sae"]
    linear: Projection
    dimmer: Projection | None
    lengths: Float[Tensor, " d_sae"]
    on_lengths: bool
    _all: list[Tensor] = field(default_factory=list, repr=False, compare=False)

    def of(self, features: Int64[Tensor, " feature"]) -> "PreActivation":
        """Return the pre-activations of some features alone; nothing here costs what all would."""
        values = self.values[:, features]
        gate = values if self.gate is self.values else self.gate[:, features]
        dimmer = None if self.dimmer is None else self.dimmer.of(features)
        lengths = self.lengths[features]
        return PreActivation(
            values, gate, self.linear.of(features), dimmer, lengths, self.on_lengths
        )

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.values.shape[1]

    def at(self, pairs: Pairs) -> Float[Tensor, " firing"]:
        """Return h at some pairs, differentiable."""
        values = self.linear.at(pairs)
        return values if self.dimmer is None else values * torch.sigmoid(self.dimmer.at(pairs))

    def dense(self) -> Float[Tensor, "row d_sae"]:
        """Return all of h, differentiable; always the same tensor, so that gradients meet in it."""
        if not self._all:
            values = self.linear.dense()
            if self.dimmer is not None:
                values = values * torch.sigmoid(self.dimmer.dense())
            self._all.append(values)
        return self._all[0]
