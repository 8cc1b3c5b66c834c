"""`saestore shuffle`: a copy of a store whose rows are permuted within each shard.

Neighbours in a document are far apart in the copy, so a small window mixes it as well as a large one
mixes the original: a stream of 256-row chunks needs 1 Mi rows in memory for about one same-context
partner per row, of a copy 64 Ki suffice. The price is a second store, and contexts: the copy has rows
for training and no whole contexts. `order` says which row of the original each row is.

Rows are copied as they are stored, shard by shard; in memory is one shard of one hookpoint. A run that
was killed continues at the first shard without a commit.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int64, Shaped
from pydantic import JsonValue

from saestore.activations import commits, layout as stores, parts
from saestore.activations.layout import Spec
from saestore.activations.store import ActivationStore
from saestore.activations.writer import StoreWriter
from saestore.errors import ConfigError, UnsupportedError
from saestore.lake import Lake, Ref, layout, manifest as manifests
from saestore.lake.lock import writing
from saestore.progress import Progress, Silent, Task
from saestore_schemas import tables
from saestore_schemas.scatter import ScatterSettings


_AT_ONCE = 4 << 20
"""Bytes gathered at once: they stay in cache until they are written."""


def scatter(
    settings: ScatterSettings, lake: Lake, *, progress: Progress | None = None
) -> ActivationStore:
    """Make a scattered copy, or continue one, or find it made.

    Args:
        settings: Of which store, under which name.
        lake: The lake.
        progress: Where to report.

    Raises:
        ArtefactNotFoundError: There is no such store.
        ArtefactExistsError: The name is taken by something else.
        ArtefactBusyError: Another process is making it.
        ConfigError: The copy would bear the store's own name.
        DamagedArtefactError: The store's bytes are not what was written; nothing of it is copied.
        UnsupportedError: The store is a scattered copy itself.
        StorageError: The disk is full or read-only; finished shards stay.
    """
    reporter = progress or Silent()
    if settings.name == settings.store:
        raise ConfigError(
            field="name",
            found=settings.name,
            expected="another name than that of the store it copies",
            hint=f"for example {settings.store}-scattered",
        )
    original = ActivationStore.open(lake, settings.store)
    if original.record.scattered:
        raise UnsupportedError(
            f"{settings.store!r} is a scattered copy itself",
            found="a scattered copy",
            expected="a store with contexts",
            hint=f"shuffle what it was made from: {original.manifest.parents[0].name}",
        )
    ref = Ref("activations", settings.name)
    artefact = lake.artefact(ref)
    run = manifests.Run.of(ref, settings, [manifests.parent_of(original.manifest)])
    if artefact.exists(layout.MANIFEST):
        manifests.begin(artefact, run)
        reporter.note(f"activations {ref.name}: finished already")
        return ActivationStore.open(lake, ref.name)
    with writing(artefact, name=ref.name):
        parts.refuse(artefact, ref)
        commits.clear(artefact)
        if manifests.begin(artefact, run) is None:
            record = original.record.model_copy(update={"scattered": True})
            divided = None
            if record.dtype == "int8":
                divided = {name: original.deviations(name) for name in original.hookpoints}
            spec = Spec(original.spec.hookpoints, record)
            columns = _metadata(original)
            with StoreWriter(artefact, spec, metadata=columns, deviations=divided) as writer:
                _write(original, settings.seed, run, writer, reporter)
    return ActivationStore.open(lake, ref.name)


def permutation(rows: int, shard: int, *, seed: int) -> Int64[np.ndarray, " row"]:
    """Return which row of a shard stands at each place of the copy's."""
    return np.random.default_rng((seed, shard)).permutation(rows)


def _write(
    original: ActivationStore,
    seed: int,
    run: manifests.Run,
    writer: StoreWriter,
    progress: Progress,
) -> None:
    size = original.spec.shard_rows
    label = f"shuffle {run.ref.name}"
    row_bytes = sum(array.grid.row_bytes for array in original.spec.arrays().values())
    if writer.rows:
        progress.note(f"{label}: resuming after {writer.rows:,} rows")
    contexts, segments = original.contexts(), original.segments()
    total, done = original.n_rows * row_bytes, writer.rows * row_bytes
    with progress.task(label, total=total, unit="B", done=done) as shown:
        for first in range(writer.rows, original.n_rows, size):
            rows = min(size, original.n_rows - first)
            shard = first // size
            begun = np.searchsorted(contexts[:, 0], [first, first + rows])
            owned = np.searchsorted(segments[:, 0], begun)
            order = permutation(rows, shard, seed=seed)
            writer.append_shard(
                _columns(original, first, order, shown),
                rows=rows,
                contexts=contexts[begun[0] : begun[1]],
                segments=segments[owned[0] : owned[1]],
                documents=_documents(original, shard),
            )
    facts: dict[str, JsonValue] = {
        name: value for name, value in original.manifest.facts.items() if name != stores.RECORD
    }
    known = ("lost_tokens", "clipped")
    counts = {name: n for name, n in original.manifest.counts.items() if name in known}
    writer.finish(
        run,
        vocabulary=original.vocabulary(),
        facts=facts,
        counts=counts,
        documents=_documents(original, -(-original.n_rows // size)),
    )
    progress.note(f"activations {run.ref.name}: {original.n_rows:,} rows, scattered in each shard")


def _columns(
    original: ActivationStore, first: int, order: Int64[np.ndarray, " row"], shown: Task
) -> Iterator[tuple[str, Shaped[np.ndarray, "row ..."]]]:
    """Yield, of each array, path and the rows of a shard in their new order, piece by piece.

    What the writer needs to measure a hookpoint's rows comes before them.
    """
    arrays = original.spec.arrays()
    narrow = [path for path, array in arrays.items() if array.hookpoint is None]
    yield layout.ORDER, first + order
    for path in (*narrow, *(path for path in arrays if path not in narrow)):
        array = arrays[path]
        rows = np.empty((len(order), *array.tail), array.stored)
        original.read_stored(path, first, first + len(order), rows)
        at_once = max(_AT_ONCE // array.grid.row_bytes, 1)
        kept = np.empty((min(at_once, len(order)), *array.tail), array.stored)
        for start in range(0, len(order), at_once):
            wanted = order[start : start + at_once]
            piece = kept[: len(wanted)]
            np.take(rows, wanted, axis=0, out=piece, mode="clip")
            yield path, piece
            shown.advance(piece.nbytes)


def _documents(original: ActivationStore, shard: int) -> list[dict[str, Any]]:
    """Return the documents that were recorded with a shard, or after the last one."""
    table = original.document_part(shard)
    return [] if table is None else list(table.to_pylist())


def _metadata(original: ActivationStore) -> pa.Schema:
    known = tables.DOCUMENTS.schema().names
    fields = original.documents_schema()
    return pa.schema([pa.field(f.name, f.type) for f in fields if f.name not in known])
