"""What goes into a dictionary and comes out of a training pass, and which features belong together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from saestore.dictionaries.code import TrainingCode
from saestore.dictionaries.pre_activation import PreActivation


Rows = Mapping[str, Float[Tensor, "row _"]]
"""Rows of each hookpoint."""


class DictionaryOutput(NamedTuple):
    """One training forward pass, in normalised units.

    Attributes:
        code: Activations, differentiable.
        reconstruction: Output hookpoint to reconstruction, differentiable.
        pre: Pre-activations and gate scores; overwritten by the next forward pass.
    """

    code: TrainingCode
    reconstruction: dict[str, Float[Tensor, "row d_out"]]
    pre: PreActivation


@dataclass(frozen=True)
class Layer:
    """Features that belong together: those of one layer, or all where there are no layers.

    Attributes:
        name: The hookpoint that they read; empty where they read several.
        features: Which they are, as columns of a code.
        writes: The hookpoints where dead ones among them take over what is missing.
    """

    name: str
    features: slice
    writes: tuple[str, ...]
