"""Pre-activations computed once, without gradient, into memory that is kept from step to step.

An activation function looks at the numbers, decides, and asks for the gradient of what it keeps:
of some pairs (`at`) or of all (`dense`). Pages that the system has never handed out cost several
times what it takes to fill them, and h is by far the largest array of a step.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable
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

    def between(self, start: int, stop: int) -> "Projection":
        """Return the projection on the vectors of a range of features."""
        if (start, stop) == (0, len(self.bias)):
            return self
        own = slice(start, stop)
        return Projection(self.values[:, own], self.rows, self.vectors[own], self.bias[own])

    def of(self, features: Int64[Tensor, " feature"]) -> "Projection":
        """Return the projection on some features' vectors alone."""
        return Projection(
            self.values[:, features], self.rows, self.vectors[features], self.bias[features]
        )

    def dense(self) -> Float[Tensor, "row d_sae"]:
        """Return all values, differentiable."""
        return kernels.dense(self.rows, self.vectors, self.bias, self.values)


@dataclass(frozen=True)
class Projections:
    """Projections side by side in one matrix, each of rows of its own on features of its own.

    Attributes:
        values: All results, without gradient; overwritten by the next forward pass.
        parts: In the order of their features; their values are stretches of these.
    """

    values: Float[Tensor, "row d_sae"]
    parts: tuple[Projection, ...]

    @property
    def bias(self) -> Float[Tensor, " d_sae"]:
        """What was added."""
        return torch.cat([part.bias for part in self.parts])

    def at(self, pairs: Pairs) -> Float[Tensor, " firing"]:
        """Return the values at some pairs, differentiable."""
        chosen = [pairs.between(*span) for _, span in self._spans()]
        values = [part.at(own) for part, (own, _) in zip(self.parts, chosen, strict=True)]
        return kernels.placed(values, [places for _, places in chosen])

    def between(self, start: int, stop: int) -> "Projection | Projections":
        """Return the projections on the vectors of a range of features."""
        found = tuple(
            part.between(max(start, first) - first, min(stop, last) - first)
            for part, (first, last) in self._spans()
            if first < stop and start < last
        )
        return found[0] if len(found) == 1 else Projections(self.values[:, start:stop], found)

    def of(self, features: Int64[Tensor, " feature"]) -> "Projection | Projections":
        """Return the projections on the vectors of some features, which must ascend."""
        found = []
        for part, (first, last) in self._spans():
            own = features[(features >= first) & (features < last)] - first
            if len(own):
                found.append(part.of(own))
        if len(found) == 1:
            return found[0]
        return Projections(self.values[:, features], tuple(found))

    def dense(self) -> Float[Tensor, "row d_sae"]:
        """Return all values, differentiable; not copied."""
        result: Tensor = _Joined.apply(  # type: ignore[no-untyped-call]
            self.values, *(part.dense() for part in self.parts)
        )
        return result

    def _spans(self) -> Iterator[tuple[Projection, tuple[int, int]]]:
        """Yield each part with its first feature and the one after its last."""
        first = 0
        for part in self.parts:
            yield part, (first, first + len(part.bias))
            first += len(part.bias)


class _Joined(torch.autograd.Function):
    """Hands on a matrix whose stretches are already there, and gives each its gradient."""

    @staticmethod
    @override
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        values, *parts = inputs
        ctx.sizes = [part.shape[1] for part in parts]
        result: Tensor = values.detach()
        return result

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *torch.split(gradients[0], ctx.sizes, dim=1)


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
    linear: Projection | Projections
    dimmer: Projection | Projections | None
    lengths: Float[Tensor, " d_sae"]
    on_lengths: bool
    _all: list[Tensor] = field(default_factory=list, repr=False, compare=False)

    def between(self, start: int, stop: int) -> "PreActivation":
        """Return the pre-activations of a range of features alone."""
        own = slice(start, stop)
        values = self.values[:, own]
        gate = values if self.gate is self.values else self.gate[:, own]
        dimmer = None if self.dimmer is None else self.dimmer.between(start, stop)
        linear, lengths = self.linear.between(start, stop), self.lengths[own]
        return PreActivation(values, gate, linear, dimmer, lengths, self.on_lengths)

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
