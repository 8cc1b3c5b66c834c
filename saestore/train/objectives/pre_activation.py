"""Pre-activation loss: λ · mean over rows of Σ_i relu(θ_i − h_i) n_i, which wakes silent features.

Gated on h n, it is relu(θ_i − h_i n_i): like is compared with like. Its gradient reaches encoders
that no firing reaches, all of them or those of dead features alone.

Source: Anthropic, "Circuits updates, January 2025" (all features); SAELens applies it to dead ones.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from saestore.train.objectives.base import Pass
from saestore_schemas.objective import PreActivationSettings


class PreActivationLoss:
    """What gate scores lack to their thresholds."""

    name = "pre_activation"

    def __init__(self, settings: PreActivationSettings) -> None:
        self.settings = settings

    def __call__(self, seen: Pass) -> Float[Tensor, ""]:
        """Return the term."""
        features = seen.dead if self.settings.on == "dead" else None
        if features is not None and len(features) == 0:
            return torch.zeros_like(next(iter(seen.targets.values()))[0, 0])
        missing = seen.dictionary.activation.below(seen.output.pre, features)
        return missing.mean() * self.settings.coefficient

    def weight(self, step: int) -> float:
        """Return λ."""
        del step
        return self.settings.coefficient
