"""Settings of `saestore generate`: text to an activation store."""

from pydantic import Field, field_validator

from saestore_schemas.activations import RowCapture, StoreDtype, StoreRecord, StoreSettings
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
    capture: tuple[RowCapture, ...] = ()
    """What else to store of each row: `final_norm_scale`, by which the model's final norm divides it, for
    additive logit attribution. The forward pass then runs through all blocks, not only to the last
    hookpoint; 4 bytes a row."""
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

    @field_validator("hookpoints", "capture")
    @classmethod
    def _no_repeats(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        twice = [each for place, each in enumerate(value) if each in value[:place]]
        if twice:
            msg = f"{twice[0]!r} stands twice"
            raise ValueError(msg)
        return value

    def record(self) -> StoreRecord:
        """Return what a reader of the store must know."""
        return StoreRecord(
            dtype=self.dtype,
            store=self.store,
            lm=self.lm,
            context_size=self.corpus.context_size,
            capture=self.capture,
        )
