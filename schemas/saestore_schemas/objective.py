"""Settings of the objective: squared error plus terms, and which of them go together with what."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from saestore_schemas.base import Model
from saestore_schemas.dictionary import Activation
from saestore_schemas.optimize import Steps


Coefficient = Annotated[float, Field(gt=0)]
"""Weight of a term, in normalised units."""


class L1Settings(Model):
    """Penalty lambda * mean over rows of sum_i f_i ||W_dec[i]||."""

    kind: Literal["l1"] = "l1"
    """Discriminator."""
    coefficient: Coefficient
    """lambda, in normalised units."""
    warmup: Steps = 0.05
    """lambda rises linearly from 0."""


class PNormSettings(Model):
    """Penalty on powers of activations times decoder length, below 1 closer to a count than L1 is."""

    kind: Literal["p_norm"] = "p_norm"
    """Discriminator."""
    coefficient: Coefficient
    """lambda, in normalised units."""
    p: float = Field(default=0.5, gt=0)
    """Exponent."""
    form: Literal["power", "norm"] = "power"
    """`power`: lambda * mean over rows of sum_i (f_i n_i)^p; `norm`: of (sum_i (f_i n_i)^p)^(1/p)."""
    warmup: Steps = 0.05
    """lambda rises linearly from 0."""


class PAnnealSettings(Model):
    """Penalty lambda * sum_i (f_i n_i)^p with p falling from 1 (arXiv:2408.00113).

    At each fall lambda is set so that the penalty of the last steps keeps its value.
    """

    kind: Literal["p_anneal"] = "p_anneal"
    """Discriminator."""
    coefficient: Coefficient
    """lambda at p = 1, in normalised units."""
    p_end: float = Field(default=0.2, gt=0, lt=1)
    """Last exponent."""
    start: Steps = 0.2
    """When p first falls; the other falls follow evenly."""
    updates: int = Field(default=10, ge=1)
    """Number of falls."""
    queue: int = Field(default=10, ge=1)
    """Steps over which lambda is matched."""
    warmup: Steps = 0.05
    """lambda rises linearly from 0."""


class TanhSettings(Model):
    """Penalty lambda * mean over rows of sum_i tanh(stretch f_i n_i), which saturates."""

    kind: Literal["tanh"] = "tanh"
    """Discriminator."""
    coefficient: Coefficient
    """lambda."""
    stretch: float = Field(default=4.0, gt=0)
    """Factor inside the tanh."""
    warmup: Steps = 1.0
    """lambda rises linearly from 0; by default over the whole run."""


class TanhQuadSettings(Model):
    """Penalty lambda * sum_i p_i (1 + p_i / frequency_scale): dense features pay more.

    p_i is the mean over the batch of tanh(stretch f_i n_i).
    """

    kind: Literal["tanh_quad"] = "tanh_quad"
    """Discriminator."""
    coefficient: Coefficient
    """lambda."""
    stretch: float = Field(default=4.0, gt=0)
    """Factor inside the tanh."""
    frequency_scale: float = Field(default=0.01, gt=0)
    """Frequency at which a feature pays double."""
    warmup: Steps = 0.05
    """lambda rises linearly from 0."""


class L0Settings(Model):
    """Penalty lambda * mean L0, its gradient estimated around thresholds (arXiv:2407.14435)."""

    kind: Literal["l0"] = "l0"
    """Discriminator."""
    coefficient: Coefficient
    """lambda."""
    warmup: Steps = 0.05
    """lambda rises linearly from 0."""


class TargetL0BatchSettings(Model):
    """Penalty lambda * (mean L0 / target - 1)^2, of the mean over the batch."""

    kind: Literal["target_l0_batch"] = "target_l0_batch"
    """Discriminator."""
    coefficient: Coefficient
    """lambda."""
    target: float = Field(gt=0)
    """Features that should fire on one row on average."""
    warmup: Steps = 0.05
    """lambda rises linearly from 0."""


class TargetL0RowSettings(Model):
    """Penalty lambda * mean over rows of (2 / target) (L0 - target)^2, row by row."""

    kind: Literal["target_l0_row"] = "target_l0_row"
    """Discriminator."""
    coefficient: Coefficient
    """lambda."""
    target: float = Field(gt=0)
    """Features that should fire on each row."""
    warmup: Steps = 0.05
    """lambda rises linearly from 0."""


SparsitySettings = Annotated[
    L1Settings
    | PNormSettings
    | PAnnealSettings
    | TanhSettings
    | TanhQuadSettings
    | L0Settings
    | TargetL0BatchSettings
    | TargetL0RowSettings,
    Field(discriminator="kind"),
]
"""Sparsity penalties, one class each."""


class AuxSettings(Model):
    """AuxK: dead features reconstruct the residual (arXiv:2406.04093)."""

    coefficient: float = Field(default=1 / 32, ge=0)
    """Weight; 0 switches it off."""
    k: int | None = Field(default=None, ge=1)
    """Dead features used on one row; absent, half of d_out."""
    dead_after_rows: int | None = Field(default=None, ge=1)
    """A feature is dead after so many rows without firing; absent, min(10 000 000, a tenth of all
    rows)."""


class PreActivationSettings(Model):
    """Term coefficient * mean over rows of sum_i relu(threshold_i - h_i) n_i: wakes silent features."""

    coefficient: float = Field(default=3e-6, gt=0)
    """Weight."""
    on: Literal["all", "dead"] = "all"
    """Which features it reaches: all, or those that count as dead."""
    dead_after_rows: int | None = Field(default=None, ge=1)
    """With `dead`: dead after so many rows without firing; absent, as for `loss.aux`."""

    @model_validator(mode="after")
    def _window(self) -> Self:
        if self.on == "all" and self.dead_after_rows is not None:
            msg = "dead_after_rows goes with on = 'dead': all features are reached otherwise"
            raise ValueError(msg)
        return self


class GatedAuxSettings(Model):
    """Auxiliary reconstruction from a gated encoder's gate, by a decoder that counts as constant."""

    coefficient: float = Field(default=1.0, ge=0)
    """Weight; 0 switches it off."""


