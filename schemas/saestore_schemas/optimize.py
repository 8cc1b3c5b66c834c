"""Settings of how training goes: optimiser, schedules, precision, checkpoints, stops, metrics.

Wherever a field counts steps, an integer is a number of steps, a float a fraction of all steps, and
0 switches the thing off.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from saestore_schemas.base import Model


Steps = Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, le=1)]
"""An integer: steps; a float from 0 to 1: that share of all steps."""

Beta = Annotated[float, Field(ge=0, lt=1)]
"""Decay rate of a moment."""


class OptimizerSettings(Model):
    """Adam."""

    kind: Literal["adam", "sparse_adam"] = "adam"
    """`sparse_adam` updates only features whose gradient is not zero: for dictionaries so wide that
    most features fire on no row of a batch. Another trajectory than `adam`."""
    lr: float | None = Field(default=None, gt=0)
    """Learning rate; absent, 2e-4 / sqrt(d_sae / 2^14)."""
    threshold_lr_factor: float = Field(default=1.0, gt=0)
    """Learning rate of thresholds, as a multiple of `lr`."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay rates of the first and second moment."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the root of the second moment."""
    states: Literal["full", "lean"] = "full"
    """`full`: 8 bytes of moments a weight. `lean`: 2, with first moments in bfloat16 and second
    moments of matrices as one number a row and one a column (arXiv:1804.04235)."""
    clip_norm: float | None = Field(default=1.0, gt=0)
    """L2 norm to which all gradients together are clipped; null, no clipping."""
    accumulate: int = Field(default=1, ge=1)
    """Parts into which a batch is cut, to need less memory. The step is that of the whole batch, so
    it is refused with losses that are no means over rows."""

    @model_validator(mode="after")
    def _one_saving(self) -> Self:
        if self.kind == "sparse_adam" and self.states == "lean":
            msg = (
                "kind 'sparse_adam' keeps moments of each row, states 'lean' one of each matrix's "
                "column: choose one"
            )
            raise ValueError(msg)
        return self


class ScheduleSettings(Model):
    """Learning rate over the run."""

    kind: Literal["constant", "linear", "cosine", "exponential"] = "constant"
    """Shape after the warm-up: `constant` falls in the cool-down only, the others all the way."""
    warmup: Steps = 0.05
    """Linear rise at the start, at most 1000 steps when given as a share."""
    cooldown: Steps | None = None
    """Linear fall at the end, for kind `constant` only; absent, a fifth of all steps."""
    end_ratio: float = Field(default=0.0, ge=0, le=1)
    """Learning rate at the end, as a share of `lr`."""

    @model_validator(mode="after")
    def _shape(self) -> Self:
        if self.kind != "constant" and self.cooldown is not None:
            msg = f"cooldown goes with kind 'constant': {self.kind!r} falls over the whole run"
            raise ValueError(msg)
        if self.kind == "exponential" and self.end_ratio == 0:
            msg = "kind 'exponential' never reaches 0: give end_ratio, such as 0.01"
            raise ValueError(msg)
        return self


class PrecisionSettings(Model):
    """Number types of training.

    Weights, moments, thresholds, norms, ranking and losses are float32 whatever is chosen here.
    """

    autocast: Literal["bfloat16", "float16"] | None = None
    """Type of dense matrix products; absent, float32. float16 scales the loss, and skips steps
    whose gradients overflow."""


class EarlyStopSettings(Model):
    """End the run when a metric no longer gets better.

    Part of the settings: where a run stops depends on nothing but them.
    """

    metric: str = "ev_batch"
    """A metric of metrics.parquet, compared whenever it is logged; with `evaluate_every` a score of
    it too, such as `evaluate/explained_variance`, compared after each evaluation."""
    goal: Literal["largest", "smallest"] = "largest"
    """Which values are better."""
    patience: int = Field(default=20, ge=1)
    """Values in a row that are no better than the best before."""
    min_change: float = Field(default=0.0, ge=0)
    """By how much a value must beat the best one to count as better."""


class CheckpointSettings(Model):
    """Complete states from which a run resumes bit for bit."""

    count: int = Field(default=10, ge=0)
    """Checkpoints in a run; 0 writes none."""
    spacing: Literal["linear", "log"] = "linear"
    """`linear`: evenly spaced; `log`: each as many times later than the one before."""
    keep: Literal["latest", "all"] | Annotated[int, Field(ge=1)] = "latest"
    """`latest`: only the newest, removed when the run finishes; a number: so many of the newest,
    kept; `all`: every one, kept."""


class WandbSettings(Model):
    """Metrics in Weights & Biases, beside metrics.parquet."""

    project: str = Field(min_length=1)
    """Project."""
    name: str | None = None
    """Name of the run; absent, `series/name`."""
    entity: str | None = None
    """User or team; absent, W&B's default."""
    mode: Literal["online", "offline"] = "online"
    """`offline` writes to disk only; `wandb sync` uploads it."""


class LogSettings(Model):
    """Metrics."""

    every: int = Field(default=50, ge=1)
    """Steps between rows of metrics.parquet."""
    density_window: int | None = Field(default=None, ge=1)
    """Rows over which feature densities are measured, rounded up to whole batches; absent, those
    since the last log."""
    wandb: WandbSettings | None = None
    """Report to Weights & Biases too (extra `wandb`). No part of the fingerprint."""


Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""What starts a random stream; TOML's integers end there."""


class SeedSettings(Model):
    """Independent random streams."""

    init: Seed = 0
    """Starting weights."""
    data: Seed = 0
    """Order of the rows."""
    loss: Seed = 0
    """What the objective draws: sampled prefixes."""
