"""Writing a store: rows in, whole shards out.

Rows go chunk by chunk into the temporary file of the open shard, one file per array. A full shard
gets its names (fsync, rename), its documents become a Parquet part, and last comes its commit, while
the next shard is filled; that one is not closed before. Moments are measured in a thread beside. The
bytes of a shard depend on its rows alone, so an interrupted and an uninterrupted run leave the same
files.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int32, Int64, Shaped, UInt8
from pydantic import JsonValue

from saestore.activations import codecs, commits, deviations as measured, layout as stores
from saestore.activations.arrays import STAGING, ArrayWriter, Watch
from saestore.activations.commits import Commit, Cursor, Totals
from saestore.activations.deviations import Deviations
from saestore.activations.moments import Moments, RunningMoments
from saestore.activations.small import SmallArray
from saestore.errors import ConfigError, UnsupportedError
from saestore.lake import Storage, layout, manifest as manifests, table_file
from saestore_schemas import tables
from saestore_schemas.manifest import ArrayInfo, Manifest


_STAGED = 128 << 20
"""Bytes of all arrays' staging buffers together, unless there are very many hookpoints; twice, for
one is filled while the other is written."""
_DISK_THREADS = 2
"""Writes under way at once. They start with the first, and wait for the disk, not the processor."""


@dataclass(frozen=True)
class RowBatch:
    """Consecutive rows of a store, whole contexts at a time.

    Attributes:
        hooks: Activations of each hookpoint.
        tokens: Token id of each row.
        flags: Flags of each row; training and statistics use rows whose flags are 0.
        lengths: Rows of each context, in order; they sum to the rows of the batch.
        segments: Context (counted within the batch), start, length, document, token offset and
            character offset of each segment.
        documents: Documents that begin with this batch, in order.
        captured: What each row has beside its activations, by name.
    """

    hooks: Mapping[str, Float32[np.ndarray, "row d"]]
    tokens: Int32[np.ndarray, " row"]
    flags: UInt8[np.ndarray, " row"]
    lengths: Int64[np.ndarray, " context"]
    segments: Int64[np.ndarray, "segment 6"]
    documents: Sequence[Mapping[str, Any]] = ()
    captured: Mapping[str, Float32[np.ndarray, " row"]] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredBatch:
    """Consecutive rows as they lie on disk, whole contexts at a time.

    Attributes:
        arrays: Stored rows of each row array, by path; of an int8 store the scales among them.
        lengths: As in `RowBatch`.
        segments: As in `RowBatch`.
        documents: As in `RowBatch`.
        clipped: int8 values of each row, all hookpoints, that were clipped; None, not counted here.
    """

    arrays: Mapping[str, Shaped[np.ndarray, "row ..."]]
    lengths: Int64[np.ndarray, " context"]
    segments: Int64[np.ndarray, "segment 6"]
    documents: Sequence[Mapping[str, Any]] = ()
    clipped: Int64[np.ndarray, " row"] | None = None


@dataclass
class _Open:
    """What is known of the shard being filled, beside its arrays."""

    moments: dict[str, RunningMoments]
    rows: int = 0
    clipped: int = 0
    contexts: list[Int64[np.ndarray, "context 2"]] = field(default_factory=list)
    segments: list[Int64[np.ndarray, "segment 6"]] = field(default_factory=list)
    documents: list[Mapping[str, Any]] = field(default_factory=list)

    def begun(self) -> int:
        """Return how many contexts begin in it."""
        return sum(len(some) for some in self.contexts)


class StoreWriter:
    """Writes one store, or continues one.

    Attributes:
        resume: Where to continue: append batches from this place on. None at the start.
        rows: Rows in finished shards and the open one.
        tally: The caller's notes as of the last finished shard.
    """

    def __init__(
        self,
        artefact: Storage,
        spec: stores.Spec,
        *,
        metadata: pa.Schema | None = None,
        deviations: Deviations | None = None,
    ) -> None:
        """Open a store for writing; finished shards of an earlier run are kept.

        Args:
            artefact: The artefact's folder, whose lock the caller holds.
            spec: Its arrays.
            metadata: Further columns of the documents table.
            deviations: Of an int8 store, by what each hookpoint's dimensions are divided; see
                `saestore.activations.deviations`. A store that is continued knows its own.

        Raises:
            ConfigError: The deviations are missing, of other widths, or not those the store was
                begun with.
            DamagedArtefactError: A file of the last finished shard is missing or has another size.
        """
        self._artefact = artefact
        self._spec = spec
        self._documents = tables.DOCUMENTS.schema()
        for column in metadata or ():
            self._documents = self._documents.append(column)
        last = commits.last(artefact)
        self._shards = last.shard + 1 if last else 0
        self._total = last.total if last else Totals()
        self.resume: Cursor | None = last.resume if last else None
        self.tally: dict[str, Any] = dict(last.tally) if last else {}
        self.rows = self._total.rows
        self._skip = self.resume.skip if self.resume else 0
        self._following = self.resume
        self._noted = self.tally
        self._deviations = _agreed(artefact, spec, deviations)
        self._decoded = np.empty(0, np.float32)
        self._encoded: dict[str, Shaped[np.ndarray, ...]] = {}
        # Scales of the open shard, like its flags, by hookpoint.
        self._scales = {name: np.empty(spec.shard_rows, np.float32) for name in self._deviations}
        # Flags of the open shard: a hookpoint's chunk is measured when it is full, rows later.
        self._flags = np.empty(spec.shard_rows, np.uint8)
        # One thread: moments are merged in the order of the rows.
        self._measuring = ThreadPoolExecutor(1, thread_name_prefix="saestore-moments")
        self._commits = ThreadPoolExecutor(1, thread_name_prefix="saestore-commit")
        self._committing: Future[None] | None = None
        self._disk = ThreadPoolExecutor(_DISK_THREADS, thread_name_prefix="saestore-disk")
        share = _STAGED // len(spec.hookpoints) >> 20 << 20
        staging = min(max(share, 1 << 20), STAGING)
        self._arrays = {
            path: ArrayWriter(
                artefact,
                path,
                array,
                watch=self._watch(array.hookpoint),
                staging=staging,
                disk=self._disk,
                watcher=self._measuring,
            )
            for path, array in spec.arrays().items()
        }
        self._open: _Open | None = None

    @property
    def documents(self) -> int:
        """Documents recorded with finished shards."""
        return self._total.documents

    def __enter__(self) -> "StoreWriter":
        """Return the writer; on an error its temporary files are removed at the end."""
        return self

    def __exit__(self, *error: object) -> None:
        """Give up the open shard, if there is one; the one before it is whole, and is committed."""
        if self._committing is not None:
            self._committing.exception()
        self._commits.shutdown()
        for writer in self._arrays.values():
            writer.abandon()
        self._measuring.shutdown()
        self._disk.shutdown()
        self._open = None

    def append(self, batch: RowBatch, at: Cursor, *, tally: Mapping[str, Any]) -> None:
        """Add a batch; full shards are written on the way.

        Args:
            batch: The rows.
            at: The batch's place in the corpus.
            tally: What the caller will want to know when it resumes, this batch included.

        Raises:
            OverflowRowError: A value does not fit the store's type.
            StorageError: The disk is full or read-only; finished shards stay.
        """
        self.append_stored(self._stored(batch), at, tally=tally)

    def append_stored(self, batch: StoredBatch, at: Cursor, *, tally: Mapping[str, Any]) -> None:
        """Add a batch of rows that are in stored form already; else like `append`.

        Raises:
            StorageError: The disk is full or read-only; finished shards stay.
        """
        self._noted = dict(tally)
        total = int(batch.lengths.sum())
        skip, self._skip = self._skip, 0
        starts = np.concatenate([[0], np.cumsum(batch.lengths)])
        begun = int(np.searchsorted(starts[:-1], skip))  # contexts that are committed already
        base = self.rows - skip
        done = skip
        if not skip:
            self._shard().documents.extend(batch.documents)
        while done < total:
            shard = self._shard()
            stop = done + min(total - done, self._spec.shard_rows - shard.rows)
            self._copy(batch, done, stop)
            ended = int(np.searchsorted(starts[:-1], stop))
            self._remember(batch, begun, ended, starts + base)
            begun, done = ended, stop
            self._following = Cursor(at.block, at.batch, done)
            if done == total:
                self._following = Cursor(at.block, at.batch + 1, 0)
            if shard.rows == self._spec.shard_rows:
                self._close(self._following)

    def append_shard(
        self,
        columns: Iterable[tuple[str, Shaped[np.ndarray, "row ..."]]],
        *,
        rows: int,
        contexts: Int64[np.ndarray, "context 2"],
        segments: Int64[np.ndarray, "segment 6"],
        documents: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Write a shard whose rows are not those of whole contexts; no other is open.

        Args:
            columns: Path and stored rows of each array, in pieces; flags and scales before the rows
                they belong to.
            rows: Rows of the shard.
            contexts: Contexts recorded with it.
            segments: Their segments.
            documents: Documents recorded with it.

        Raises:
            StorageError: The disk is full or read-only; finished shards stay.
        """
        shard = self._shard()
        whole: dict[str, Shaped[np.ndarray, ...]] = {layout.FLAGS: self._flags}
        whole |= {layout.scale_array(name): kept for name, kept in self._scales.items()}
        written = dict.fromkeys(self._arrays, 0)
        for path, piece in columns:
            stop = written[path] + len(piece)
            if path in whole:
                whole[path][written[path] : stop] = piece
            self._arrays[path].append(piece)
            written[path] = stop
        shard.rows = rows
        self.rows += rows
        shard.contexts.append(contexts)
        shard.segments.append(segments)
        shard.documents.extend(documents)
        self._close(Cursor(self._shards + 1, 0))

    def _shard(self) -> _Open:
        """Return the open shard, begun now if none is."""
        if self._open is None:
            widths = self._spec.hookpoints.items()
            self._open = _Open({name: RunningMoments(width) for name, width in widths})
            for writer in self._arrays.values():
                writer.open(self._shards)
        return self._open

    def _watch(self, hookpoint: str | None) -> Watch | None:
        """Return what measures a hookpoint's chunks, always the same rows together."""
        if hookpoint is None:
            return None

        def measure(chunk: Shaped[np.ndarray, "..."], first: int) -> None:
            here = slice(first, first + len(chunk))
            kept = self._flags[here] == 0
            if self._deviations:
                scales, deviations = self._scales[hookpoint][here], self._deviations[hookpoint]
                rows = codecs.dequantise(chunk, scales, deviations, out=self._wide(chunk))
            elif self._spec.dtype == "float32":
                rows = chunk
            else:
                rows = codecs.decode(chunk, self._spec.dtype, out=self._wide(chunk))
            self._shard().moments[hookpoint].add(rows, kept)

        return measure

    def _wide(self, chunk: Shaped[np.ndarray, "row d"]) -> Float32[np.ndarray, "row d"]:
        """Return kept room for a decoded chunk: fresh memory costs several times the decoding."""
        if self._decoded.size < chunk.size:
            self._decoded = np.empty(chunk.size, np.float32)
        return self._decoded[: chunk.size].reshape(chunk.shape)

    def _room(self, path: str, rows: int) -> Shaped[np.ndarray, "row d"] | None:
        """Return kept room for a batch in stored form; float32 needs none."""
        array = self._arrays[path].array
        if self._spec.dtype == "float32":
            return None
        if path not in self._encoded or len(self._encoded[path]) < rows:
            self._encoded[path] = np.empty((rows, *array.tail), array.stored)
        return self._encoded[path][:rows]

    def _stored(self, batch: RowBatch) -> StoredBatch:
        arrays: dict[str, Shaped[np.ndarray, ...]] = {
            layout.TOKENS: batch.tokens,
            layout.FLAGS: batch.flags,
        }
        first = self.rows - self._skip
        for name, scalars in batch.captured.items():
            codecs.refuse_strange(scalars[:, None], "float32", hookpoint=name, first_row=first)
            arrays[name] = scalars
        clipped = np.zeros(len(batch.tokens), np.int64)
        for name, rows in batch.hooks.items():
            path = layout.hook_array(name)
            room = self._room(path, len(rows))
            if self._deviations:
                found = codecs.quantise(
                    rows, self._deviations[name], hookpoint=name, first_row=first, out=room
                )
                arrays[path], arrays[layout.scale_array(name)] = found.stored, found.scales
                clipped += found.clipped
            else:
                arrays[path] = codecs.encode(
                    rows, self._spec.dtype, hookpoint=name, first_row=first, out=room
                )
        return StoredBatch(arrays, batch.lengths, batch.segments, batch.documents, clipped)

    def _copy(self, batch: StoredBatch, start: int, stop: int) -> None:
        shard = self._shard()
        kept = batch.arrays[layout.FLAGS][start:stop]
        here = slice(shard.rows, shard.rows + stop - start)
        self._flags[here] = kept
        for hookpoint, scales in self._scales.items():
            scales[here] = batch.arrays[layout.scale_array(hookpoint)][start:stop]
        if batch.clipped is not None:
            shard.clipped += int(batch.clipped[start:stop].sum())
        for path, writer in self._arrays.items():
            writer.append(batch.arrays[path][start:stop])
        shard.rows += stop - start
        self.rows += stop - start

    def _remember(
        self, batch: StoredBatch, begun: int, ended: int, first: Int64[np.ndarray, " context"]
    ) -> None:
        shard = self._shard()
        owner = batch.segments[:, 0]
        segments = batch.segments[(owner >= begun) & (owner < ended)]
        segments[:, 0] += self._total.contexts + shard.begun() - begun
        shard.segments.append(segments)
        shard.contexts.append(np.stack([first[begun:ended], batch.lengths[begun:ended]], axis=1))

    def _close(self, following: Cursor) -> None:
        with ExitStack() as drafts:  # what fails takes all drafts of the shard with it
            commit, documents = self._sealed(following, drafts)
            self._settle()
            named = drafts.pop_all()
        self._committing = self._commits.submit(self._commit, named, documents, commit)
        self._total, self._shards, self._open = commit.total, commit.shard + 1, None

    def _sealed(self, following: Cursor, drafts: ExitStack) -> tuple[Commit, Mapping[str, bytes]]:
        """Write the last bytes of the open shard; return what commits it and its documents' file."""
        full = self._shard()
        files, documents = {}, {}
        for writer in self._arrays.values():
            sealed = writer.seal()
            drafts.push(sealed.last)
            files[sealed.name] = sealed.facts
        if full.documents:
            path = layout.part_file(layout.DOCUMENTS, self._shards)
            data = documents[path] = self._packed(full.documents)
            files[path] = len(data), manifests.checksum_of(data)
        contexts, segments = np.concatenate(full.contexts), np.concatenate(full.segments)
        moments = {name: running.moments() for name, running in full.moments.items()}
        added = Totals(
            rows=full.rows,
            kept=next(iter(moments.values())).count,
            contexts=len(contexts),
            segments=len(segments),
            documents=len(full.documents),
            clipped=full.clipped,
        )
        commit = Commit(
            shard=self._shards,
            total=self._total + added,
            files=files,
            contexts=contexts,
            segments=segments,
            moments=moments,
            resume=following,
            tally=self._noted,
        )
        return commit, documents

    def _commit(self, named: ExitStack, documents: Mapping[str, bytes], commit: Commit) -> None:
        """Sync and name the files of a shard and commit it, while the next one is filled."""
        named.close()
        for path, data in documents.items():
            self._artefact.write(path, data)
        commits.write(self._artefact, commit)

    def _settle(self) -> None:
        """Wait until the last full shard is committed, and raise what went wrong."""
        committing, self._committing = self._committing, None
        if committing is not None:
            committing.result()

    def _packed(self, documents: Sequence[Mapping[str, Any]]) -> bytes:
        table = pa.Table.from_pylist([dict(d) for d in documents], schema=self._documents)
        return table_file.to_bytes(table)

    def finish(
        self,
        run: manifests.Run,
        *,
        vocabulary: pa.Table,
        facts: Mapping[str, JsonValue],
        counts: Mapping[str, int] | None = None,
        documents: Sequence[Mapping[str, Any]] = (),
        may_be_empty: bool = False,
        measure: Callable[[Manifest], Mapping[str, JsonValue]] | None = None,
    ) -> Manifest:
        """Write the last shard, the small arrays and the manifest.

        Args:
            run: The run that made the store.
            vocabulary: The tokenizer's vocabulary.
            facts: What the run found out.
            counts: Further counts for the manifest.
            documents: Documents after the last row, which have no rows.
            may_be_empty: Write documents and a manifest even without a row: a part of a store may
                get no block of the corpus.
            measure: Returns further facts, found by reading the store back.

        Raises:
            UnsupportedError: There is not a single row.
            DamagedArtefactError: A file of a finished shard is missing or has another size.
            StorageError: The disk is full or read-only; finished shards stay.
        """
        if self.rows == 0 and not may_be_empty:
            raise UnsupportedError(
                "the corpus gave no rows",
                found="no documents with text",
                expected="at least one token",
                hint="check corpus.sources: the path, and the field that holds the text",
            )
        if self._open is not None and self._following is not None:
            self._close(self._following)
        self._settle()
        recorded = self.documents
        if documents or not recorded:
            path = layout.part_file(layout.DOCUMENTS, self._shards)
            self._artefact.write(path, self._packed(documents))
        self._artefact.write(layout.VOCABULARY, table_file.to_bytes(vocabulary))
        checksums = {}
        if self.rows:
            small = self._small_specs()
            checksums = stores.write_metadata(self._artefact, self._spec, self.rows, small)
            checksums |= self._write_small(small)
        found = {
            "rows": self.rows,
            "kept_rows": self._total.kept,
            "contexts": self._total.contexts,
            "segments": self._total.segments,
            "documents": recorded + len(documents),
            "shards": self._shards,
            "shard_rows": self._spec.shard_rows,
            **({"clipped": self._total.clipped} if self._deviations else {}),
            **(counts or {}),
        }
        return manifests.finish(
            self._artefact,
            run,
            arrays=self._infos() if self.rows else {},
            counts=found,
            facts={stores.RECORD: self._spec.record.model_dump(mode="json"), **facts},
            checksums=checksums,
            measure=measure,
        )

    def _infos(self) -> dict[str, ArrayInfo]:
        return {
            path: ArrayInfo(
                shape=(self.rows, *array.tail),
                dtype=self._spec.dtype if array.hookpoint is not None else array.stored.name,
            )
            for path, array in self._spec.arrays().items()
        }

    def _small_specs(self) -> dict[str, stores.SmallSpec]:
        """Return shape, type and axes of the small arrays, by path."""
        total, shards = self._total, self._shards
        found = {
            layout.CONTEXTS: stores.SmallSpec((total.contexts, 2), "<i8", ("context", "field")),
            layout.SEGMENTS: stores.SmallSpec((total.segments, 6), "<i8", ("segment", "field")),
        }
        for hookpoint, width in self._spec.hookpoints.items():
            of_none = _entries_of(Moments.none(width), hookpoint)
            for path, (values, axis) in of_none.items():
                shape = (shards, *values.shape)
                found[path] = stores.SmallSpec(shape, values.dtype.str, ("shard", axis))
        for hookpoint, deviations in self._deviations.items():
            path = layout.deviation_array(hookpoint)
            found[path] = stores.SmallSpec(deviations.shape, "<f4", ("d",))
        return found

    def _write_small(self, specs: Mapping[str, stores.SmallSpec]) -> dict[str, tuple[int, str]]:
        """Write the small arrays, a commit at a time; return size and checksum of all files."""
        found: dict[str, tuple[int, str]] = {}
        arrays = {path: SmallArray(self._artefact, path, spec) for path, spec in specs.items()}
        for commit in commits.each(self._artefact, self._shards):
            found.update(commit.files)
            arrays[layout.CONTEXTS].append(commit.contexts)
            arrays[layout.SEGMENTS].append(commit.segments)
            for hookpoint, moments in commit.moments.items():
                for path, (values, _) in _entries_of(moments, hookpoint).items():
                    arrays[path].append(values[None])
        for hookpoint, deviations in self._deviations.items():
            arrays[layout.deviation_array(hookpoint)].append(deviations)
        for array in arrays.values():
            found.update(array.close())
        return found