class MatryoshkaSettings(Model):
    """Prefixes of the features reconstruct by themselves (arXiv:2503.17547).

    The squared error is the weighted mean of the prefixes' errors. Give one of `widths`, `shares` and
    `sampled`.
    """

    widths: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """Features of each prefix, ascending; the last must be d_sae."""
    shares: tuple[Annotated[float, Field(gt=0, le=1)], ...] | None = None
    """Share of the features that each prefix adds, such as [1/32, 1/16, 1/8, 1/4, 17/32]; sum 1."""
    sampled: int | None = Field(default=None, ge=2)
    """So many prefixes, drawn anew at every step from a Pareto(0.5) distribution, and all features
    always among them."""
    weights: tuple[Coefficient, ...] | None = None
    """Weight of each prefix, divided by their sum; absent, equal weights."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [each for each in (self.widths, self.shares, self.sampled) if each is not None]
        if len(given) != 1:
            msg = "give exactly one of widths, shares and sampled"
            raise ValueError(msg)
        if self.widths is not None and any(a >= b for a, b in pairwise(self.widths)):
            msg = f"widths must ascend, found {list(self.widths)}"
            raise ValueError(msg)
        if self.shares is not None and abs(sum(self.shares) - 1) > _ROUNDING:
            msg = f"shares must add up to 1, found {sum(self.shares):g}"
            raise ValueError(msg)
        prefixes = self.widths or self.shares
        if self.weights is not None and prefixes is None:
            msg = "weights go with widths or shares: sampled prefixes weigh the same"
            raise ValueError(msg)
        if self.weights is not None and prefixes is not None and len(self.weights) != len(prefixes):
            msg = f"{len(self.weights)} weights for {len(prefixes)} prefixes: give one of each"
            raise ValueError(msg)
        return self


_ROUNDING = 1e-6


class KScheduleSettings(Model):
    """k falls to `activation.k` from a larger number, rounded up."""

    initial: float = Field(gt=0)
    """k at the start."""
    hold: Steps = 0
    """How long it stays there."""
    steps: Steps = 0.1
    """How long it then falls."""
    kind: Literal["linear", "exponential"] = "linear"
    """Shape of the fall."""
    rate: float = Field(default=3.0, gt=0)
    """How much steeper an exponential fall begins than it ends: r in (1 - e^(-r p)) / (1 - e^(-r))."""


class LossSettings(Model):
    """What is minimised: squared error summed over dimensions, mean over rows, plus these."""

    sparsity: SparsitySettings | None = None
    """Sparsity penalty; absent, none. Refused with top-k activations."""
    aux: AuxSettings | None = None
    """AuxK; absent, on with its defaults for top-k activations and off otherwise."""
    pre_activation: PreActivationSettings | None = None
    """What features lack to their JumpReLU thresholds; absent, nothing."""
    gated_aux: GatedAuxSettings | None = None
    """Auxiliary reconstruction of gated activations; absent, on with its defaults for them."""
    matryoshka: MatryoshkaSettings | None = None
    """Prefixes that reconstruct by themselves; absent, none."""
    k_schedule: KScheduleSettings | None = None
    """k falls in the course of the run; absent, it is the same throughout."""


COUNTED = ("l0", "target_l0_batch", "target_l0_row")
"""Penalties on the number of firings."""


def objections(activation: Activation, loss: LossSettings, d_sae: int | None) -> Iterator[str]:
    """Yield why an activation function and an objective do not go together; nothing, if they do.

    Args:
        activation: The activation function's settings.
        loss: The objective's.
        d_sae: Features, if known.
    """
    kind, sparsity = activation.kind, loss.sparsity
    if sparsity is not None and activation.ranks:
        yield (
            f"loss.sparsity is set, but activation.kind {kind!r} fixes L0 by itself: "
            "remove loss.sparsity, or use activation.kind = 'relu'"
        )
    elif sparsity is not None and sparsity.kind in COUNTED and not activation.learns_thresholds:
        yield (
            f"loss.sparsity.kind {sparsity.kind!r} counts firings, which has a gradient through "
            f"learnt thresholds only, and activation.kind {kind!r} has none: use 'l1' or 'tanh', or "
            "activation.kind = 'jumprelu'"
        )
    target = getattr(sparsity, "target", None)
    if target is not None and d_sae is not None and target > d_sae:
        yield f"loss.sparsity.target = {target:g} is more than d_sae = {d_sae}"
    if loss.pre_activation is not None and not activation.learns_thresholds:
        yield (
            "loss.pre_activation measures what is missing to learnt thresholds, and activation.kind "
            f"{kind!r} has none: remove it, or use activation.kind = 'jumprelu'"
        )
    if loss.gated_aux is not None and not activation.has_gate:
        yield (
            f"loss.gated_aux reconstructs from a gate, and activation.kind {kind!r} has none of its "
            "own: remove it, or use activation.kind = 'gated'"
        )
    yield from _of_k(activation, loss.k_schedule, d_sae)
    matryoshka = loss.matryoshka
    if matryoshka is not None and d_sae is not None:
        if matryoshka.widths is not None and matryoshka.widths[-1] != d_sae:
            yield (
                f"loss.matryoshka.widths ends with {matryoshka.widths[-1]}, but the last prefix is "
                f"all features: end it with d_sae = {d_sae}"
            )
        if matryoshka.shares is not None and len(matryoshka.shares) > d_sae:
            yield f"loss.matryoshka.shares has more prefixes than there are features, {d_sae}"


def _of_k(
    activation: Activation, schedule: KScheduleSettings | None, d_sae: int | None
) -> Iterator[str]:
    if schedule is None:
        return
    k = getattr(activation, "k", None)
    if k is None:
        yield (
            f"loss.k_schedule is set, but activation.kind {activation.kind!r} keeps no given number "
            "of features: remove it, or use activation.kind = 'topk'"
        )
    elif schedule.initial < k:
        yield f"loss.k_schedule.initial = {schedule.initial:g} is less than activation.k = {k:g}"
    elif d_sae is not None and schedule.initial > d_sae:
        yield f"loss.k_schedule.initial = {schedule.initial:g} is more than d_sae = {d_sae}"
