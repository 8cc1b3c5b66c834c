"""What of a store is analysed: its first contexts, read once into mapped files."""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64

from saestore.activations import ActivationStore
from saestore.analyze import segments
from saestore.analyze.scope import Scope
from saestore.errors import ConfigError, DamagedArtefactError
from saestore.lake import layout
from saestore_schemas.analyze import AnalyzeSettings


_CONTEXTS = 4096
"""Contexts read at a time."""


def contexts_of(store: ActivationStore, settings: AnalyzeSettings) -> int:
    """Return how many contexts from the start of the store are analysed.

    Raises:
        ConfigError: The store holds none, or fewer rows than asked for.
    """
    lengths = store.contexts()[:, 1]
    if not len(lengths):
        raise ConfigError(
            field="activations",
            found=f"{store.ref.name}, which holds no context",
            expected="a store with rows",
            hint="generate activations from a corpus that has text",
        )
    if settings.rows is None:
        return len(lengths)
    ends = np.cumsum(lengths)
    if settings.rows > ends[-1]:
        raise ConfigError(
            field="rows",
            found=settings.rows,
            expected=f"at most {ends[-1]}, the rows of {store.ref.name}",
            hint="leave `rows` out to analyse all of them",
        )
    return int(np.searchsorted(ends, settings.rows)) + 1


def survey(store: ActivationStore, settings: AnalyzeSettings, folder: Path) -> Scope:
    """Read tokens, flags and what was captured of the contexts analysed, into files that are mapped.

    Args:
        store: The activation store.
        settings: Which contexts, which tokens are left out, and the seed.
        folder: Where the mapped files are put; the caller removes them.

    Raises:
        ConfigError: Nothing to analyse.
        DamagedArtefactError: The store's bytes are not what they should be.
    """
    table = store.contexts()[: contexts_of(store, settings)]
    first, length = table[:, 0], table[:, 1]
    rows = int(length.sum())
    if not np.array_equal(first, np.cumsum(length) - length):
        raise DamagedArtefactError(
            name=store.ref.name, damage=("contexts: they do not follow one another from row 0",)
        )
    folder.mkdir(parents=True, exist_ok=True)
    tokens = np.memmap(folder / "tokens", dtype=np.int32, mode="w+", shape=(rows,))
    kept = np.memmap(folder / "kept", dtype=np.bool_, mode="w+", shape=(rows,))
    joined = np.memmap(folder / "joined", dtype=np.bool_, mode="w+", shape=(rows,))
    scale = None
    if layout.FINAL_NORM_SCALE in store.captures:
        scale = np.memmap(folder / "norm_scale", dtype=np.float32, mode="w+", shape=(rows,))
    parts = store.segments()
    ignored = np.array(settings.ignore_tokens, dtype=np.int64)
    ends = np.concatenate([[0], np.cumsum(length)])
    for low in range(0, len(first), _CONTEXTS):
        high = min(low + _CONTEXTS, len(first))
        here = slice(ends[low], ends[high])
        start, stop = int(ends[low]), int(ends[high])
        tokens[here] = store.tokens(start, stop)
        bounds = np.searchsorted(parts[:, 0], (low, high))
        joined[here] = _joined(parts[bounds[0] : bounds[1]], first, (start, stop))
        if scale is not None:
            scale[here] = store.captured("final_norm_scale", start, stop)
        kept[here] = (store.flags(start, stop) == 0) & ~np.isin(tokens[here], ignored)
    return Scope.of(
        length,
        tokens,
        kept,
        joined,
        context_size=store.record.context_size,
        seed=settings.seed,
        norm_scale=scale,
    )


def _joined(
    parts: Int64[np.ndarray, "segment 6"],
    first: Int64[np.ndarray, " context"],
    rows: tuple[int, int],
) -> Bool[np.ndarray, " row"]:
    """Return whether the row before each is of the same stretch of a document.

    Rows of no document (BOS, separators) are joined to none.

    Args:
        parts: The stretches in these rows.
        first: First row of each context.
        rows: First row, and the one after the last.
    """
    low, high = rows
    owner = np.full(high - low + 1, -1, np.int64)  # one more for the row before all
    start = first[parts[:, 0]] + parts[:, 1] - low + 1
    at, offsets = segments.ragged(start, start + parts[:, 2])
    owner[at] = segments.run_of(offsets)
    found: np.ndarray = (owner[1:] == owner[:-1]) & (owner[1:] >= 0)
    return found