def _entries_of(
    moments: Moments, hookpoint: str
) -> dict[str, tuple[Shaped[np.ndarray, " _"], str]]:
    """Return a shard's entry in each array of moments, and the name of its axis, by path."""
    base = layout.hook_array(hookpoint).replace(layout.HOOKS, layout.MOMENTS, 1)
    sums = np.array([float(moments.count), moments.norm_sum, moments.norm_sq_sum])
    return {
        f"{base}/norms": (moments.norms, "bin"),
        **{f"{base}/{n}": (getattr(moments, n), "d") for n in ("mean", "m2", "min", "max")},
        f"{base}/sums": (sums, "count_norm_normsq"),
    }


def _agreed(artefact: Storage, spec: stores.Spec, given: Deviations | None) -> Deviations:
    """Return the deviations of an int8 store, written down before its first shard; else none.

    Raises:
        ConfigError: They are missing, of other widths, or not those the store was begun with.
    """
    if spec.dtype != "int8":
        return {}
    known = measured.load(artefact)
    found = given if known is None else known
    if found is None:
        problem = "no standard deviations were given"
    elif {name: len(values) for name, values in found.items()} != dict(spec.hookpoints):
        problem = "the standard deviations are those of other hookpoints or widths"
    elif given is not None and any(not np.array_equal(given[h], found[h]) for h in found):
        problem = "the standard deviations are not those this store was begun with"
    else:
        if known is None:
            measured.save(artefact, found)
        return found
    raise ConfigError(
        field="dtype",
        problem=f"int8: {problem}",
        expected="those of the corpus's first block, for every hookpoint",
        hint="measure them with saestore.activations.deviations, or choose another dtype",
    )
