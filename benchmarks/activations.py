"""Synthetic activations that every reader can be given, and that say which row each vector is.

A vector's first dimensions hold its context and its position in it, exact in float16; the others are
noise. So whatever a reader delivers can be checked against what was written, and its mixing counted
on the batches themselves.

Only numpy and the standard library are imported: peers' environments have no saestore.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


HOOK = "blocks.8.hook_resid_post"
"""What all stores call the vectors."""
CONTEXT = 1024
"""Rows of a context."""
_DIGIT = 1024
"""Base of the numbers in the first three dimensions; float16 holds integers up to 2048."""
_NOISE = 16
"""Contexts of noise, repeated: drawing all of it anew would take longer than measuring."""


@dataclass(frozen=True)
class Activations:
    """A data set.

    Attributes:
        contexts: Contexts of `CONTEXT` rows.
        width: Length of the vectors, 4 or more.
    """

    contexts: int
    width: int = 768

    @property
    def rows(self) -> int:
        """Rows of all contexts."""
        return self.contexts * CONTEXT

    @property
    def row_bytes(self) -> int:
        """Stored bytes of a row: float16."""
        return 2 * self.width

    def block(self, start: int, stop: int) -> np.ndarray:
        """Return contexts start to stop, [context, position, width], as float16."""
        numbers = np.arange(start, stop)
        values = _noise(self.width)[numbers % _NOISE]
        values[:, :, 0] = (numbers % _DIGIT)[:, None]
        values[:, :, 1] = (numbers // _DIGIT)[:, None]
        values[:, :, 2] = np.arange(CONTEXT)
        return values

    def blocks(self, contexts: int) -> Iterator[np.ndarray]:
        """Return the whole data set, some contexts at a time."""
        for start in range(0, self.contexts, contexts):
            yield self.block(start, min(start + contexts, self.contexts))

    def check(self, batch: np.ndarray) -> np.ndarray:
        """Return the row number of each vector of a batch.

        Raises:
            ValueError: A vector is not the one that was written there.
        """
        context = (batch[:, 0] + batch[:, 1].astype(np.float64) * _DIGIT).astype(np.int64)
        position = batch[:, 2].astype(np.int64)
        noise = _noise(self.width)[context % _NOISE, position, 3:]
        if (context >= self.contexts).any() or not np.array_equal(noise, batch[:, 3:]):
            msg = "the reader delivered other values than were written"
            raise ValueError(msg)
        return context * CONTEXT + position


def partners(rows: np.ndarray) -> float:
    """Return how many other rows of its context a row has in its batch, on average."""
    met = np.unique(rows // CONTEXT, return_counts=True)[1].astype(np.float64)
    return float((met**2).sum() / len(rows)) - 1


@lru_cache(maxsize=1)
def _noise(width: int) -> np.ndarray:
    draw = np.random.default_rng(0).standard_normal((_NOISE, CONTEXT, width), np.float32)
    return (draw * np.linspace(0.5, 3, width, dtype=np.float32)).astype(np.float16)
