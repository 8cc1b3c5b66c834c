"""AuxK: dead features reconstruct what the living left over.

    α · ρ · V · Σ_b ‖e_b − ê_b‖² / Σ_b ‖e_b − ē‖²

On each row the k dead features with the largest gate score are used with their raw pre-activation,
negative ones too: a ReLU here would leave most dead encoders without gradient. The residual is
detached, so living features get nothing from this term. V, the variance of the normalised targets
in the whole store, keeps the weight relative to the squared error the same at any scale of the data;
ρ fades the term when few features are dead. Where features belong to layers, dead ones of each take
over what is missing at their own layer, and the term is the sum over layers.

Source: Gao et al. 2024 (arXiv:2406.04093), appendix A.2; normalised as there, times V.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from saestore.dictionaries import Layer
from saestore.train.objectives import errors
from saestore.train.objectives.base import Pass
from saestore_schemas.objective import AuxSettings


class AuxK:
    """Dead features reconstruct what the living left over."""

    name = "aux"

    def __init__(
        self, settings: AuxSettings, k: int, variance: float | Mapping[str, float]
    ) -> None:
        """Take settings.

        Args:
            settings: Weight, and k where it is set.
            k: How many dead features of a layer one row uses otherwise.
            variance: tr Cov of the normalised targets: of each hookpoint, or of all together where
                features have no layers.
        """
        self.settings = settings
        self.k = settings.k or k
        self.variance = variance

    def __call__(self, seen: Pass) -> Float[Tensor, ""]:
        """Return the term; exactly 0 when nothing is dead or nothing is left over."""
        first, *others = (self._of(layer, seen) for layer in seen.dictionary.layers)
        return sum(others, start=first)

    def _of(self, layer: Layer, seen: Pass) -> Float[Tensor, ""]:
        """Return the term of the features of one layer."""
        own = (seen.dead >= layer.features.start) & (seen.dead < layer.features.stop)
        dead = seen.dead[own]
        zero = torch.zeros_like(next(iter(seen.targets.values()))[0, 0])
        if len(dead) == 0:
            return zero
        k = min(self.k, len(dead))
        revived = seen.revived(dead, k)
        missed, spread, energy = zero, zero, zero
        for hook in layer.writes:
            residual = seen.targets[hook] - seen.output.reconstruction[hook].detach()
            energy = energy + errors.energy(residual)
            spread = spread + errors.spread(residual)
            missed = missed + errors.squared_distance(revived.pop(hook), residual, spent=True)
        # Equal residuals leave a spread of rounding errors only, which is 0.
        if spread <= torch.finfo(spread.dtype).eps * energy:
            return zero
        variance = self.variance
        if isinstance(variance, Mapping):
            variance = sum(variance[hook] for hook in layer.writes)
        scale = min(len(dead) / self.k, 1.0) * variance * self.weight(seen.step)
        return scale * missed / spread

    def weight(self, step: int) -> float:
        """Return α."""
        del step
        return self.settings.coefficient
