"""Settings of `saestore generate`: text to an activation store."""

from pydantic import Field, field_validator

from saestore_schemas.activations import StoreDtype, StoreRecord, StoreSettings
from saestore_schemas.base import Model
from saestore_schemas.corpus import CorpusSettings
from saestore_schemas.lm import LmSettings
from saestore_schemas.names import ArtefactName, HookpointName


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

    def record(self) -> StoreRecord:
        """Return what a reader of the store must know."""
        return StoreRecord(
            dtype=self.dtype,
            store=self.store,
            lm=self.lm,
            context_size=self.corpus.context_size,
        )
