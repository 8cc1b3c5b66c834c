"""A table of features from the index is the table from Parquet, whatever is asked."""

import math

import pytest
from hypothesis import given, settings, strategies as st

from saestore.features import Analysis, FeatureTable, Filter, ListingQuery
from saestore.features.listing import COLUMNS
from saestore.features.search import texts_of
from saestore.index import Index, Place
from saestore.testing.interpretations import Explained, interpretation_run
from tests.saestore.index.conftest import ANALYSIS


pytestmark = pytest.mark.serve


@pytest.fixture(scope="module")
def both(lake, mongo_server):
    explained = [
        Explained(feature, f"fives and tens {feature}", scores={"detection": score})
        for feature, score in ((2, 0.5), (4, 0.9), (5, 0.9), (7, None))
    ]
    run = interpretation_run(lake, ANALYSIS, "first", explained)
    analysis = Analysis.open(lake, ANALYSIS)
    with Index.at(Place(mongo_server.uri, "test-listing"), lake) as index:
        index.sync()
        yield FeatureTable(analysis), index.analysis(analysis)
        index.drop()
    lake.artefact(run).remove()


@st.composite
def queries(draw, table):
    column = st.sampled_from(COLUMNS)

    def condition():
        name = draw(column)
        seen = [*{value for value in table.values(name).tolist() if not math.isnan(value)}]
        value = draw(st.sampled_from([*seen, None, 0.0, -1e300]))
        ops = ("=", "!=") if value is None else ("=", "!=", "<", "<=", ">", ">=")
        return Filter(name, draw(st.sampled_from(ops)), value)

    # columns with equal and with undefined values, more often than others
    crowded = st.sampled_from(
        ("n_contexts", "density", "max", "top_token_id", "threshold", "layer", "explanation_score")
    )
    seen = [word[:2] for each in table.words.of_features(range(11)).values() for word in each]
    said = st.sampled_from([*seen, "prim", "ÜBER", "fives", "nothing-such", "the fi"])
    return ListingQuery(
        sort=draw(column | crowded),
        descending=draw(st.booleans()),
        filters=tuple(condition() for _ in range(draw(st.integers(0, 2)))),
        search=" ".join(draw(st.lists(said, max_size=2))),
        offset=draw(st.integers(0, 12)),
        limit=draw(st.integers(1, 12)),
    )


@settings(max_examples=120)
@given(data=st.data())
def test_a_stretch_is_that_of_the_lake(both, data):
    table, held = both
    query = data.draw(queries(table))
    assert held.listing(query) == table.listing(query, texts_of(held.analysis.annotations))


def test_every_order_is_read_from_an_index(both):
    _, held = both
    features = held.database["features"]
    for column in COLUMNS:
        where = {"$and": [{"version": held.listed}, {column: {"$gte": float("-inf")}}]}
        order = [("feature", 1)] if column == "feature" else [(column, 1), ("feature", 1)]
        for direction in (1, -1):
            turned = [(name, direction * each) for name, each in order]
            plan = str(features.find(where, sort=turned).explain()["queryPlanner"]["winningPlan"])
            assert "IXSCAN" in plan
            assert "'stage': 'SORT'" not in plan
