"""What the corpus asks of a tokenizer."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32, Int64


@runtime_checkable
class Tokenizer(Protocol):
    """Text to token ids that remember where in the text they began."""

    @property
    def bos_id(self) -> int | None:
        """Beginning of sequence, or None if the model has no such token."""
        ...

    @property
    def eos_id(self) -> int | None:
        """End of sequence, or None if the model has no such token."""
        ...

    @property
    def special_ids(self) -> frozenset[int]:
        """All control tokens, `bos_id` and `eos_id` among them."""
        ...

    def encode(
        self, text: str
    ) -> tuple[Int32[np.ndarray, " position"], Int64[np.ndarray, " position"]]:
        """Return token ids, none added, and the code-point offset at which each begins."""
        ...
