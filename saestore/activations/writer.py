"""Writing a store: rows in, whole shards out.

Rows are gathered in one kept buffer per array, the size of a shard. A full buffer becomes one file
per array (temporary name, fsync, rename), the shard's documents a Parquet part, and last its commit.
The bytes of a shard depend on its rows alone, so an interrupted and an uninterrupted run leave the
same files.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, Int32, Int64, UInt8
from pydantic import JsonValue

from saestore.activations import codecs, commits, layout as stores, shards
from saestore.activations.commits import Commit, Cursor
from saestore.activations.moments import Moments
from saestore.errors import UnsupportedError
from saestore.lake import Storage, layout, manifest as manifests
from saestore_schemas import tables
from saestore_schemas.manifest import ArrayInfo, Manifest


_ROWS_AT_ONCE = 4096
"""Rows whose moments are computed together: their float64 copy stays in cache."""


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
    """

    hooks: Mapping[str, Float32[np.ndarray, "row d"]]
    tokens: Int32[np.ndarray, " row"]
    flags: UInt8[np.ndarray, " row"]
    lengths: Int64[np.ndarray, " context"]
    segments: Int64[np.ndarray, "segment 6"]
    documents: Sequence[Mapping[str, Any]] = ()


@dataclass
class _Open:
    """The shard being filled."""

    buffers: dict[str, "np.ndarray[tuple[int, ...], np.dtype[np.generic]]"]
    rows: int = 0
    contexts: list[list[int]] = field(default_factory=list)
    segments: list[list[int]] = field(default_factory=list)
    documents: list[Mapping[str, Any]] = field(default_factory=list)


