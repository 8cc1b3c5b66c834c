"""The same activation function on each layer's features: a k of each row and layer.

Features of several layers stand in one axis, those of a layer beside each other. What ranks features
ranks those of a layer among themselves, and a threshold that training estimates is estimated for each
layer. Nothing here knows what is ranked: a part of the kind in question sees its layer alone. Heads of a
crosscoder that gate by themselves are layers here.

Where k counts features of all layers together, use the kind itself on the whole axis.
"""

from collections.abc import Iterator, Mapping
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from saestore.dictionaries.activation_functions.base import ActivationFunction
from saestore.dictionaries.code import SparseCode, TrainingCode, side_by_side
from saestore.dictionaries.pre_activation import PreActivation
from saestore_schemas.dictionary import Semantics


class ByLayer(ActivationFunction):
    """One activation function of each layer.

    Attributes:
        parts: They.
    """

    def __init__(
        self,
        kind: type[ActivationFunction],
        semantics: Semantics,
        tensors: Mapping[str, Tensor],
        layers: int,
    ) -> None:
        """Take settings, and parameters of all layers by the names of the file."""
        super().__init__(semantics, tensors)
        own = {name: tensors[name].chunk(layers) for name in kind.shapes(1)}
        self.parts = nn.ModuleList(
            kind(semantics, {name: chunks[layer] for name, chunks in own.items()})
            for layer in range(layers)
        )
        # What is a fact of the kind is a fact of this: the registry says it, no subclass could.
        for fact in ("fixes_l0", "ranks", "row_wise", "firing", "has_gate", "bias_name"):
            setattr(self, fact, getattr(kind, fact))

    @property
    def _of_layers(self) -> list[ActivationFunction]:
        """The parts, first layer first."""
        return [cast("ActivationFunction", part) for part in self.parts]

    def _each(self, pre: PreActivation) -> Iterator[tuple[ActivationFunction, PreActivation]]:
        """Yield each layer's activation function with its pre-activations."""
        width = pre.d_sae // len(self.parts)
        for layer, part in enumerate(self._of_layers):
            yield part, pre.between(layer * width, (layer + 1) * width)

    @override
    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of all layers, one after the other."""
        found = [part.tensors() for part in self._of_layers]
        return {name: torch.cat([each[name] for each in found]) for name in found[0]}

    @override
    def code(self, pre: PreActivation) -> TrainingCode:
        """Return the layers' codes beside each other, differentiable."""
        return side_by_side([part.code(own) for part, own in self._each(pre)])

    @override
    def firings(self, pre: PreActivation) -> SparseCode:
        """Return the layers' codes beside each other."""
        return SparseCode.side_by_side([part.firings(own) for part, own in self._each(pre)])

    @override
    def thresholds(self) -> Float[Tensor, " d_sae"] | None:
        """Return what gate scores must exceed at inference; None where that is no fixed number."""
        found = [part.thresholds() for part in self._of_layers]
        known = [each for each in found if each is not None]
        return torch.cat(known) if len(known) == len(found) else None

    @override
    def keep_k(self, k: float | None) -> None:
        """Keep another number of each layer's features while training."""
        for part in self._of_layers:
            part.keep_k(k)

    @override
    def scalars(self) -> dict[str, float]:
        """Return the mean over layers of each number."""
        found = [part.scalars() for part in self._of_layers]
        return {name: sum(each[name] for each in found) / len(found) for name in found[0]}
