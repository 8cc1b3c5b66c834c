"""Rows of a table by its key, against all of its rows filtered."""

import polars as pl
import pyarrow.parquet as pq
import pytest

from saestore.features import Analysis


@pytest.fixture(scope="module")
def analysis(planted_lake):
    return Analysis.open(planted_lake, "planted/relu")


def stored(analysis, table):
    """Return the whole table as any reader of Parquet sees it."""
    folder = analysis.lake.artefact(analysis.ref).path(table)
    return pq.read_table(sorted(folder.glob("*.parquet")))


@pytest.mark.parametrize(
    ("table", "key"), [("contexts", "context"), ("examples", "feature"), ("logit_stats", "feature")]
)
@pytest.mark.parametrize("step", [1, 2, 3, 1000])
def test_scattered_rows_are_those_of_the_table(analysis, table, key, step):
    if table not in analysis.tables:
        table = "histograms"
    whole = stored(analysis, table)
    last = whole[key].to_pylist()[-1]
    values = range(1, last + 2, step)
    found = analysis.stored.readers[table].rows(key, values)
    assert found.schema.equals(whole.schema)
    wanted = set(values)
    assert found.to_pylist() == [line for line in whole.to_pylist() if line[key] in wanted]


def test_columns_are_those_asked_for(analysis):
    reader = analysis.stored.readers["examples"]
    columns = ["subsample", "context"]
    some = reader.rows("feature", [2, 4], columns)
    assert some.column_names == columns
    assert some.equals(reader.rows("feature", [2, 4]).select(columns).combine_chunks())
    nothing = reader.rows("feature", [10**6], columns)
    assert nothing.num_rows == 0
    assert nothing.schema.equals(some.schema)
    assert pl.from_arrow(reader.whole(columns)).equals(
        pl.from_arrow(stored(analysis, "examples").select(columns))
    )
