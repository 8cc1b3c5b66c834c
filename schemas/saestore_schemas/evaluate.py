"""Settings of `saestore evaluate`: how good is a dictionary?"""

from typing import Literal, Self

from pydantic import Field, model_validator

from saestore_schemas.activations import HeadSettings, one_place
from saestore_schemas.base import Model
from saestore_schemas.names import ArtefactName, DictionaryOrCheckpoint, HookpointName


class SpliceSettings(Model):
    """Cross-entropy and KL divergence with the reconstruction put in place of the activations."""

    contexts: int = Field(default=32, ge=1)
    """Contexts of the store run through the language model, evenly spread over the split."""
    forward_contexts: int = Field(default=4, ge=1)
    """Contexts in one forward pass."""
    replace: Literal["kept", "all"] = "kept"
    """Which positions get the reconstruction: kept ones, or special and ignored ones too. Counted are
    predictions made from kept positions either way."""
    hookpoints: tuple[HookpointName, ...] | None = None
    """Only these are replaced, of the hookpoints or heads that the dictionary reconstructs; absent, all of
    one language model together."""
    lm: str | dict[HookpointName, str] | None = None
    """Language model to run (hub name or directory); of heads in several models, by the name of a head.
    Absent, the one the store was made with."""


class JacobianSettings(Model):
    """How a dictionary's output changes with its input, beside how the language model's does."""

    contexts: int = Field(default=8, ge=1)
    """Contexts of the store run through the language model, evenly spread over the split; their kept
    rows are compared."""
    projections: int = Field(default=32, ge=1)
    """Backward passes: along so many random directions of the output, or along all of them if there
    are no more."""
    seed: int = Field(default=0, ge=0)
    """Of these directions."""
    lm: str | None = None
    """Language model to run (hub name or directory); absent, the one the store was made with."""


class EvaluateSettings(Model):
    """One evaluation of one dictionary."""

    name: ArtefactName = "default"
    """Name of the evaluation beside the dictionary."""
    dictionary: DictionaryOrCheckpoint
    """The dictionary, `series/name`, or a checkpoint of it, `series/name@step`."""
    activations: ArtefactName | None = None
    """Activation store; absent, the one it was trained on, or the original if that is a scattered
    copy. Of a mix, one must be named."""
    heads: tuple[HeadSettings, ...] = ()
    """Hookpoints of several stores of the same contexts, by the names the dictionary has for them; absent,
    those it was trained on. Give this or `activations`, or neither."""
    split: Literal["held_out", "train", "all"] = "held_out"
    """Which contexts: those training never saw, those it saw, or all. `held_out` and `train` follow
    the training run's `activations.held_out`."""
    beside: tuple[DictionaryOrCheckpoint, ...] = ()
    """Other dictionaries: only contexts in the split of all of them are used, so that scores compare.
    Those that were not trained on the store leave out none."""
    rows: int | None = Field(default=1_000_000, ge=1)
    """At most so many rows for the metrics that need no language model; null, all of the split."""
    cosines: bool = True
    """Compare every feature's encoder and decoder vector with all others: d_sae squared times d_in
    multiplications, seconds to 32 768 features on a CPU."""
    splice: SpliceSettings | None = SpliceSettings()
    """Cross-entropy and KL divergence; null skips them and loads no language model for them."""
    jacobian: JacobianSettings | None = None
    """Cosine of the dictionary's Jacobian and that of what the language model computes from the same
    hookpoints, such as an MLP; `{}` takes the defaults."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        one_place(self.activations, self.heads)
        return self
