"""What checksums cannot see: whether a store's parts belong together."""

from collections.abc import Iterator

import numpy as np

from saestore.activations.store import ActivationStore
from saestore.errors import DamagedArtefactError
from saestore.lake import Lake


def damage(lake: Lake, name: str, *, quick: bool = False) -> list[str]:
    """Return one line per contradiction inside a store; none when all is well.

    Args:
        lake: The lake.
        name: The store.
        quick: Check contexts and shard indexes only; else also read every chunk.

    Raises:
        ArtefactNotFoundError: There is no such store.
    """
    try:
        store = ActivationStore.open(lake, name)
        return list(_contradictions(store, quick=quick))
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


def _contexts(store: ActivationStore) -> Iterator[str]:
    contexts = store.contexts()
    if len(contexts) != store.n_contexts:
        yield f"contexts: {len(contexts)}, the manifest says {store.n_contexts}"
        return
    ends = contexts.sum(axis=1)
    if contexts[0, 0] != 0 or ends[-1] != store.n_rows or (contexts[1:, 0] != ends[:-1]).any():
        yield f"contexts: they do not cover rows 0 to {store.n_rows} one after the other"


def _segments(store: ActivationStore) -> Iterator[str]:
    segments = store.segments()
    if not len(segments):
        return
    owners = segments[:, 0]
    if owners.min() < 0 or owners.max() >= store.n_contexts or (np.diff(owners) < 0).any():
        yield "segments: they name contexts that do not exist, or out of order"
    elif (segments[:, 1] + segments[:, 2] > store.contexts()[owners, 1]).any():
        yield "segments: one ends after its context"
    documents = store.documents().num_rows
    if segments[:, 3].max() >= documents:
        yield f"segments: one names a document beyond the {documents} recorded"
