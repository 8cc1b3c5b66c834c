"""What an activation function does: decide which pre-activations become firings."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from saestore.dictionaries.code import SparseCode, TrainingCode
from saestore.dictionaries.pre_activation import PreActivation


class ActivationFunction(ABC):
    """f = select(g) * h, with g the gate score and h the pre-activation."""

    fixes_l0: ClassVar[bool]
    """Whether it sets L0 by itself; otherwise a penalty must."""

    @abstractmethod
    def __init__(self, settings: Any) -> None:
        """Take the settings of its kind."""

    @abstractmethod
    def code(self, pre: PreActivation) -> TrainingCode:
        """Return the code while training, differentiable."""

    @abstractmethod
    def firings(
        self, values: Float[Tensor, "row d_sae"], gate: Float[Tensor, "row d_sae"]
    ) -> SparseCode:
        """Return the code at inference: row by row, whatever the other rows are.

        Args:
            values: Pre-activations h.
            gate: Gate scores g; the same tensor as `values` when the gate is on h.
        """

    def scalars(self) -> dict[str, float]:
        """Return numbers worth logging; none here."""
        return {}
