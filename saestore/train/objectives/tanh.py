"""Tanh: λ(step) · mean over rows of Σ_i tanh(κ f_i n_i), n not detached.

It saturates: a count of firings for large κ f n, an L1 of weight κ for small ones, so that it does
not shrink what fires strongly.

Source: Anthropic, "Circuits updates, January 2025" (κ = 4, λ rising over the whole run).
"""

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saestore.train.objectives.base import Pass, Penalty
from saestore_schemas.objective import TanhSettings


class Tanh(Penalty):
    """Saturating activations."""

    def __init__(self, settings: TanhSettings, total_steps: int) -> None:
        super().__init__(settings, total_steps)
        self.stretch = settings.stretch

    @override
    def value(self, seen: Pass) -> Float[Tensor, ""]:
        """Return the term without its weight."""
        code = seen.output.code.penalised
        entries = code.scaled(self.stretch * seen.dictionary.column_norms())
        return code.row_sums(torch.tanh(entries)).mean()
