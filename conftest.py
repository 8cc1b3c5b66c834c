"""Shared by all tests: tiny models, no network beyond loopback, and examples in docs as tests.

Every Python block of the Markdown pages and every `>>>` of the library runs.

Types and shapes of annotated calls are checked, which takes as long as all else together: so only in
the first half second of each test, unless somebody wants `--types all`.
"""

import ipaddress
import os
import signal
import socket
import threading

import hypothesis
import jaxtyping
import pytest
import torch
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser
from sybil.parsers.rest import DocTestParser


os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if not torch.cuda.is_available():  # Triton decides when it is imported: no device, so interpret
    os.environ.setdefault("TRITON_INTERPRET", "1")

# What a shell runs in the background ignores Ctrl-C, and tests of it would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is no failure of what is tested.
hypothesis.settings.register_profile("saestore", deadline=None)
hypothesis.settings.load_profile("saestore")

pytest_plugins = ["saestore.testing.fixtures"]

_TYPES_SECONDS = 0.5


def pytest_addoption(parser):
    """Let somebody have all types checked."""
    parser.addoption("--types", choices=["some", "all"], default="some")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Check types in the beginning of a test, fixtures included."""
    jaxtyping.config.update("jaxtyping_disable", "0")
    enough = threading.Timer(_TYPES_SECONDS, jaxtyping.config.update, ["jaxtyping_disable", True])
    if item.config.getoption("types") == "some":
        enough.start()
    result = yield
    enough.cancel()
    return result


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch):
    """Refuse connections that leave this machine: the suite passes without network."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family in {socket.AF_INET, socket.AF_INET6}:
            host = address[0]
            local = host == "localhost" or (
                host.replace(".", "").replace(":", "").isalnum() and _is_loopback(host)
            )
            if not local:
                msg = f"a test tried to reach {host}: tests use loopback only"
                raise AssertionError(msg)
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


def _is_loopback(host):
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session")
def demo_lake_folder(tmp_path_factory, tiny_llama, tiny_jsonl):
    """A folder with `demo-lake` as the demo leaves it, made with a tiny model."""
    from saestore.testing.lakes import small_lake, small_plan

    folder = tmp_path_factory.mktemp("docs")
    small_lake(folder / "demo-lake", small_plan(tiny_llama, tiny_jsonl))
    return folder


@pytest.fixture
def demo_folder(demo_lake_folder, monkeypatch):
    """Work where the pages' examples do: beside `demo-lake`."""
    monkeypatch.chdir(demo_lake_folder)
    return demo_lake_folder


pytest_collect_file = (
    Sybil(
        parsers=[SkipParser(), PythonCodeBlockParser()],
        patterns=["README.md", "docs/*.md", "docs/*/*.md"],
        fixtures=["demo_folder"],
    )
    + Sybil(
        parsers=[DocTestParser()],
        patterns=[
            "saestore/*.py",
            "saestore/*/*.py",
            "saestore/*/*/*.py",
            "cli/*/*.py",
            "cli/*/*/*.py",
            "schemas/*/*.py",
        ],
    )
).pytest()
