"""How many rows of its own context a row is read together with: what a window has to spread.

In a store as it was generated a unit of reading holds a stretch of a context. In a scattered copy it
holds a random draw of its shard, so a row meets few of its context there; how few is plain counting.
"""

import numpy as np
from jaxtyping import Int64

from saestore.activations import shuffle
from saestore.activations.store import ActivationStore


def meetings(
    store: ActivationStore,
    contexts: Int64[np.ndarray, "context 2"],
    *,
    unit_rows: int,
    wanted: float = 1.0,
) -> tuple[float, float]:
    """Return how many other rows of its context a row has in its own unit, and at all, on average.

    Args:
        store: As generated, or a scattered copy.
        contexts: First row and length of the contexts that are read, as in the original.
        unit_rows: Rows that are read together.
        wanted: Share of their rows that is delivered.
    """
    found = shuffle.meetings(contexts, unit_rows=unit_rows, wanted=wanted)
    if not store.record.scattered:
        return found
    own = _scattered(contexts, store.n_rows, store.spec.shard_rows, unit_rows, wanted)
    return own, found[1]


def _scattered(
    contexts: Int64[np.ndarray, "context 2"], rows: int, shard_rows: int, unit: int, wanted: float
) -> float:
    """Return the expected number of other rows of its context in a row's unit of a scattered copy.

    Of the rows of its context in its shard, each is in its unit as often as any other of the shard.
    """
    start, end = contexts[:, 0], contexts.sum(axis=1)
    met = np.zeros(len(contexts))
    while (rest := end > start).any():  # one step for each shard that a context reaches into
        shard = start // shard_rows
        stop = np.minimum((shard + 1) * shard_rows, end)
        size = np.minimum(rows - shard * shard_rows, shard_rows)
        piece = np.where(rest, stop - start, 0).astype(np.float64)
        together = (np.minimum(unit, size) - 1) / np.maximum(size - 1, 1)
        met += piece * np.maximum(piece * wanted - 1, 0) * together
        start = np.where(rest, stop, start)
    return float(met.sum() / contexts[:, 1].sum())
