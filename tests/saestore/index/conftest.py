"""Planted analyses whose logs say something, and their index on a real mongod."""

import traceback

import pytest

from saestore.features import Analysis
from saestore.index import Index, Place, layout
from saestore.lake import Lake
from saestore.testing.analyses import plant, planted_analysis


ANALYSIS = "planted/relu/default"
SAID = {
    1: {"name": "everywhere", "tag": ["dense", "über"], "bookmark": True},
    4: {"interpretation": "fires on Primes, and on ﬁves", "notes": "line one\nline two"},
}


@pytest.fixture(autouse=True)
def few_together(monkeypatch):
    """Several chunks of few features."""
    monkeypatch.setattr(layout, "TOGETHER", 4)


def planted(folder, **more):
    made = Lake.at(folder)
    ref, _ = planted_analysis(made, planted=plant(contexts=24, d_sae=11), **more)
    Analysis.open(made, ref.name).annotations.say(SAID, author="ada", source="python")
    return made


@pytest.fixture(scope="session")
def lake(tmp_path_factory):
    """A lake that tests leave as it is."""
    return planted(tmp_path_factory.mktemp("indexed") / "it's a lake")


@pytest.fixture
def own_lake(tmp_path):
    """A lake that a test may change."""
    return planted(tmp_path / "lake")


@pytest.fixture
def open_index(mongo_server, mongo_database):
    """A function from a lake to its index in a database of this test."""
    opened = []

    def index(lake):
        opened.append(Index.at(Place(mongo_server.uri, mongo_database), lake))
        return opened[-1]

    yield index
    for each in opened:
        each.close()


def content(index):
    """Every document of an index, by collection and `_id`."""
    found = {}
    for name in index.database.database.list_collection_names():
        for document in index.database[name].find():
            found[name, document["_id"]] = document
    return found


def told(error):
    """All that a user ever sees of an error, with --debug too."""
    return "".join([*traceback.format_exception(error), error.hint])
