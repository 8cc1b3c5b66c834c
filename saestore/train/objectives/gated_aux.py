"""Auxiliary reconstruction of gated encoders: mean over rows of ‖x' − (relu(π) W_dec⁰ + b_dec⁰)‖².

The decoder counts as a constant, so that the gate learns to find features and the decoder is not
pulled towards what shrunken gates would like.

Source: Rajamanoharan et al. 2024 (arXiv:2404.16014), equation 8.
"""

from jaxtyping import Float
from torch import Tensor

from saestore.train.objectives.base import Pass
from saestore.train.objectives.errors import summed_error
from saestore_schemas.objective import GatedAuxSettings


class GatedAux:
    """Reconstruction from the gate."""

    name = "gated_aux"

    def __init__(self, settings: GatedAuxSettings) -> None:
        self.settings = settings

    def __call__(self, seen: Pass) -> Float[Tensor, ""]:
        """Return the term."""
        gate = seen.output.code.penalised
        reconstruction = seen.dictionary.decode_code(gate, seen.inputs, detached=True)
        return summed_error(reconstruction, seen.targets) * self.settings.coefficient

    def weight(self, step: int) -> float:
        """Return its weight."""
        del step
        return self.settings.coefficient
