"""Explanations in the index: a run that comes or goes is noticed, and what is shown is what the lake says."""

import pytest

from saestore.errors import IndexUnavailableError
from saestore.features import Analysis, FeatureTable, Filter, ListingQuery
from saestore.lake import Ref, layout
from saestore.testing.interpretations import Explained, interpretation_run
from tests.saestore.index.conftest import ANALYSIS, content


pytestmark = pytest.mark.serve

EXPLAINED = [
    Explained(4, "articles and determiners", scores={"detection": 0.9, "fuzzing": 0.7}),
    Explained(4, "says a number", "top", {"detection": 0.6}),
    Explained(5, None),
    Explained(6, "numbers", scores={"detection": None}),
]


def first(lake):
    return interpretation_run(lake, ANALYSIS, "first", EXPLAINED)


def states(index):
    return {each.path: each.state for each in index.status().artefacts}


def test_pages_and_lists_are_those_of_the_lake(own_lake, open_index):
    first(own_lake)
    interpretation_run(
        own_lake, ANALYSIS, "again", [Explained(4, "the", scores={"detection": 1.0})]
    )
    index, analysis = open_index(own_lake), Analysis.open(own_lake, ANALYSIS)
    index.sync()
    held, table = index.analysis(analysis), FeatureTable(analysis)
    n = analysis.n_features
    assert [*held.pages(range(n))] == [*analysis.pages(range(n))]
    assert [len(page.explanations) for page in held.pages([3, 4, 5])] == [0, 3, 1]
    for query in (
        ListingQuery(sort="explanation_score", descending=True),
        ListingQuery(sort="explanation_score", offset=1, limit=3),
        ListingQuery(filters=(Filter.parse("explanation_score>0.5"),)),
        ListingQuery(search="number"),
        ListingQuery(search="determ arti"),
    ):
        assert held.listing(query) == table.listing(query)
        assert held.listing(query).total
    (found,) = index.database["features"].find({"$text": {"$search": "the"}})
    assert (found["feature"], found["explanation_score"]) == (4, 1.0)
    assert [each["text"] for each in found["explanations"]["interpretations"]][-1] == "the"


def test_a_run_that_comes_or_goes_is_noticed_and_only_lines_are_written_again(own_lake, open_index):
    index, path = open_index(own_lake), Ref("features", ANALYSIS).path
    index.sync()
    before, pages = content(index), sorted(name for c, name in content(index) if c == "pages")
    ref = first(own_lake)
    assert states(index)[path] == "behind"
    assert states(index)[ref.path] == "missing"
    with pytest.raises(IndexUnavailableError, match="does not hold features/planted"):
        index.analysis(Analysis.open(own_lake, ANALYSIS))
    assert any("listed differ" in line for line in index.verify())
    done = index.sync()
    assert sorted(done.written) == sorted([path, ref.path])
    assert (done.features, done.orphans) == (11, 11)  # the lines; pages stay
    assert sorted(name for c, name in content(index) if c == "pages") == pages
    assert index.status().current
    assert index.verify() == []
    assert index.analysis(Analysis.open(own_lake, ANALYSIS)).feature(4).explanation is not None

    own_lake.artefact(ref).remove()
    assert not index.status().current
    done = index.sync()
    assert done.removed == [ref.path]
    assert content(index) == before
    assert index.verify() == []


def test_verify_compares_explanations(own_lake, open_index):
    first(own_lake)
    index = open_index(own_lake)
    index.sync()
    features = index.database["features"]
    features.update_one({"feature": 4}, {"$set": {"explanations.interpretations.0.text": "other"}})
    features.update_one({"feature": 6}, {"$set": {"explanation_score": 0.5}})
    assert [line.partition(": features: ")[2] for line in index.verify()] == [
        "4: explanations differ from the lake's",
        "6: explanation_score differ from the lake's",
    ]


@pytest.mark.parametrize("file", [layout.MANIFEST, "interpretations/part-00000.parquet"])
def test_a_run_that_cannot_be_read_is_told_and_everything_else_is_indexed(
    own_lake, open_index, file
):
    whole = first(own_lake)
    ref = interpretation_run(own_lake, ANALYSIS, "again", [Explained(4, "the")])
    index = open_index(own_lake)
    own_lake.artefact(ref).write(file, b"{}")
    done = index.sync()
    path = Ref("features", ANALYSIS).path
    assert list(done.unreadable) == [ref.path]
    assert {path, whole.path} <= {*done.written}
    assert list(index.status().unreadable) == [ref.path]
    (line,) = index.verify()
    assert ref.path in line
    analysis = Analysis.open(own_lake, ANALYSIS)
    page = index.analysis(analysis).feature(4)
    assert page == analysis.feature(4)
    assert list(page.unreadable) == [ref.path]
    assert {each.run for each in page.explanations} == {"first"}
