"""How feature tables are written to Parquet: every option in one place.

Row groups have a fixed size and files are cut at given boundaries only, so the bytes depend on the
rows and not on the pieces in which they arrived.
"""

from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from types import TracebackType
from typing import Any, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from saestore.lake import Storage, layout
from saestore_schemas.table import TABLE_VERSION, Table


FIRINGS_GROUP = 262_144
"""Rows in a row group of the firings: about 1.3 MB compressed, one feature is a few of them."""
GROUP = 8_192
"""Rows in a row group of the other tables: the lines of one feature are decoded with those of some
hundred others, in a fraction of a millisecond. DuckDB's own 122 880 take up to a tenth off a table, and ten
times as long."""
_WIDE = {
    "features": 4_096, "logit_stats": 4_096, "coactivation": 4_096, "examples": 4_096, "histograms": 512,
    "interpretations": 2_048, "interpretation_scores": 4_096,
}  # fmt: skip
"""Likewise of tables with many columns, or long lists."""
_SMALL = frozenset(
    {"features", "examples", "token_stats", "coactivation", "neighbours", "logits", "logit_stats"}
)
"""Tables of which a page reads one row group each: many columns of few bytes, for which zstd takes most of the
time. With lz4 they are decoded three times as fast, and with floats as byte streams no larger than with zstd
and dictionaries of floats: 103 % of the examples, 107 % of the tokens, 75 to 96 % of the others."""
CONTEXTS_GROUP = 512
"""Rows in a row group of `contexts`, which carry their text: a page shows some from anywhere, and of a large lake
none that were decoded for another."""
FIRINGS_PAGE = 131_072
"""Firings in a page: each of the four byte streams of their values fills a block of zstd."""
FIRINGS_PART = 25_000_000
"""Firings aimed at in one file."""
_WIDEST = 4
"""Bytes of the widest column of a firing."""
CONTEXTS_PART = 65_536
"""Contexts in one file."""


def row_group(table: str) -> int:
    """Return the rows of a row group of a table."""
    if table.startswith("firings_by_"):
        return FIRINGS_GROUP
    return CONTEXTS_GROUP if table == "contexts" else _WIDE.get(table, GROUP)


def part_rows(table: str) -> int | None:
    """Return the rows aimed at in one file of a table; None when it is one file."""
    if table.startswith("firings_by_"):
        return FIRINGS_PART
    return CONTEXTS_PART if table == "contexts" else None


def options(table: str, schema: pa.Schema, order: tuple[tuple[str, bool], ...]) -> dict[str, Any]:
    """Return what `pyarrow.parquet.ParquetWriter` is told.

    float16 is written plain: DuckDB 2.0.0 cannot read byte-stream-split float16.
    """
    chosen: dict[str, Any] = {
        "compression": "zstd",
        "write_statistics": True,
        "write_page_index": True,
        "sorting_columns": [
            pq.SortingColumn(schema.get_field_index(name), descending=descending)
            for name, descending in order
        ],
    }
    if table.startswith("firings_by_"):
        chosen["use_dictionary"] = False
        chosen["max_rows_per_page"] = FIRINGS_PAGE
        chosen["data_page_size"] = _WIDEST * FIRINGS_PAGE
        chosen["column_encoding"] = {field.name: _encoding(field.type) for field in schema}
    else:
        columns = _leaves(schema)
        # numbers that hardly repeat: a dictionary of them would be as large as they are
        floats = [path for path, kind in columns.items() if kind in {"FLOAT", "DOUBLE"}]
        apart = {"text", "token", "bytes", *floats}
        chosen["use_dictionary"] = [path for path in columns if path not in apart]
        chosen["column_encoding"] = dict.fromkeys(floats, "BYTE_STREAM_SPLIT")
        if table in _SMALL:
            chosen["compression"] = "lz4"
    return chosen


def _encoding(dtype: pa.DataType) -> str:
    if pa.types.is_integer(dtype):
        return "DELTA_BINARY_PACKED"
    return "BYTE_STREAM_SPLIT" if pa.types.is_float32(dtype) else "PLAIN"


def _leaves(schema: pa.Schema) -> dict[str, str]:
    """Return the physical type of each column as Parquet names it."""
    metadata = pq.ParquetFile(_empty(schema)).schema
    columns = [metadata.column(i) for i in range(len(metadata.names))]
    return {column.path: column.physical_type for column in columns}


def _empty(schema: pa.Schema) -> pa.BufferReader:
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    return pa.BufferReader(sink.getvalue())


