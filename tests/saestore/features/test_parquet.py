import itertools

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings, strategies as st

from saestore.features import parquet
from saestore.features.parquet import TableWriter
from saestore.lake import Storage
from saestore_schemas import tables


def firings(n, *, per_feature=10, dtype=np.float32):
    feature = (np.arange(n) // per_feature).astype(np.uint32)
    arrow = pa.float16() if dtype == np.float16 else pa.float32()
    table = tables.firings(arrow, "feature")
    values = np.linspace(1, 2, n).astype(dtype)
    columns = [feature, np.arange(n, dtype=np.uint32), np.zeros(n, np.uint16), values]
    return table, pa.table([pa.array(c) for c in columns], schema=table.schema())


def write(folder, table, content, cuts):
    starts = np.arange(0, content.num_rows, 10)
    with TableWriter(Storage.at(folder), table, fingerprint="f" * 64) as writer:
        bounds = [0, *sorted(cuts), content.num_rows]
        for a, b in itertools.pairwise(bounds):
            inside = starts[(starts >= a) & (starts < b)] - a
            writer.write(content.slice(a, b - a), cuts=inside)
    return writer


@pytest.mark.parametrize(
    ("dtype", "encoding"), [(np.float32, "BYTE_STREAM_SPLIT"), (np.float16, "PLAIN")]
)
def test_firings_are_written_as_the_specification_says(tmp_path, dtype, encoding):
    table, content = firings(1000, dtype=dtype)
    write(tmp_path, table, content, [])
    file = pq.ParquetFile(tmp_path / "firings_by_feature" / "part-00000.parquet")
    group = file.metadata.row_group(0)
    assert [c.column_index for c in group.sorting_columns] == [0, 1, 2]
    for i, name in enumerate(["feature", "context", "position", "value"]):
        column = group.column(i)
        assert column.path_in_schema == name
        assert column.compression == "ZSTD"
        assert column.statistics.has_min_max
        assert column.has_column_index
        assert column.has_offset_index
        expected = encoding if name == "value" else "DELTA_BINARY_PACKED"
        assert expected in column.encodings
        assert "PLAIN_DICTIONARY" not in column.encodings
    facts = file.schema_arrow.metadata
    assert facts[b"saestore.table"] == b"firings_by_feature"
    assert facts[b"saestore.table_version"] == b"1"
    assert facts[b"saestore.fingerprint"] == b"f" * 64
    assert pq.read_table(tmp_path / "firings_by_feature").column("value").equals(content["value"])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 500), max_size=6), st.sampled_from([30, 64, 1000]))
def test_bytes_do_not_depend_on_pieces_and_files_end_at_features(tmp_path_factory, cuts, part):
    patch = pytest.MonkeyPatch()
    patch.setattr(parquet, "FIRINGS_GROUP", 40)
    patch.setattr(parquet, "FIRINGS_PART", part)
    table, content = firings(500)
    one, other = (tmp_path_factory.mktemp("parts") for _ in range(2))
    try:
        write(one, table, content, [])
        writer = write(other, table, content, cuts)
    finally:
        patch.undo()
    files = sorted((one / table.name).iterdir())
    again = sorted((other / table.name).iterdir())
    assert [f.read_bytes() for f in files] == [f.read_bytes() for f in again]
    assert writer.parts == len(files)
    seen = []
    for file in files:
        features = pq.read_table(file)["feature"].to_pylist()
        assert not set(features) & set(seen)
        seen += features
        sizes = [g.num_rows for g in groups(file)]
        assert all(size == 40 for size in sizes[:-1])
    assert seen == content["feature"].to_pylist()
    assert all(len(pq.read_table(f)) >= part for f in files[:-1])


def groups(file):
    metadata = pq.ParquetFile(file).metadata
    return [metadata.row_group(i) for i in range(metadata.num_row_groups)]


def test_no_rows_make_one_empty_file(tmp_path):
    table, content = firings(0)
    write(tmp_path, table, content, [])
    (file,) = (tmp_path / table.name).iterdir()
    assert pq.read_table(file).schema.equals(table.schema())


def fail_after_writing(folder):
    table, content = firings(50)
    with TableWriter(Storage.at(folder), table, fingerprint="f") as writer:
        writer.write(content)
        raise RuntimeError


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError):
        fail_after_writing(tmp_path)
    assert not list((tmp_path / "firings_by_feature").iterdir())


def test_other_tables_are_one_file_and_contexts_are_cut():
    assert parquet.part_rows("features") is None
    assert parquet.part_rows("contexts") == 65_536
    assert parquet.part_rows("contexts") % parquet.row_group("contexts") == 0
    assert parquet.row_group("contexts") < parquet.row_group("histograms") * 2
    assert parquet.row_group("histograms") < parquet.row_group("examples")
    assert parquet.row_group("examples") < parquet.row_group("token_stats") < parquet.FIRINGS_GROUP


def test_tables_of_pages_are_packed_to_be_decoded_quickly(planted_lake):
    (file,) = planted_lake.storage.path("features/planted/relu/default/features").iterdir()
    columns = {c.path_in_schema: c for c in columns_of(file)}
    assert {c.compression for c in columns.values()} == {"LZ4"}
    for name in ("density", "max"):  # of 64 and of 32 bits
        assert "BYTE_STREAM_SPLIT" in columns[name].encodings
        assert not columns[name].has_dictionary_page
    assert columns["layer"].has_dictionary_page
    frame = pl.read_parquet(file)
    assert duckdb.read_parquet(str(file)).pl().equals(frame)
    (texts,) = planted_lake.storage.path("features/planted/relu/default/contexts").iterdir()
    assert {c.compression for c in columns_of(texts)} == {"ZSTD"}


def columns_of(file):
    (group,) = groups(file)
    return [group.column(i) for i in range(group.num_columns)]
