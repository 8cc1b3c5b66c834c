"""`saestore merge`: the parts of several processes become one store.

Block `b` of the corpus is in part `b % count`, so the rows of all parts are taken block after block,
as they lie on disk: nothing is decoded, every chunk is compared with its crc32c, and the shards,
moments and tables are those that one process would have written, byte for byte. In memory are a few
contexts' rows, and one chunk of each array of each part. A merge that was killed continues at the
first shard without a commit.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int64, Shaped
from pydantic import JsonValue

from saestore.activations import parts
from saestore.activations.commits import Cursor
from saestore.activations.deviations import Deviations
from saestore.activations.layout import Spec
from saestore.activations.store import ActivationStore
from saestore.activations.writer import StoredBatch, StoreWriter
from saestore.errors import (
    ConfigError,
    DamagedArtefactError,
    IncompleteArtefactError,
    UnsupportedError,
)
from saestore.lake import (
    Lake,
    Ref,
    Storage,
    layout,
    manifest as manifests,
    parts as states,
    table_file,
)
from saestore.lake.lock import writing
from saestore.progress import Progress, Silent, Task
from saestore_schemas import tables


_AT_ONCE = 16 << 20
"""Bytes of rows read before they are written, if a single context has not more."""


def merge(lake: Lake, name: str, *, progress: Progress | None = None) -> ActivationStore:
    """Make the store of all its parts, or continue, or find it made; then the parts are gone.

    Args:
        lake: The lake.
        name: The store.
        progress: Where to report.

    Raises:
        ArtefactNotFoundError: There is no such store.
        ArtefactBusyError: Another process is merging it.
        IncompleteArtefactError: Parts are missing or not finished; they are named. Or there are
            none, because one process makes all of it.
        ConfigError: The parts do not belong together.
        DamagedArtefactError: A part's bytes are not what was written; nothing of it is copied.
        StorageError: The disk is full or read-only; finished shards stay.
    """
    reporter = progress or Silent()
    ref = Ref("activations", name)
    artefact = lake.artefact(ref)
    if not artefact.exists(layout.MANIFEST):
        if not artefact.exists(layout.PROGRESS):
            lake.manifest(ref)  # raises with the nearest names
        _refuse_unfinished(artefact, ref)
        with writing(artefact, name=name):
            run = manifests.started(artefact, ref)
            if manifests.begin(artefact, run) is None:
                _merge(artefact, run, reporter)
    else:
        parts.sweep(artefact, name)
        reporter.note(f"activations {name}: finished already")
    return ActivationStore.open(lake, name)


def _refuse_unfinished(artefact: Storage, ref: Ref) -> None:
    found = states.states(artefact)
    if not found:
        raise IncompleteArtefactError(
            kind=ref.kind,
            name=ref.name,
            missing="one process makes all of it, there are no parts to merge",
            command="the command that started it",
        )
    if not all(state.finished for state in found):
        raise IncompleteArtefactError(
            kind=ref.kind,
            name=ref.name,
            missing=states.described(found),
            command=states.continuation(found, ref),
        )


def _merge(artefact: Storage, run: manifests.Run, progress: Progress) -> None:
    found = [_Part(artefact, part, run) for part in states.begun(artefact)]
    blocks = _agreed(found)
    holding = next((part for part in found if part.store is not None), None)
    if holding is None or holding.store is None:
        raise UnsupportedError(
            "the corpus gave no rows",
            found="parts without a row",
            expected="at least one token",
            hint="check corpus.sources: the path, and the field that holds the text",
        )
    store = holding.store
    columns, divided = holding.metadata_columns(), _deviations(found)
    with StoreWriter(artefact, store.spec, metadata=columns, deviations=divided) as writer:
        label = f"merge {run.ref.name}"
        row_bytes = sum(array.grid.row_bytes for array in store.spec.arrays().values())
        total = sum(part.rows for part in found) * row_bytes
        if writer.rows:
            progress.note(f"{label}: resuming after {writer.rows:,} rows")
        with progress.task(label, total=total, unit="B", done=writer.rows * row_bytes) as shown:
            waiting = _copy(found, blocks, store.spec, writer, shown)
        manifest = writer.finish(
            run,
            vocabulary=holding.vocabulary(),
            facts=_facts(found),
            counts=_counts(found),
            documents=waiting,
        )
    rows, contexts = manifest.counts["rows"], manifest.counts["contexts"]
    progress.note(f"activations {run.ref.name}: {rows:,} rows in {contexts:,} contexts")


def _copy(
    found: "Sequence[_Part]", blocks: int, spec: Spec, writer: StoreWriter, shown: Task
) -> list[dict[str, Any]]:
    """Append what the writer lacks, in block order; return documents that follow the last row."""
    rows = np.sum([part.rows_per_block(blocks) for part in found], axis=0)
    ends = np.cumsum(rows)
    begin = int(np.searchsorted(ends, writer.rows, side="right"))  # the block of the next row
    recorded = writer.documents
    buffers = _Buffers(spec)
    waiting: list[dict[str, Any]] = []
    for block in range(min(begin, recorded // found[0].block_documents), blocks):
        part = found[block % len(found)]
        waiting += part.documents(block, recorded)
        if block < begin:  # recorded or without rows
            continue
        done = writer.rows - int(ends[block] - rows[block])
        begun, _ = part.contexts_of(block)
        for first, stop in part.pieces(block, done, writer.resume, buffers.rows):
            before = writer.rows
            batch = part.batch(first, stop, buffers, waiting)
            waiting = []
            writer.append_stored(batch, Cursor(block, first - begun), tally={})
            shown.advance((writer.rows - before) * buffers.row_bytes)
    return waiting


class _Buffers:
    """One kept buffer for each array: fresh memory costs several times the copy into it."""

    def __init__(self, spec: Spec) -> None:
        self._arrays = spec.arrays()
        self.row_bytes = sum(array.grid.row_bytes for array in self._arrays.values())
        self.rows = max(_AT_ONCE // self.row_bytes, 1)
        self._kept: dict[str, Shaped[np.ndarray, "row ..."]] = {}

    def take(self, rows: int) -> dict[str, Shaped[np.ndarray, "row ..."]]:
        """Return room for some rows of every array, by path; the last such room is taken back."""
        if not self._kept or rows > len(next(iter(self._kept.values()))):
            self._kept = {
                path: np.empty((max(rows, self.rows), *array.tail), array.stored)
                for path, array in self._arrays.items()
            }
        return {path: kept[:rows] for path, kept in self._kept.items()}


class _Part:
    """One finished part, read from its beginning to its end.

    Attributes:
        part: Which.
        manifest: Its manifest.
        store: Its rows; None if it has none.
        rows: How many.
        blocks: Blocks of the corpus it saw, its own and the others'.
        block_documents: Documents of a block.
    """

    def __init__(self, artefact: Storage, part: states.Part, run: manifests.Run) -> None:
        self.part = part
        self._folder = artefact.child(part.folder)
        self.manifest = manifests.load(self._folder, run.ref)
        if self.manifest.fingerprint != run.fingerprint:
            raise ConfigError(
                field="--shard",
                problem=f"part {part} of {run.ref.name!r} was made with other settings",
                expected="the settings of the other parts",
                hint=self._remedy(),
            )
        facts: Any = self.manifest.facts["part"]
        self.blocks: int = facts["blocks"]
        self.block_documents: int = facts["block_documents"]
        self.rows = self.manifest.counts["rows"]
        self._payload = manifests.payload(self._folder, self.manifest)
        self.store: ActivationStore | None = None
        self._contexts = np.empty((0, 2), np.int64)
        self._segments = np.empty((0, 6), np.int64)
        if self.rows:
            label = Ref("activations", f"{run.ref.name}, part {part}")
            self.store = ActivationStore(self._folder, label, self.manifest)
            with self.blamed():
                self._contexts, self._segments = self.store.contexts(), self.store.segments()
        owners = np.searchsorted(self._segments[:, 0], np.arange(len(self._contexts)))
        self._block_of = self._segments[owners, 3] // self.block_documents
        paths = self.store.spec.arrays() if self.store else {}
        self._columns = {path: _Column(self.store, path) for path in paths if self.store}
        self._documents = self._read_documents()
        self._next: dict[str, Any] | None = next(self._documents, None)

    def rows_per_block(self, blocks: int) -> Int64[np.ndarray, " block"]:
        """Return how many rows each block of the corpus has here."""
        counted = np.bincount(self._block_of, weights=self._contexts[:, 1], minlength=blocks)
        return counted.astype(np.int64)

    def contexts_of(self, block: int) -> tuple[int, int]:
        """Return the first context of a block, and the one after its last."""
        first, stop = np.searchsorted(self._block_of, [block, block + 1])
        return int(first), int(stop)

    def pieces(
        self, block: int, done: int, resume: Cursor | None, rows: int
    ) -> Iterator[tuple[int, int]]:
        """Yield first context, and the one after the last, of each piece that is to be written.

        Args:
            block: Whose contexts.
            done: Rows of the block that are written.
            resume: Where the writer continues: in a batch that began with that context.
            rows: Rows of a piece, if one context has not more.
        """
        begin, stop = self.contexts_of(block)
        ends = self._contexts[begin:stop].sum(axis=1)
        at = begin
        if done and resume is not None and resume.block == block and resume.skip:
            at += resume.batch
        elif done:
            at += int(np.searchsorted(ends, self._contexts[begin, 0] + done, side="right"))
        while at < stop:
            fit = begin + int(np.searchsorted(ends, self._contexts[at, 0] + rows, side="right"))
            end = max(fit, at + 1)
            yield at, end
            at = end

    def batch(
        self, first: int, stop: int, buffers: _Buffers, documents: Sequence[Mapping[str, Any]]
    ) -> StoredBatch:
        """Return the rows of some contexts as they are stored, checked."""
        begin, end = int(self._contexts[first, 0]), int(self._contexts[stop - 1].sum())
        arrays = buffers.take(end - begin)
        with self.blamed():
            for path, out in arrays.items():
                self._columns[path].read(begin, end, out)
        owners = np.searchsorted(self._segments[:, 0], [first, stop])
        segments = self._segments[owners[0] : owners[1]].copy()
        segments[:, 0] -= first
        return StoredBatch(arrays, self._contexts[first:stop, 1], segments, documents)

    def documents(self, block: int, recorded: int) -> list[dict[str, Any]]:
        """Return a block's documents from number `recorded` on; call it for ascending blocks."""
        found = []
        while self._next is not None and self._next["document"] // self.block_documents <= block:
            if self._next["document"] >= recorded:
                found.append(self._next)
            self._next = next(self._documents, None)
        return found

    def vocabulary(self) -> pa.Table:
        """Return the tokenizer's vocabulary; call it for a part with rows."""
        return table_file.from_bytes(self._read(layout.VOCABULARY))

    def metadata_columns(self) -> pa.Schema:
        """Return the columns that the corpus added to the documents table."""
        path = next(iter(self._document_files()))
        known = tables.DOCUMENTS.schema().names
        fields = table_file.from_bytes(self._read(path)).schema
        return pa.schema([pa.field(f.name, f.type) for f in fields if f.name not in known])

    def _document_files(self) -> list[str]:
        return sorted(self._payload.below(layout.DOCUMENTS), key=layout.part_number)

    def _read_documents(self) -> Iterator[dict[str, Any]]:
        for path in self._document_files():
            yield from table_file.from_bytes(self._read(path)).to_pylist()

    def _read(self, path: str) -> bytes:
        with self.blamed():
            try:
                data = self._folder.read(path)
            except FileNotFoundError as error:
                raise self._damaged(f"{path}: missing") from error
            if not manifests.matches(data, self._payload[path][1]):
                raise self._damaged(f"{path}: does not match its checksum")
            return data

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Say of damage in which part it is, and what to do.

        Raises:
            DamagedArtefactError: The block raised one.
        """
        try:
            yield
        except DamagedArtefactError as error:
            raise DamagedArtefactError(
                name=error.name, damage=error.damage, hint=self._remedy()
            ) from error

    def _damaged(self, damage: str) -> DamagedArtefactError:
        return DamagedArtefactError(name=str(self._folder.url), damage=(damage,))

    def _remedy(self) -> str:
        return (
            f"remove the folder {self._folder.url} and make this part again: "
            f"saestore generate CONFIG.toml --shard {self.part}"
        )


class _Column:
    """One array of a part, read in ascending order; a chunk used in two steps is read once."""

    def __init__(self, store: ActivationStore, path: str) -> None:
        array = store.spec.arrays()[path]
        self._store, self._path = store, path
        self._size = array.grid.chunk_rows
        self._kept = np.empty((self._size, *array.tail), array.stored)
        self._number = -1

    def read(self, start: int, stop: int, out: Shaped[np.ndarray, "row ..."]) -> None:
        """Read rows start to stop, as stored."""
        row = start
        while row < stop:
            number, within = divmod(row, self._size)
            if within or stop - row < self._size:
                end = min(stop, (number + 1) * self._size)
                self._keep(number)
                out[row - start : end - start] = self._kept[within : within + end - row]
            else:
                end = row + (stop - row) // self._size * self._size
                self._store.read_stored(self._path, row, end, out[row - start : end - start])
            row = end

    def _keep(self, number: int) -> None:
        if number == self._number:
            return
        start = number * self._size
        stop = min(start + self._size, self._store.n_rows)
        self._number = -1
        self._store.read_stored(self._path, start, stop, self._kept[: stop - start])
        self._number = number


def _agreed(found: Sequence[_Part]) -> int:
    """Return how many blocks the corpus has, after comparing what the parts were made from.

    Raises:
        ConfigError: They were not made from the same.
    """
    facts = [
        {
            "blocks of the corpus": part.blocks,
            "corpus": part.manifest.facts["corpus"],
            "language model": part.manifest.facts["lm"],
            "hookpoints": part.manifest.facts["hookpoints"],
        }
        for part in found
    ]
    for part, each in zip(found, facts, strict=True):
        other = [name for name, value in each.items() if value != facts[0][name]]
        if other:
            raise ConfigError(
                field="merge",
                problem=f"parts {found[0].part} and {part.part} differ in {', '.join(other)}",
                found=each[other[0]],
                expected=str(facts[0][other[0]]),
                hint="one of them read another corpus or model; remove its folder below "
                f"{layout.PARTS} and make it again",
            )
    return found[0].blocks


def _deviations(found: "Sequence[_Part]") -> Deviations | None:
    """Return by what the dimensions of int8 parts are divided; None for another type.

    Raises:
        ConfigError: They are divided by different numbers.
    """
    first: Deviations | None = None
    for part in found:
        if part.store is None or part.store.record.dtype != "int8":
            continue
        with part.blamed():
            own = {name: part.store.deviations(name) for name in part.store.hookpoints}
        first = own if first is None else first
        if any(not np.array_equal(own[name], values) for name, values in first.items()):
            raise ConfigError(
                field="merge",
                problem=f"part {part.part} divides its int8 rows by other standard deviations",
                expected="those of the other parts, measured on the corpus's first block",
                hint="its machine computed that block otherwise: remove its folder below "
                f"{layout.PARTS} and make it again where the others were made",
            )
    return first


def _counts(found: "Sequence[_Part]") -> dict[str, int]:
    """Return the counts that only the parts know."""
    known = ("lost_tokens", "clipped")
    sums = {name: sum(part.manifest.counts.get(name, 0) for part in found) for name in known}
    return {n: total for n, total in sums.items() if any(n in p.manifest.counts for p in found)}


def _facts(found: Sequence[_Part]) -> dict[str, JsonValue]:
    """Return what one process would have found out, and how many there were."""
    facts = dict(found[0].manifest.facts)
    del facts["part"]
    # The parts may have been computed side by side: their rates add up.
    rates = [float(str(part.manifest.facts["tokens_per_second"])) for part in found]
    return facts | {"tokens_per_second": sum(rates), "parts": len(found)}
