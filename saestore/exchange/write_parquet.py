"""Exports as Parquet: one line for each row, readable by pyarrow, polars, DuckDB and pandas.

    row, context, position     where in the store
    token_id, token            the token, and how it is shown
    special, ignored           whether training and statistics skip it, and why
    document, document_id      null between documents (BOS, separators)
    final_norm_scale           where it was captured
    <hookpoint>                fixed-size list of float32 or float16

Documents stand in `documents.parquet`, under the same numbers.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from saestore.exchange.selection import Group
from saestore.exchange.target import Job, rows_of
from saestore.lake.manifest import digest_file
from saestore.lake.storage import storage_errors
from saestore_schemas.activations import FLAG_IGNORED, FLAG_SPECIAL, StoreDtype
from saestore_schemas.exchange import ExportedFile


GROUP_BYTES = 64 << 20
"""Bytes of a row group: what is in memory at a time."""
_TYPES = {"float32": pa.float32(), "float16": pa.float16()}
_PLAIN = 64
"""Bytes of a row beside its activations, about."""


class Parquet:
    """Writes Parquet.

    Attributes:
        dtypes: bfloat16 has no Arrow type; float32 holds it exactly.
    """

    dtypes: tuple[StoreDtype, ...] = ("float32", "float16")

    def row_bytes(self, hookpoints: dict[str, int], dtype: StoreDtype) -> int:
        """Return about how many bytes of a file a row is."""
        return sum(hookpoints.values()) * (4 if dtype == "float32" else 2) + _PLAIN

    def write(self, job: Job, number: int, group: Group) -> list[ExportedFile]:
        """Write the file of one group of contexts."""
        name = f"part-{number:05d}.parquet"
        lines = _Lines(job, group)
        at_once = max(GROUP_BYTES // self.row_bytes(job.hookpoints, job.dtype), 1)
        with (
            job.target.replacing(name) as draft,
            storage_errors(f"writing {name}"),
            pq.ParquetWriter(
                draft,
                lines.schema,
                compression="zstd",
                compression_level=1,
                use_dictionary=["token", "document_id"],  # type: ignore[arg-type] # its stubs lack lists
                write_statistics=["row", "context", "position", "token_id", "document"],
            ) as writer,
        ):
            for start, stop in group.runs(at_once=at_once):
                writer.write_table(lines.table(start, stop))
                job.task.advance(stop - start)
        size, checksum = digest_file(job.target, name)
        return [
            ExportedFile(
                path=name, bytes=size, checksum=checksum, rows=group.rows,
                contexts=len(group.table),
            )
        ]  # fmt: skip


class _Lines:
    """The lines of one group, made a stretch of rows at a time.

    Attributes:
        schema: Their columns.
    """

    def __init__(self, job: Job, group: Group) -> None:
        self._job = job
        self._done = 0
        first, lengths = group.local().T
        numbers = job.selection.contexts[group.start : group.stop]
        self._context = np.repeat(numbers, lengths)
        self._position = np.arange(group.rows) - np.repeat(first, lengths)
        self._document = _documents(job, group)
        self._token = job.store.vocabulary().column("token").combine_chunks()
        self._id = job.selection.documents.column("document_id").combine_chunks()
        kind = _TYPES[job.dtype]
        fields: list[pa.Field[Any]] = [
            pa.field("row", pa.uint64(), nullable=False),
            pa.field("context", pa.uint64(), nullable=False),
            pa.field("position", pa.uint32(), nullable=False),
            pa.field("token_id", pa.uint32(), nullable=False),
            pa.field("token", pa.string(), nullable=False),
            pa.field("special", pa.bool_(), nullable=False),
            pa.field("ignored", pa.bool_(), nullable=False),
            pa.field("document", pa.uint64()),
            pa.field("document_id", pa.string()),
            *(pa.field(name, pa.float32(), nullable=False) for name in job.store.record.capture),
        ]
        for name, width in job.hookpoints.items():
            element = pa.field("element", kind, nullable=False)
            fields.append(pa.field(name, pa.list_(element, width), nullable=False))
        self.schema = pa.schema(fields)

    def table(self, start: int, stop: int) -> pa.Table:
        """Return the lines of the next rows, which are these of the store."""
        job, here = self._job, slice(self._done, self._done + stop - start)
        self._done = here.stop
        tokens, flags = job.store.tokens(start, stop), job.store.flags(start, stop)
        document = pa.array(self._document[here], mask=self._document[here] < 0)
        columns = [
            pa.array(np.arange(start, stop)).cast(pa.uint64()),
            pa.array(self._context[here]).cast(pa.uint64()),
            pa.array(self._position[here]).cast(pa.uint32()),
            pa.array(tokens).cast(pa.uint32()),
            self._token.take(pa.array(tokens)),
            pa.array(flags & FLAG_SPECIAL != 0),
            pa.array(flags & FLAG_IGNORED != 0),
            document.cast(pa.uint64()),
            self._id.take(document),
            *(pa.array(job.store.captured(name, start, stop)) for name in job.store.record.capture),
        ]
        for name in job.hookpoints:
            values = rows_of(job, name, start, stop).reshape(-1)
            kind = self.schema.field(name).type
            columns.append(pa.FixedSizeListArray.from_arrays(pa.array(values), type=kind))
        return pa.table(columns, schema=self.schema)


def _documents(job: Job, group: Group) -> Int64[np.ndarray, " row"]:
    """Return the document of each row of a group; -1 where there is none."""
    segments = job.selection.segments
    segments = segments[(segments[:, 0] >= group.start) & (segments[:, 0] < group.stop)]
    first = group.local()[segments[:, 0] - group.start, 0] + segments[:, 1]
    lengths = segments[:, 2]
    inside = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    found = np.full(group.rows, -1, np.int64)
    found[np.repeat(first, lengths) + inside] = np.repeat(segments[:, 3], lengths)
    return found
