"""Squared error: mean over rows of Σ_d (ŷ' − y')². Every other weight is relative to it."""

from jaxtyping import Float
from torch import Tensor

from saestore.train.objectives.base import Pass
from saestore.train.objectives.errors import summed_error


class SquaredError:
    """Mean over rows of the squared error, summed over dimensions."""

    name = "mse"

    def __call__(self, seen: Pass) -> Float[Tensor, ""]:
        """Return the term."""
        return summed_error(seen.output.reconstruction, seen.targets)

    def weight(self, step: int) -> float:
        """Return 1: every other weight is relative to this term."""
        del step
        return 1.0
