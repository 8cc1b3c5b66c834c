"""Settings of `saestore generate`: text to an activation store."""

from typing import Literal

from pydantic import Field, field_validator

from saestore_schemas.base import Model
from saestore_schemas.corpus import CorpusSettings
from saestore_schemas.lm import LmSettings
from saestore_schemas.names import ArtefactName, HookpointName


StoreDtype = Literal["float32", "float16", "bfloat16"]
"""How activations are stored. bfloat16 lies on disk as its bits in uint16, with an attribute."""


FLAG_SPECIAL = 1
"""Bit of a row's flags: BOS, separators and other control tokens."""
FLAG_IGNORED = 2
"""Bit of a row's flags: its token id is in `ignore_tokens`."""


class StoreSettings(Model):
    """Shape of the store on disk. The defaults suit everything but experiments."""

    chunk_kib: int = Field(default=512, ge=1)
    """Upper bound of one inner chunk in KiB; rows per chunk is the largest power of two that
    fits. A chunk is the unit of reading and of checksums."""
    shard_mib: float = Field(default=512, gt=0)
    """Upper bound of one shard of the widest hookpoint in MiB; rows per shard is the largest power
    of two that fits. A shard is one file per hookpoint and the unit of resuming."""


class GenerateSettings(Model):
    """One activation store: a language model, a corpus, and what is captured."""

    name: ArtefactName
    """Name of the activations artefact."""
    lm: LmSettings
    """The language model."""
    corpus: CorpusSettings
    """The documents."""
    hookpoints: tuple[HookpointName, ...] = Field(min_length=1)
    """What to capture, by TransformerLens name or glob (`blocks.*.hook_resid_post`)."""
    tokens: int | None = Field(default=None, ge=1)
    """Rows to store, exactly; absent, the whole corpus."""
    dtype: StoreDtype = "bfloat16"
    """How activations are stored."""
    ignore_tokens: tuple[int, ...] = ()
    """Token ids whose rows are stored but flagged ignored, beside the special ones; training and
    statistics skip them."""
    forward_contexts: int = Field(default=8, ge=1)
    """Contexts in one forward pass."""
    store: StoreSettings = StoreSettings()
    """Shape of the store on disk."""

    @field_validator("hookpoints")
    @classmethod
    def _no_repeats(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            msg = "the same hookpoint stands twice"
            raise ValueError(msg)
        return value
