"""Settings of the frozen language model under study."""

from typing import Literal, Self

from pydantic import Field, model_validator

from saestore_schemas.base import Model


class LmSettings(Model):
    """Which language model, and how its weights are used."""

    model: str = Field(min_length=1)
    """Hub name such as `EleutherAI/pythia-70m`, or a local Hugging Face directory."""
    revision: str | None = None
    """Commit, tag or branch on the hub; recorded."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type the forward computes in."""
    processing: Literal["raw", "compatibility"] = "raw"
    """`raw` keeps the weights as published; `compatibility` folds LayerNorm and centres the
    unembedding as TransformerLens does, which changes activations: a dictionary of one is not a
    dictionary of the other."""
    prepend_bos: bool = True
    """Begin every context with the BOS token. Its row is stored and flagged special."""
    bos_token_id: int | None = Field(default=None, ge=0)
    """BOS id; absent, the tokenizer's."""
    eos_token_id: int | None = Field(default=None, ge=0)
    """EOS id; absent, the tokenizer's."""

    @model_validator(mode="after")
    def _bos_id_is_used(self) -> Self:
        if self.bos_token_id is not None and not self.prepend_bos:
            msg = "bos_token_id is set, but prepend_bos is false: remove one of them"
            raise ValueError(msg)
        return self
