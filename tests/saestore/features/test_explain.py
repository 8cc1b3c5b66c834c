"""Law S8: a question about one feature or one context reads few row groups of many."""

import pyarrow.parquet as pq
import pytest

from saestore.errors import QueryError
from saestore.features import Limits, explain, explain_named, parquet
from saestore.lake import Lake
from saestore.testing.analyses import plant, planted_analysis


@pytest.fixture(scope="module")
def cut_lake(tmp_path_factory):
    """A planted analysis whose firings lie in many small row groups."""
    lake = Lake.at(tmp_path_factory.mktemp("cut") / "it's, a lake")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "FIRINGS_GROUP", 32)
        planted_analysis(lake, planted=plant(contexts=120))
    return lake


def groups(lake, table, column, value):
    """Return how many row groups a table has, and how many may hold a value, by its footers."""
    folder = lake.storage.path(f"features/planted/relu/default/{table}")
    bounds = []
    for part in sorted(folder.glob("part-*.parquet")):
        file = pq.ParquetFile(part)
        at = file.schema_arrow.get_field_index(column)
        for group in range(file.metadata.num_row_groups):
            found = file.metadata.row_group(group).column(at).statistics
            bounds.append((found.min, found.max))
    return len(bounds), sum(low <= value <= high for low, high in bounds)


@pytest.mark.parametrize("feature", [1, 3, 5, 8])
def test_one_feature_reads_the_row_groups_that_may_hold_it(cut_lake, feature):
    every, needed = groups(cut_lake, "firings_by_feature", "feature", feature)
    found = explain(
        cut_lake,
        "SELECT value FROM firings WHERE feature = $f",
        {"f": feature},
        limits=Limits(threads=1),
    )
    scan = {each.table: each for each in found.scans}["firings_by_feature"]
    assert (scan.of, scan.row_groups) == ("features/planted/relu/default", every)
    assert scan.row_groups_read == needed
    assert needed < every / 2
    assert f"feature = {feature}" in scan.filters
    assert scan.rows == found.plan.rows


def test_a_feature_that_never_fires_reads_nothing(cut_lake):
    found = explain(cut_lake, "SELECT value FROM firings_by_context WHERE feature = 0")
    assert found.plan.rows == sum(each.row_groups_read for each in found.scans) == 0


def test_a_context_reads_few_row_groups_of_the_other_order(cut_lake):
    every, needed = groups(cut_lake, "firings_by_context", "context", 7)
    found = explain_named(cut_lake, "features_of_context", {"context": 7})
    (scan,) = found.scans
    assert (scan.table, scan.row_groups, scan.row_groups_read) == (
        "firings_by_context",
        every,
        needed,
    )
    assert found.bytes_read > 0
    whole = explain(cut_lake, "SELECT sum(value) FROM firings_by_context")
    assert whole.scans[0].row_groups_read == every


def test_a_named_query_has_a_plan_with_all_its_tables(cut_lake):
    found = explain_named(cut_lake, "coactive", {"feature": 4})
    assert found.plan.name == "TOP_N"
    assert {each.table for each in found.scans} >= {"features", "firings_by_feature"}


def test_only_what_reads_is_explained(cut_lake):
    with pytest.raises(QueryError, match="COPY is not a question"):
        explain(cut_lake, "COPY (SELECT 1) TO 'x.csv'")
    with pytest.raises(QueryError, match="nope"):
        explain(cut_lake, "SELECT nope FROM features")
