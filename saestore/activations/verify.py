"""What checksums cannot see: whether a store's parts belong together."""

from collections.abc import Iterator

import numpy as np

from saestore.activations import codecs
from saestore.activations.moments import Moments
from saestore.activations.store import ActivationStore
from saestore.errors import DamagedArtefactError
from saestore.lake import Lake


_TOLERANCE = 1e-9
"""Relative difference of moments computed anew: far above float64's rounding, far below a row."""


def damage(lake: Lake, name: str, *, quick: bool = False) -> list[str]:
    """Return one line per contradiction inside a store; none when all is well.

    The bytes of its files are `saestore.lake.manifest.damage`'s business.

    Args:
        lake: The lake.
        name: The store.
        quick: Check contexts, segments and shard indexes only; else also read every chunk, and
            compare the moments with those of the rows.

    Raises:
        ArtefactNotFoundError: There is no such store.
    """
    try:
        store = ActivationStore.open(lake, name)
        return list(dict.fromkeys(_contradictions(store, quick=quick)))
    except DamagedArtefactError as error:
        return list(error.damage)


def _contradictions(store: ActivationStore, *, quick: bool) -> Iterator[str]:
    yield from _contexts(store)
    yield from _segments(store)
    for path, array in store.spec.arrays().items():
        size = array.grid.shard_rows if quick else array.grid.chunk_rows
        for row in range(0, store.n_rows, size):
            try:
                store.read_chunk(path, row // array.grid.chunk_rows)
            except DamagedArtefactError as error:
                yield from error.damage
        if not quick and array.hookpoint is not None:
            yield from _moments(store, path, array.hookpoint)


def _moments(store: ActivationStore, path: str, hookpoint: str) -> Iterator[str]:
    """Compare each shard's moments with those of its rows."""
    grid = store.spec.arrays()[path].grid
    try:
        stated = store.shard_moments(hookpoint)
        shards = -(-store.n_rows // grid.shard_rows)
        if len(stated) != shards:
            yield f"moments of {hookpoint}: {len(stated)} shards, the store has {shards}"
            return
        for shard, moments in enumerate(stated):
            if not _agree(_measured(store, path, hookpoint, shard), moments):
                yield f"moments of {hookpoint}: shard {shard} has other rows than they say"
    except DamagedArtefactError as error:
        yield from error.damage


def _measured(store: ActivationStore, path: str, hookpoint: str, shard: int) -> Moments:
    grid = store.spec.arrays()[path].grid
    total = Moments.none(store.hookpoints[hookpoint].width)
    end = min((shard + 1) * grid.shard_rows, store.n_rows)
    for row in range(shard * grid.shard_rows, end, grid.chunk_rows):
        kept = store.flags(row, min(row + grid.chunk_rows, end)) == 0
        stored = store.read_chunk(path, row // grid.chunk_rows)[: len(kept)][kept]
        total = total.merge(Moments.of(codecs.decode(stored, store.spec.dtype)))
    return total


def _agree(found: Moments, stated: Moments) -> bool:
    if found.count != stated.count:
        return False
    scale = np.sqrt(max(found.norm_sq_sum, np.finfo(np.float64).tiny))
    return bool(
        np.allclose(found.mean, stated.mean, rtol=_TOLERANCE, atol=_TOLERANCE * scale)
        and np.allclose(found.m2, stated.m2, rtol=_TOLERANCE, atol=_TOLERANCE * scale**2)
        and np.isclose(found.norm_sum, stated.norm_sum, rtol=_TOLERANCE)
        and np.isclose(found.norm_sq_sum, stated.norm_sq_sum, rtol=_TOLERANCE)
        and np.array_equal(found.min, stated.min)
        and np.array_equal(found.max, stated.max)
    )


def _contexts(store: ActivationStore) -> Iterator[str]:
    contexts = store.contexts()
    if len(contexts) != store.n_contexts:
        yield f"contexts: {len(contexts)}, the manifest says {store.n_contexts}"
        return
    ends = contexts.sum(axis=1)
    if contexts[0, 0] != 0 or ends[-1] != store.n_rows or (contexts[1:, 0] != ends[:-1]).any():
        yield f"contexts: they do not cover rows 0 to {store.n_rows} one after the other"


def _segments(store: ActivationStore) -> Iterator[str]:
    segments, contexts = store.segments(), store.contexts()
    owners = segments[:, 0]
    if (np.diff(owners) < 0).any() or not np.array_equal(np.unique(owners), range(len(contexts))):
        yield "segments: they are not those of every context, in order"
        return
    if (segments[:, 1:3] < 0).any() or (
        segments[:, 1] + segments[:, 2] > contexts[owners, 1]
    ).any():
        yield "segments: one begins before or ends after its context"
    documents = store.documents().num_rows
    if segments[:, 3].max() >= documents or segments[:, 3].min() < 0:
        yield f"segments: one names a document that is not among the {documents} recorded"
