"""L1: λ(step) · mean over rows of Σ_i f_i n_i, n not detached.

Without the decoder lengths a free decoder would grow and the code shrink for nothing. Shrinks what
fires, by λ/2 where n is 1.

Source: Conerly et al. 2024, "Update on how we train SAEs" (transformer-circuits.pub, April).
"""

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saestore.train.objectives.base import Pass, Penalty


class DecoderWeightedL1(Penalty):
    """Activations weighted by decoder length."""

    @override
    def value(self, seen: Pass) -> Float[Tensor, ""]:
        """Return the term without its weight."""
        code = seen.output.code.penalised
        return code.weighted_sum(seen.dictionary.column_norms()).mean()
