"""The order in which an epoch delivers the rows of a store.

Chunks are permuted; every `width` consecutive chunks of that order form a window; the wanted rows of
a window are permuted. Only one window is in memory, each chunk is fetched once an epoch, and no
index of all rows is ever made. The price is mixing: a row meets only the rows of its window, and the
rows of a chunk, which are neighbours in their document, always meet. `partners` says how much that
is. A window of one chunk serves verification; do not train on it.

Source: Xu et al. 2022 (arXiv:2206.05830), the two-level shuffle. Here each window's draw is keyed by
(seed, epoch, window), so any window can be computed without the ones before it.
"""

import numpy as np
from jaxtyping import Bool, Int64


def chunk_order(chunks: int, *, seed: int, epoch: int) -> Int64[np.ndarray, " chunk"]:
    """Return the chunks in the order of an epoch."""
    # numpy pads keys with zeros: (seed, epoch) and (seed, epoch, 0) would be one stream.
    return np.random.default_rng((seed, epoch, 0)).permutation(chunks)


def window_chunks(
    order: Int64[np.ndarray, " chunk"], window: int, *, width: int
) -> Int64[np.ndarray, " _"]:
    """Return the chunks of one window, ascending, as they lie in memory."""
    return np.sort(order[window * width : (window + 1) * width])


def window_rows(
    wanted: Bool[np.ndarray, " _"], window: int, *, seed: int, epoch: int
) -> Int64[np.ndarray, " row"]:
    """Return the places of a window's wanted rows in the order they are delivered.

    Args:
        wanted: Which places of the window, chunk after chunk, hold rows to deliver.
        window: Which window of the epoch, from 0.
        seed: One for the whole run.
        epoch: From 0; every epoch has an order of its own.
    """
    return np.random.default_rng((seed, epoch, window + 1)).permutation(np.flatnonzero(wanted))


def meetings(contexts: Int64[np.ndarray, "context 2"], *, chunk_rows: int) -> tuple[float, float]:
    """Return how many other rows of its context a row has in its own chunk, and at all, on average.

    Args:
        contexts: First row and length of each context, one after the other.
        chunk_rows: Neighbouring rows fetched together.
    """
    rows = int(contexts[:, 1].sum())
    starts = np.union1d(contexts[:, 0], np.arange(0, rows, chunk_rows))
    pieces = np.diff(np.append(starts, rows)).astype(np.float64)
    lengths = contexts[:, 1].astype(np.float64)
    return float((pieces**2).sum() / rows) - 1, float((lengths**2).sum() / rows) - 1


def partners(
    met: tuple[float, float], *, batch_rows: int, window_rows: int, chunk_rows: int, store_rows: int
) -> float:
    """Return the expected number of same-context partners of a row in its batch; 0 is perfect.

    A row shares its window for certain with the rows of its context in its own chunk, and with the
    rest of its context as often as another chunk falls into the same window. A batch draws its
    partners from the window without preference.

    Args:
        met: What `meetings` returned.
        batch_rows: Rows of a batch.
        window_rows: Rows mixed at once.
        chunk_rows: Neighbouring rows fetched together.
        store_rows: Rows of the store.
    """
    window = min(window_rows, store_rows)
    if window <= 1:
        return 0.0
    own, total = met
    elsewhere = (window - chunk_rows) / max(store_rows - chunk_rows, 1)
    in_window = own + (total - own) * min(max(elsewhere, 0.0), 1.0)
    return (min(batch_rows, window) - 1) * in_window / (window - 1)
