"""What training minimises: squared error, plus terms. None of them knows a family.

    mse    mean over rows of Σ_d (ŷ' − y')²
    l1     λ(step) · mean over rows of Σ_i f_i n_i                n_i not detached
    aux    α · ρ · V · Σ_b ‖e_b − ê_b‖² / Σ_b ‖e_b − ē‖²

Everything is in normalised units, summed over output hookpoints.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from saestore.dictionaries import DictionaryOutput, SparseDictionary
from saestore.train import schedules
from saestore_schemas.train import AuxSettings, L1Settings, LossSettings


DEAD_AFTER_ROWS = 10_000_000
"""The field's window, in tokens (arXiv:2406.04093); short runs use a tenth of their rows."""


@dataclass(frozen=True)
class Pass:
    """One forward pass, as losses see it.

    Attributes:
        dictionary: What was run.
        inputs: Normalised rows.
        targets: Normalised rows that the reconstructions should equal.
        output: Code and reconstructions.
        dead: Features that have been silent too long, this batch counted.
        step: From 0.
    """

    dictionary: SparseDictionary
    inputs: Mapping[str, Float[Tensor, "row _"]]
    targets: Mapping[str, Float[Tensor, "row _"]]
    output: DictionaryOutput
    dead: Int64[Tensor, " feature"]
    step: int


@runtime_checkable
class LossTerm(Protocol):
    """One term of the loss."""

    name: str

    def __call__(self, seen: Pass) -> Float[Tensor, ""]:
        """Return the term, weighted."""
        ...

    def weight(self, step: int) -> float:
        """Return its weight at a step, for the log."""
        ...


class SquaredError:
    """Mean over rows of the squared error, summed over dimensions."""

    name = "mse"

    def __call__(self, seen: Pass) -> Float[Tensor, ""]:
        """Return the term."""
        errors = [
            (seen.output.reconstruction[hook] - target).square().sum() / len(target)
            for hook, target in seen.targets.items()
        ]
        return torch.stack(errors).sum()

    def weight(self, step: int) -> float:
        """Return 1: every other weight is relative to this term."""
        del step
        return 1.0


class DecoderWeightedL1:
    """λ times the mean over rows of activations weighted by decoder length.

    The lengths are not detached: without them a free decoder would grow and the code shrink for
    nothing. Shrinks what fires, by λ/2 where n is 1.

    Source: Conerly et al. 2024, "Update on how we train SAEs" (transformer-circuits.pub, April).
    """

    name = "sparsity"

    def __init__(self, settings: L1Settings, total_steps: int) -> None:
        self.settings = settings
        self.total_steps = total_steps

    def __call__(self, seen: Pass) -> Float[Tensor, ""]:
        """Return the term."""
        sums = seen.output.code.weighted_sum(seen.dictionary.decoder_norms())
        return self.weight(seen.step) * sums.mean()

    def weight(self, step: int) -> float:
        """Return λ at a step."""
        factor = schedules.penalty_factor(self.settings.warmup, step, self.total_steps)
        return self.settings.coefficient * factor


class AuxK:
    """Dead features reconstruct what the living left over.

    On each row the k dead features with the largest gate score are used with their raw
    pre-activation, negative ones too: a ReLU here would leave most dead encoders without gradient.
    The residual is detached, so living features get nothing from this term. V, the variance of
    the normalised targets in the whole store, keeps the weight relative to the squared error the
    same at any scale of the data; ρ fades the term when few features are dead.

    Source: Gao et al. 2024 (arXiv:2406.04093), appendix A.2; normalised as there, times V.
    """

    name = "aux"

    def __init__(self, settings: AuxSettings, k: int, variance: float) -> None:
        self.settings = settings
        self.k = settings.k or k
        self.variance = variance

    def __call__(self, seen: Pass) -> Float[Tensor, ""]:
        """Return the term; exactly 0 when nothing is dead or nothing is left over."""
        dead = seen.dead
        zero = torch.zeros_like(next(iter(seen.targets.values()))[0, 0])
        if len(dead) == 0:
            return zero
        k = min(self.k, len(dead))
        revived = seen.dictionary.reconstruct_with(seen.inputs, seen.output, dead, k)
        missed, spread, energy = zero, zero, zero
        for hook, target in seen.targets.items():
            residual = (target - seen.output.reconstruction[hook]).detach()
            missed = missed + (residual - revived[hook]).square().sum()
            spread = spread + (residual - residual.mean(dim=0)).square().sum()
            energy = energy + residual.square().sum()
        # Equal residuals leave a spread of rounding errors only, which is 0.
        if spread <= torch.finfo(spread.dtype).eps * energy:
            return zero
        scale = min(len(dead) / self.k, 1.0) * self.variance * self.weight(seen.step)
        return scale * missed / spread

    def weight(self, step: int) -> float:
        """Return α."""
        del step
        return self.settings.coefficient


def dead_after_rows(settings: LossSettings, total_rows: int) -> int:
    """Return after how many silent rows a feature is dead."""
    chosen = settings.aux.dead_after_rows if settings.aux is not None else None
    return chosen or max(1, min(DEAD_AFTER_ROWS, total_rows // 10))


def terms(
    settings: LossSettings,
    dictionary: SparseDictionary,
    *,
    variance: float,
    total_steps: int,
) -> tuple[LossTerm, ...]:
    """Return the terms that the settings ask for.

    Args:
        settings: Which terms, with their weights.
        dictionary: What is trained.
        variance: tr Cov of the normalised targets over the store, summed over hookpoints.
        total_steps: Steps of the whole run.
    """
    found: list[LossTerm] = [SquaredError()]
    if settings.sparsity is not None:
        found.append(DecoderWeightedL1(settings.sparsity, total_steps))
    aux = settings.aux
    if aux is None and dictionary.fixes_l0:
        aux = AuxSettings()
    if aux is not None and aux.coefficient > 0:
        found.append(AuxK(aux, max(1, sum(dictionary.config.d_out) // 2), variance))
    return tuple(found)
