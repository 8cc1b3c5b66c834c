"""Pytest fixtures: tiny models and the tiny corpus, made once in a session.

Loaded by a conftest through `pytest_plugins = ["saestore.testing.fixtures"]`.
"""

from collections.abc import Callable
from pathlib import Path

import pytest


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
