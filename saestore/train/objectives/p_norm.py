"""p-norm: λ(step) · mean over rows of Σ_i (f_i n_i)^p, or of its p-th root.

Below 1 it is closer to a count than L1 is, and shrinks large activations less. At zero its derivative
is infinite: entries that are zero get none, and tiny ones that of 1e-12.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saestore.dictionaries.code import Entries, TrainingCode
from saestore.train.objectives.base import Pass, Penalty
from saestore_schemas.objective import PNormSettings


SMALLEST = 1e-12
"""Activations times decoder length below this count as this, where they are not zero."""


class PNorm(Penalty):
    """Powers of activations times decoder length."""

    def __init__(self, settings: PNormSettings, total_steps: int) -> None:
        super().__init__(settings, total_steps)
        self.p, self.form = settings.p, settings.form

    @override
    def value(self, seen: Pass) -> Float[Tensor, ""]:
        """Return the term without its weight."""
        code = seen.output.code.penalised
        sums = power_sums(code, code.scaled(seen.dictionary.column_norms()), self.p)
        if self.form == "norm":
            sums = powers(sums, 1 / self.p)
        return sums.mean()


def power_sums(code: TrainingCode, entries: Entries, p: float) -> Float[Tensor, " row"]:
    """Return each row's sum of its entries' p-th powers."""
    return code.row_sums(powers(entries, p))


def powers(entries: Entries, p: float) -> Entries:
    """Return entries to the power p, with gradient 0 at 0."""
    return torch.where(entries > 0, entries.clamp(min=SMALLEST) ** p, 0)
