"""Tanh-quad: λ(step) · Σ_i p_i (1 + p_i/q), with p_i the mean over the batch of tanh(κ f_i n_i).

Features that fire on more than a share q of the rows pay more than in proportion. It is no mean over
rows: halves of a batch do not add up to the whole.

Source: llamascopium (lm-saes) 2.0, `tanh-quad`.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saestore.train.objectives.base import Pass, Penalty
from saestore_schemas.objective import TanhQuadSettings


class TanhQuad(Penalty):
    """Saturating activations, dense features dearer."""

    def __init__(self, settings: TanhQuadSettings, total_steps: int) -> None:
        super().__init__(settings, total_steps)
        self.stretch, self.scale = settings.stretch, settings.frequency_scale

    @override
    def value(self, seen: Pass) -> Float[Tensor, ""]:
        """Return the term without its weight."""
        code = seen.output.code.penalised
        entries = code.scaled(seen.dictionary.column_norms())
        rows = len(next(iter(seen.targets.values())))
        often = code.feature_sums(torch.tanh(self.stretch * entries)) / rows
        return (often * (1 + often / self.scale)).sum()
