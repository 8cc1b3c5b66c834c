"""Two small lakes: one planted, one with nothing in it."""

import pytest

from saestore.lake import Lake
from saestore.testing.analyses import planted_analysis


@pytest.fixture(scope="session")
def planted_lake(tmp_path_factory):
    """A lake with one planted analysis."""
    lake = Lake.at(tmp_path_factory.mktemp("planted") / "it's a lake")
    planted_analysis(lake)
    return lake


@pytest.fixture
def empty_lake(tmp_path):
    """A lake that does not exist yet."""
    return Lake.at(tmp_path / "nothing")
