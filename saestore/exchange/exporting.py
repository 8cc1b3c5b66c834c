"""`saestore export activations`: a store's rows as files that other tools read.

Files hold whole contexts and are bounded in size; each appears whole under its name, and the index
last. Beside them stand the documents and the vocabulary, so that ids and document numbers mean
something without the lake.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from saestore.activations import ActivationStore, Split
from saestore.errors import ConfigError
from saestore.exchange import place
from saestore.exchange.formats import TARGETS
from saestore.exchange.selection import Range, groups, select
from saestore.exchange.target import Format, Job
from saestore.exchange.tensor_files import INDEX
from saestore.lake import table_file
from saestore.lake.manifest import library_versions
from saestore.progress import Progress, Silent
from saestore_schemas.activations import StoreDtype
from saestore_schemas.exchange import ExportedFile, ExportIndex, FilesAre


DOCUMENTS = "documents.parquet"
VOCABULARY = "vocabulary.parquet"
FILE_MIB = 512.0
"""Size of a file, unless it is said."""


@dataclass(frozen=True)
class ActivationsExport:
    """A store written for other tools.

    Attributes:
        format: Which format.
        store: The store.
        folder: Where.
        files: Files of activations.
        bytes: Their size.
        rows: Rows.
        contexts: Contexts.
        hookpoints: Hookpoints.
        dtype: Type of the activations.
    """

    format: str
    store: str
    folder: Path
    files: int
    bytes: int
    rows: int
    contexts: int
    hookpoints: tuple[str, ...]
    dtype: str


@dataclass(frozen=True)
class Wanted:
    """What of a store is exported, and how.

    Attributes:
        files_are: Which format.
        hookpoints: Which hookpoints; none means all.
        contexts: Range of contexts.
        rows: Range of rows in which contexts begin.
        split: All contexts, those that training sees, or those held out.
        held_out: Share of contexts held out.
        dtype: Type of the activations; None keeps the store's where the format has it.
        file_mib: Upper bound of a file in MiB.
    """

    files_are: FilesAre = "safetensors"
    hookpoints: Sequence[str] = ()
    contexts: Range | None = None
    rows: Range | None = None
    split: Split = "all"
    held_out: float = 0.0
    dtype: StoreDtype | None = None
    file_mib: float = FILE_MIB


def export_activations(
    store: ActivationStore,
    folder: str | os.PathLike[str],
    wanted: Wanted,
    *,
    progress: Progress | None = None,
) -> ActivationsExport:
    """Write a store's rows for other tools.

    Args:
        store: The store.
        folder: Where; made if it is not there. An earlier export in it is replaced.
        wanted: What of it, and how.
        progress: Where to report.

    Raises:
        ConfigError: Nothing is chosen, the folder holds other things, or the format has no such
            type.
        HookpointNotFoundError: The store has no such hookpoint.
        OverflowRowError: A value does not fit `dtype`.
        DamagedArtefactError: A chunk of the store does not match its checksum.
        StorageError: The disk is full or read-only.
    """
    form = TARGETS[wanted.files_are]
    for name in wanted.hookpoints:
        store.array_of(name)
    hookpoints = {
        name: info.width
        for name, info in store.hookpoints.items()
        if name in wanted.hookpoints or not wanted.hookpoints
    }
    dtype = _dtype(form, store, wanted)
    selection = select(
        store,
        contexts=wanted.contexts,
        rows=wanted.rows,
        split=wanted.split,
        held_out=wanted.held_out,
    )
    at_once = max(int(wanted.file_mib * 2**20) // form.row_bytes(hookpoints, dtype), 1)
    target = place.cleared(Path(folder))
    label = f"export {store.ref.name}"
    with (progress or Silent()).task(label, total=selection.rows, unit="rows") as task:
        job = Job(store, selection, hookpoints, dtype, target, task)
        files: list[ExportedFile] = []
        for number, group in enumerate(groups(selection, rows=at_once)):
            files += form.write(job, number, group)
    for name, table in ((DOCUMENTS, selection.documents), (VOCABULARY, store.vocabulary())):
        target.write(name, table_file.to_bytes(table))
    index = ExportIndex(
        files_are=wanted.files_are,
        saestore=library_versions().get("saestore", "unknown"),
        store=store.ref.name,
        fingerprint=store.manifest.fingerprint,
        record=store.record.model_copy(update={"dtype": dtype}),
        hookpoints=hookpoints,
        first_context=int(selection.contexts[0]),
        rows=selection.rows,
        contexts=len(selection.contexts),
        files=tuple(files),
        documents=DOCUMENTS,
        vocabulary=VOCABULARY,
    )
    target.write(INDEX, (index.model_dump_json(indent=1) + "\n").encode())
    target.remove(place.UNFINISHED)
    return ActivationsExport(
        format=wanted.files_are,
        store=store.ref.name,
        folder=Path(folder),
        files=len(files),
        bytes=sum(each.bytes for each in files),
        rows=selection.rows,
        contexts=len(selection.contexts),
        hookpoints=tuple(hookpoints),
        dtype=dtype,
    )


def _dtype(form: Format, store: ActivationStore, wanted: Wanted) -> StoreDtype:
    """Return the type that is written.

    Raises:
        ConfigError: The format has none such.
    """
    if wanted.dtype is None:
        own = store.record.dtype
        return own if own in form.dtypes else form.dtypes[0]
    if wanted.dtype not in form.dtypes:
        raise ConfigError(
            field="dtype",
            found=wanted.dtype,
            expected=f"one of {', '.join(form.dtypes)}, which {wanted.files_are} files can hold",
            hint="leave --dtype out",
        )
    return wanted.dtype
