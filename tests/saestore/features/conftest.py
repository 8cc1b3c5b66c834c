"""Two small lakes: one planted, one with nothing in it."""

import pytest

from saestore.lake import Lake
from saestore.testing.analyses import planted_analysis
from saestore.testing.interpretations import Explained, interpretation_run


@pytest.fixture(scope="session")
def planted_lake(tmp_path_factory):
    """A lake with one planted analysis, and a run that explains some of its features."""
    lake = Lake.at(tmp_path_factory.mktemp("planted") / "it's a lake")
    planted_analysis(lake)
    explained = [Explained(4, "articles", scores={"detection": 0.9}), Explained(5, None)]
    interpretation_run(lake, "planted/relu/default", "first", explained)
    return lake


@pytest.fixture
def empty_lake(tmp_path):
    """A lake that does not exist yet."""
    return Lake.at(tmp_path / "nothing")
