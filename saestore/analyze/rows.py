"""What an analysis reads: the rows of a store, or of texts that were only just put through a model."""

from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int64


@runtime_checkable
class Rows(Protocol):
    """Rows in contexts, contexts in documents; an activation store is one."""

    n_rows: int
    """Rows there are."""

    def read(self, hookpoint: str, start: int, stop: int) -> Float32[np.ndarray, "row d"]:
        """Return rows start to stop of a hookpoint."""
        ...

    def contexts(self) -> Int64[np.ndarray, "context 2"]:
        """Return first row and length of each context."""
        ...

    def segments(self) -> Int64[np.ndarray, "segment 6"]:
        """Return context, start, length, document, token and character offset of each segment."""
        ...

    def documents(self) -> pa.Table:
        """Return id and source of each document, at least."""
        ...

    def vocabulary(self) -> pa.Table:
        """Return the tokenizer's vocabulary."""
        ...
