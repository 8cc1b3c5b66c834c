"""Pages from the index are those of the lake; what is not there is said, and where."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, strategies as st

from saestore.errors import ConfigError, FeatureNotFoundError, IndexUnavailableError
from saestore.features import Analysis
from saestore.index import Index, Place, layout
from saestore.index.database import Database
from saestore.index.record import distinct
from saestore.testing.records import differing_pages
from tests.saestore.index.conftest import ANALYSIS, SAID, told


def test_pages_from_records_are_those_of_the_tables(lake):
    assert differing_pages(Analysis.open(lake, ANALYSIS)) == []


@given(st.lists(st.integers(0, 9), max_size=30))
def test_different_numbers_come_in_the_order_they_first_stand_in(numbers):
    array = np.array(numbers, dtype=np.int32)
    found, places = distinct(array, np.full(10, -7))
    assert found.tolist() == list(dict.fromkeys(numbers))
    assert found[places].tolist() == numbers


@pytest.mark.serve
def test_a_page_is_the_same_from_the_index_and_says_what_people_said_since(own_lake, open_index):
    index, analysis = open_index(own_lake), Analysis.open(own_lake, ANALYSIS)
    index.sync()
    held = index.analysis(analysis)
    assert [held.feature(n) for n in range(11)] == [analysis.feature(n) for n in range(11)]
    assert {each.field for each in held.feature(1).annotations} == {*SAID[1]}
    some = list(held.pages([7, 2, 7], subsamples=["top"], related=False))
    assert some == list(analysis.pages([7, 2, 7], subsamples=["top"], related=False))
    analysis.annotations.say({2: {"name": "few values"}}, author="bob", source="python")
    assert held.feature(2) == analysis.feature(2)
    assert held.feature(2).annotations[0].value == "few values"
    with pytest.raises(FeatureNotFoundError):
        held.feature(11)
    index.database["pages"].delete_one({"_id": layout.feature_id(held.version, 3)})
    with pytest.raises(IndexUnavailableError, match="does not hold feature 3"):
        held.feature(3)
    index.drop()
    with pytest.raises(IndexUnavailableError, match="does not hold") as caught:
        index.analysis(analysis)
    assert caught.value.hint == "run `saestore index sync`"


def test_an_unreachable_server_is_said_without_the_password(lake):
    place = Place("mongodb://ada:hunter2@127.0.0.1:9/", "x")
    with Index.at(place, lake, wait_s=0.2) as index:
        with pytest.raises(IndexUnavailableError, match="cannot be reached") as caught:
            index.status()
        shown = f"{told(caught.value)} {index} {place}"
        assert "127.0.0.1:9" in shown
        assert "hunter2" not in shown


MALFORMED = {
    "mongodb://ada:hun/ter2@here/": "mongodb://here/x",
    "mongodb://ada:hunter2": "mongodb://?/x",
    "https://ada:hunter2@here/": "mongodb://?/x",
    "here:port": "mongodb://?/x",
    "mongodb://here/?replicaste=rs0": "mongodb://here/x",
    "mongodb://here:27017/?w=x&journal=perhaps": "mongodb://here:27017/x",
}


@pytest.mark.parametrize("uri", MALFORMED)
def test_a_malformed_connection_string_is_told_without_being_shown(uri):
    place = Place(uri, "x")
    assert place.label == MALFORMED[uri]
    with pytest.raises(ConfigError, match="SAESTORE_MONGO_URI") as caught:
        Database(place)
    assert "ter2" not in told(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a.b", "x" * 64])
def test_a_name_that_mongodb_does_not_take_is_refused(name):
    with pytest.raises(ConfigError, match="SAESTORE_MONGO_DB"):
        Database(Place("mongodb://here/", name))


def test_pages_compare_field_by_field(lake):
    """What the tests above rely on: pages are equal only if every field is."""
    page = Analysis.open(lake, ANALYSIS).feature(4)
    assert page != dataclasses.replace(page, n_layers=2)
