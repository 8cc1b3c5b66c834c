"""Running commands in this process, and a lake in which every stage has run."""

from dataclasses import dataclass

import pytest

from saestore_cli.main import main


@dataclass
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys, monkeypatch):
    """A function that runs `saestore WORDS` and returns exit code, stdout and stderr."""
    for name in ("SAESTORE_LAKE", "SAESTORE_OUTPUT", "SAESTORE_DEVICE", "COLUMNS", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)

    def call(*words):
        capsys.readouterr()
        code = main([str(word) for word in words])
        seen = capsys.readouterr()
        return Done(code, seen.out, seen.err)

    return call


@pytest.fixture(scope="session")
def lake_path(demo_lake_folder):
    """The small lake. Tests do not change it."""
    return demo_lake_folder / "demo-lake"


@pytest.fixture
def empty(tmp_path):
    return tmp_path / "empty"
