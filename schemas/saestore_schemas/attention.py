"""How the features of a Lorsa attend: groups of queries and keys, and where rotary positions turn them.

Part of a dictionary's settings and, completed, of its record.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from saestore_schemas.base import Model


class NtkSettings(Model):
    """Rotary frequencies slowed down for contexts longer than the model's first ones (NTK by parts)."""

    factor: float = Field(ge=1)
    """What slow frequencies are divided by; Llama 3 calls it `factor`."""
    low: float = Field(default=1.0, gt=0)
    """Pairs that turn less often than this in a first context are slowed down whole: `low_freq_factor`."""
    high: float = Field(default=4.0, gt=0)
    """Pairs that turn more often than this are kept as they are: `high_freq_factor`."""
    context_size: int = Field(ge=1)
    """Length of the first contexts: `original_max_position_embeddings`."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.high <= self.low:
            msg = f"ntk.high = {self.high:g} must be above ntk.low = {self.low:g}"
            raise ValueError(msg)
        return self


class RopeSettings(Model):
    """Rotary positions, as the host model has them."""

    dim: int | None = Field(default=None, ge=2)
    """Dimensions that turn, the first ones; absent, all."""
    base: float = Field(default=10000.0, gt=1)
    """Base of the frequencies: `rope_theta`."""
    pairs: Literal["adjacent", "halves"] = "halves"
    """Which dimensions turn together: neighbours (GPT-J), or one of each half (Llama, Qwen, GPT-NeoX)."""
    scale: float = Field(default=1.0, gt=0)
    """Positions are divided by this."""
    ntk: NtkSettings | None = None
    """Frequencies by parts; absent, as they are."""

    @model_validator(mode="after")
    def _pairs_up(self) -> Self:
        if self.dim is not None and self.dim % 2:
            msg = f"rope.dim = {self.dim} must be even: dimensions turn in pairs"
            raise ValueError(msg)
        return self


class AttentionSettings(Model):
    """Groups of features that attend alike."""

    n_qk: int = Field(ge=1)
    """Groups: d_sae / n_qk consecutive features share queries and keys."""
    d_qk: int = Field(ge=1)
    """Width of queries and keys."""
    scale: float | None = Field(default=None, gt=0)
    """What products of queries and keys are divided by; absent, the root of d_qk."""
    qk_norm: Literal["none", "rms"] = "none"
    """`rms`: queries and keys of each group are brought to a root mean square of 1 times learned weights,
    before they turn, as in hosts with a QK norm."""
    eps: float = Field(default=1e-6, gt=0)
    """Added to the mean square."""
    rope: RopeSettings | None = None
    """Rotary positions; absent, none."""

    @model_validator(mode="after")
    def _turns_what_there_is(self) -> Self:
        if self.rope is not None:
            dim = self.rope.dim or self.d_qk
            if dim > self.d_qk or dim % 2:
                msg = f"rope turns {dim} of d_qk = {self.d_qk} dimensions: give an even rope.dim of at most d_qk"
                raise ValueError(msg)
        return self

    @property
    def divisor(self) -> float:
        """What products of queries and keys are divided by."""
        return self.scale or float(self.d_qk) ** 0.5
