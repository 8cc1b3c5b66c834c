"""The demo's lake, as a server has it."""

import shutil
from contextlib import ExitStack

import pytest
from starlette.testclient import TestClient

import saestore
from saestore.server import create_app
from saestore_schemas.server import ServerSettings


NAME = "demo/topk-32/default"
API = "/api/v1"
ANALYSIS = f"{API}/analyses/{NAME}"


@pytest.fixture(scope="session")
def own_lake(demo_lake_folder, tmp_path_factory):
    """A lake of these tests, as it is written to."""
    folder = tmp_path_factory.mktemp("served") / "lake"
    shutil.copytree(demo_lake_folder / "demo-lake", folder)
    return saestore.open_lake(folder, device="cpu")


@pytest.fixture(scope="session")
def client_of(own_lake):
    """A function from settings of the server to a client of it, on this machine.

    Each has one event loop to its end: processes that answer SQL end with theirs.
    """
    with ExitStack() as open_clients:

        def client(*, live=None, host="localhost", **settings):
            app = create_app(own_lake.lake, ServerSettings(**settings), live=live)
            made = TestClient(app, base_url=f"http://{host}", follow_redirects=False)
            return open_clients.enter_context(made)

        yield client


@pytest.fixture(scope="session")
def client(client_of):
    """A client of a server as it is by default."""
    return client_of()
