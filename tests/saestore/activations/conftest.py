import pytest

from saestore.testing.stores import scratch_lake


@pytest.fixture
def lake():
    with scratch_lake() as lake:
        yield lake