class StoreWriter:
    """Writes one store, or continues one.

    Attributes:
        resume: Where to continue: append batches from this place on. None at the start.
        rows: Rows in finished shards and the open one.
        tally: The caller's running counts as of the last finished shard.
    """

    def __init__(
        self, artefact: Storage, spec: stores.Spec, *, metadata: pa.Schema | None = None
    ) -> None:
        """Open a store for writing; finished shards of an earlier run are kept.

        Args:
            artefact: The artefact's folder, whose lock the caller holds.
            spec: Its arrays.
            metadata: Further columns of the documents table.
        """
        self._artefact = artefact
        self._spec = spec
        self._arrays = spec.arrays()
        self._documents = tables.DOCUMENTS.schema()
        for column in metadata or ():
            self._documents = self._documents.append(column)
        self._commits = commits.read_all(artefact)
        last = self._commits[-1] if self._commits else None
        self.resume: Cursor | None = last.resume if last else None
        self.tally: dict[str, int] = dict(last.tally) if last else {}
        self.rows = sum(commit.rows for commit in self._commits)
        self._contexts = sum(len(commit.contexts) for commit in self._commits)
        self._skip = self.resume.skip if self.resume else 0
        self._open = self._fresh()

    def _fresh(self) -> _Open:
        size = self._spec.shard_rows
        return _Open(
            {path: np.empty((size, *a.tail), a.stored) for path, a in self._arrays.items()}
        )

    def append(self, batch: RowBatch, at: Cursor, *, tally: Mapping[str, int]) -> None:
        """Add a batch; full shards are written on the way.

        Args:
            batch: The rows.
            at: The batch's place in the corpus.
            tally: Running counts of the caller, this batch included.

        Raises:
            OverflowRowError: A value does not fit the store's type.
            StorageError: The disk is full or read-only; finished shards stay.
        """
        total = len(batch.tokens)
        skip, self._skip = self._skip, 0
        starts = np.concatenate([[0], np.cumsum(batch.lengths)])
        begun = int(np.searchsorted(starts[:-1], skip)) if skip else 0  # contexts committed already
        base = self.rows - skip
        done = skip
        if not skip:
            self._open.documents.extend(batch.documents)
        while True:
            take = min(total - done, self._spec.shard_rows - self._open.rows)
            self._copy(batch, done, done + take)
            ended = int(np.searchsorted(starts[:-1], done + take))
            self._remember(batch, begun, ended, starts + base)
            begun, done = ended, done + take
            if self._open.rows < self._spec.shard_rows:
                return
            following = Cursor(at.block, at.batch, done)
            if done == total:
                following = Cursor(at.block, at.batch + 1, 0)
            self._close(following, tally)
            if done == total:
                return

    def _copy(self, batch: RowBatch, start: int, stop: int) -> None:
        here = slice(self._open.rows, self._open.rows + stop - start)
        for path, array in self._arrays.items():
            buffer = self._open.buffers[path]
            if array.hookpoint is not None:
                buffer[here] = codecs.encode(
                    batch.hooks[array.hookpoint][start:stop],
                    self._spec.dtype,
                    hookpoint=array.hookpoint,
                    first_row=self.rows,
                )
        self._open.buffers[layout.TOKENS][here] = batch.tokens[start:stop]
        self._open.buffers[layout.FLAGS][here] = batch.flags[start:stop]
        self._open.rows += stop - start
        self.rows += stop - start

    def _remember(
        self, batch: RowBatch, begun: int, ended: int, first: Int64[np.ndarray, " context"]
    ) -> None:
        index = self._contexts + len(self._open.contexts)
        rows = [[int(first[c]), int(batch.lengths[c])] for c in range(begun, ended)]
        self._open.contexts += rows
        owner = batch.segments[:, 0]
        chosen = batch.segments[(owner >= begun) & (owner < ended)].copy()
        chosen[:, 0] += index - begun
        self._open.segments += chosen.tolist()

    def _close(self, following: Cursor, tally: Mapping[str, int]) -> None:
        shard = len(self._commits)
        full = self._open
        files = dict(self._write_array(path, array, shard) for path, array in self._arrays.items())
        if full.documents:
            path = layout.part_file(layout.DOCUMENTS, shard)
            files[path] = self._write_documents(path, full.documents)
        commit = Commit(
            shard=shard,
            rows=full.rows,
            files=files,
            contexts=full.contexts,
            segments=full.segments,
            documents=len(full.documents),
            moments=self._moments(),
            resume=following,
            tally=dict(tally),
        )
        commits.write(self._artefact, commit)
        self._commits.append(commit)
        self._contexts += len(full.contexts)
        self._open = _Open(full.buffers)

    def _write_array(
        self, path: str, array: stores.ArraySpec, shard: int
    ) -> tuple[str, tuple[int, str]]:
        name = layout.shard_file(path, shard, ndim=1 + len(array.tail))
        rows = self._open.buffers[path][: self._open.rows]
        size, crc = 0, 0
        with self._artefact.replacing(name) as temporary, temporary.open("wb", 8 << 20) as file:
            for piece in shards.parts(rows, array.grid, fill=array.fill):
                file.write(piece)
                crc = crc32c.crc32c(piece, crc)
                size += len(piece)
        return name, (size, manifests.checksum_text(crc))

    def _write_documents(
        self, path: str, documents: Sequence[Mapping[str, Any]]
    ) -> tuple[int, str]:
        table = pa.Table.from_pylist([dict(d) for d in documents], schema=self._documents)
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        self._artefact.write(path, sink.getvalue())
        return len(sink.getvalue()), manifests.checksum_text(crc32c.crc32c(sink.getvalue()))

    def _moments(self) -> dict[str, Moments]:
        rows = self._open.rows
        kept = self._open.buffers[layout.FLAGS][:rows] == 0
        found = {}
        for path, array in self._arrays.items():
            if array.hookpoint is None:
                continue
            total = Moments.none(array.tail[0])
            for start in range(0, rows, _ROWS_AT_ONCE):
                piece = self._open.buffers[path][start : min(start + _ROWS_AT_ONCE, rows)]
                wanted = piece[kept[start : start + len(piece)]]
                total = total.merge(Moments.of(codecs.decode(wanted, self._spec.dtype)))
            found[array.hookpoint] = total
        return found

    def finish(
        self,
        run: manifests.Run,
        *,
        vocabulary: pa.Table,
        facts: Mapping[str, JsonValue],
        tally: Mapping[str, int],
    ) -> Manifest:
        """Write the last shard, the small arrays and the manifest.

        Args:
            run: The run that made the store.
            vocabulary: The tokenizer's vocabulary.
            facts: What the run found out.
            tally: Final counts of the caller.

        Raises:
            UnsupportedError: There is not a single row.
            StorageError: The disk is full or read-only; finished shards stay.
        """
        if self.rows == 0:
            raise UnsupportedError(
                "the corpus gave no rows",
                found="no documents with text",
                expected="at least one token",
                hint="check corpus.sources: the path, and the field that holds the text",
            )
        if self._open.rows:
            self._close(Cursor(-1, 0), tally)
        if not any(commit.documents for commit in self._commits):
            path = layout.part_file(layout.DOCUMENTS, 0)
            self._write_documents(path, [])
        sink = io.BytesIO()
        pq.write_table(vocabulary, sink, compression="zstd")
        self._artefact.write(layout.VOCABULARY, sink.getvalue())
        self._write_small()
        arrays = {
            path: ArrayInfo(
                shape=(self.rows, *a.tail),
                dtype=self._spec.dtype if a.hookpoint is not None else a.stored.name,
            )
            for path, a in self._arrays.items()
        }
        counts = {
            "rows": self.rows,
            "contexts": self._contexts,
            "documents": sum(commit.documents for commit in self._commits),
            "shards": len(self._commits),
            "shard_rows": self._spec.shard_rows,
            **tally,
        }
        checksums = {p: d for commit in self._commits for p, d in commit.files.items()}
        return manifests.finish(
            self._artefact, run, arrays=arrays, counts=counts, facts=facts, checksums=checksums
        )

    def _write_small(self) -> None:
        artefact = self._artefact
        for leftover in ("zarr.json", *(f"{path}/zarr.json" for path in self._arrays)):
            artefact.remove(leftover)  # of a finish that was killed
        for folder in (layout.CONTEXTS, layout.SEGMENTS, layout.MOMENTS):
            artefact.remove(folder)
        stores.open_group(artefact, {"format": "saestore.activations", "format_version": 1})
        for path, array in self._arrays.items():
            stores.write_row_array(artefact, path, array, self.rows)
        contexts = [row for commit in self._commits for row in commit.contexts]
        segments = [row for commit in self._commits for row in commit.segments]
        stores.write_small_array(
            artefact,
            layout.CONTEXTS,
            np.array(contexts, "<i8").reshape(-1, 2),
            ("context", "field"),
        )
        stores.write_small_array(
            artefact,
            layout.SEGMENTS,
            np.array(segments, "<i8").reshape(-1, 6),
            ("segment", "field"),
        )
        for hookpoint in self._spec.hookpoints:
            per_shard = [commit.moments[hookpoint] for commit in self._commits]
            base = layout.hook_array(hookpoint).replace(layout.HOOKS, layout.MOMENTS, 1)
            for name in ("mean", "m2", "min", "max"):
                values = np.stack([getattr(m, name) for m in per_shard])
                stores.write_small_array(artefact, f"{base}/{name}", values, ("shard", "d"))
            sums = [[float(m.count), m.norm_sum, m.norm_sq_sum] for m in per_shard]
            stores.write_small_array(
                artefact, f"{base}/sums", np.array(sums, "<f8"), ("shard", "count_norm_normsq")
            )
