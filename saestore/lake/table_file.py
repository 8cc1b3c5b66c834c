"""Tables small enough to be held whole, as the bytes of one Parquet file and back."""

import io

import pyarrow as pa
import pyarrow.parquet as pq


def to_bytes(table: pa.Table, *, group_rows: int | None = None) -> bytes:
    """Return a Parquet file that holds a table, compressed by zstd.

    Args:
        table: The table.
        group_rows: Rows in a group, which is read as a whole; absent, a million.
    """
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", row_group_size=group_rows)
    return sink.getvalue()


def from_bytes(data: bytes) -> pa.Table:
    """Return the table in a Parquet file.

    Raises:
        ValueError: It is none; pyarrow's `ArrowInvalid` is one.
    """
    # ParquetFile: read_table would import pyarrow.dataset, and pandas with it, for half a second,
    # and takes five times as long for a small file. No threads: one of Arrow's that lets go of `data`
    # last, while the interpreter ends, aborts the process.
    return pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
