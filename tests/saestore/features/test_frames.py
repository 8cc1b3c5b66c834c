import polars as pl
import pytest

from saestore.errors import ArtefactNotFoundError, QueryError
from saestore.features import query, views
from saestore.features.frames import STORED, scan


@pytest.mark.parametrize("table", STORED)
def test_a_frame_has_what_sql_says(planted_lake, empty_lake, table):
    view = {stored.name: name for name, stored in views.VIEW_TABLES.items()}.get(table, table)
    frame = scan(planted_lake, table)
    names = frame.collect_schema().names()
    said = pl.DataFrame(query(planted_lake, f"SELECT {', '.join(names)} FROM {view}"))
    found = frame.collect()
    assert names[:3] == list(views.KEYS)
    assert found.height == said.height
    keys = [key.split()[0] for key in STORED[table].sort]
    assert found.sort(*keys).equals(said.sort(*keys))
    none = scan(empty_lake, table).collect()
    assert none.height == 0
    assert set(none.columns) <= set(names)


def test_one_analysis_and_mistakes(planted_lake):
    asked = scan(planted_lake, "features", analysis="planted/relu").filter(pl.col("feature") == 3)
    assert asked.select("analysis", "n_firings").collect().rows() == [("default", 1)]
    with pytest.raises(QueryError) as misspelt:
        scan(planted_lake, "feature")
    assert "features" in misspelt.value.hint
    with pytest.raises(ArtefactNotFoundError):
        scan(planted_lake, "features", analysis="planted/rela")