@final
class TableWriter:
    """Writes one table of an artefact: `with` it, give it sorted pieces.

    Row groups are compressed by a thread of its own, one at a time and in order, while the next is made.
    """

    def __init__(
        self, artefact: Storage, table: Table, *, fingerprint: str, schema: pa.Schema | None = None
    ) -> None:
        """Prepare to write; nothing is touched before the block is entered.

        Args:
            artefact: The artefact's folder.
            table: What the table is called, its columns and sort order.
            fingerprint: Fingerprint of the artefact, written into every file.
            schema: Its Arrow schema if it has columns beyond the table's own.
        """
        self._artefact = artefact
        self._table = table
        own = schema or table.schema()
        facts = {
            "saestore.table": table.name,
            "saestore.table_version": str(TABLE_VERSION),
            "saestore.fingerprint": fingerprint,
        }
        self._schema = own.with_metadata(facts)
        self._group = row_group(table.name)
        self._part = part_rows(table.name)
        self._options = options(table.name, self._schema, table.order)
        self._stack = ExitStack()
        self._writer: pq.ParquetWriter | None = None
        self._held: list[pa.Table] = []
        self._n_held = 0
        self._in_part = 0
        self._thread: ThreadPoolExecutor | None = None
        self._groups: Future[None] | None = None
        self.parts = 0
        self.rows = 0

    @property
    def columns(self) -> int:
        """Columns of the table."""
        return len(self._schema)

    def __enter__(self) -> "TableWriter":
        """Open the first file."""
        self._open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finish the last file, or remove it after an error."""
        try:
            if kind is None:
                self._close()
            else:
                wait([] if self._groups is None else [self._groups])
                if self._writer is not None:
                    self._writer.close()
                self._stack.__exit__(kind, error, trace)
        finally:
            if self._thread is not None:
                self._thread.shutdown()

    def write(self, piece: pa.Table, *, cuts: Int64[np.ndarray, " _"] | None = None) -> None:
        """Append rows.

        Args:
            piece: Rows that follow all earlier ones.
            cuts: Rows of the piece before which a file may end, ascending; absent, any row.

        Raises:
            StorageError: The disk is full.
        """
        start = 0
        while self._part is not None and piece.num_rows > start:
            due = start + max(0, self._part - self._in_part)
            at = due if cuts is None else _next(cuts, due, piece.num_rows)
            if at >= piece.num_rows:
                break
            self._append(piece.slice(start, at - start))
            self._close()
            self._open()
            start = at
        self._append(piece.slice(start))

    def _append(self, piece: pa.Table) -> None:
        self.rows += piece.num_rows
        self._in_part += piece.num_rows
        self._held.append(piece.cast(self._schema) if piece.schema != self._schema else piece)
        self._n_held += piece.num_rows
        if self._n_held >= self._group:
            self._flush(whole=True)

    def _flush(self, *, whole: bool) -> None:
        """Write the rows held, whole row groups only unless the file ends here."""
        if self._writer is None or not self._held:
            return
        held = pa.concat_tables(self._held)
        stop = held.num_rows - held.num_rows % self._group if whole else held.num_rows
        self._written()
        if self._thread is None:
            name = f"saestore-write-{self._table.name}"
            self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._groups = self._thread.submit(self._write, self._writer, held, stop)
        self._held = [held.slice(stop)]
        self._n_held = held.num_rows - stop

    def _write(self, writer: pq.ParquetWriter, held: pa.Table, stop: int) -> None:
        for start in range(0, stop, self._group):
            size = min(self._group, stop - start)
            # Taken, not sliced only: what is written must not know its place in the piece.
            group = held.slice(start, size).combine_chunks().take(np.arange(size))
            writer.write_table(group, row_group_size=self._group)

    def _written(self) -> None:
        """Wait for the row groups that are being written; raise what went wrong with them."""
        groups, self._groups = self._groups, None
        if groups is not None:
            groups.result()

    def _open(self) -> None:
        path = layout.part_file(self._table.name, self.parts)
        self._stack = ExitStack()
        temporary = self._stack.enter_context(self._artefact.replacing(path))
        self._writer = pq.ParquetWriter(temporary, self._schema, **self._options)
        self.parts += 1
        self._in_part = 0

    def _close(self) -> None:
        writer = self._writer
        with self._stack:  # what goes wrong here is a storage error, as in `write`
            try:
                self._flush(whole=False)
                self._written()
            finally:
                self._writer = None
                self._held, self._n_held = [], 0
            if writer is not None:
                writer.close()


def _next(cuts: np.ndarray, due: int, rows: int) -> int:
    """Return the first cut at or after the row where the file is full."""
    index = int(np.searchsorted(cuts, due))
    return int(cuts[index]) if index < len(cuts) else rows


def write_whole(
    artefact: Storage, table: Table, content: pa.Table, *, fingerprint: str
) -> tuple[int, int]:
    """Write a table that is in memory; return its rows and columns."""
    with TableWriter(artefact, table, fingerprint=fingerprint, schema=content.schema) as writer:
        writer.write(content)
    return writer.rows, writer.columns
