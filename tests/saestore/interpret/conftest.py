"""A planted analysis with enough contexts that every part has some of every feature."""

import pytest

from saestore.features import Analysis
from saestore.interpret.places import Material
from saestore.lake import Lake
from saestore.testing.analyses import plant, planted_analysis
from saestore.testing.asking import Bench
from saestore.testing.llm import llm_server, says


@pytest.fixture(scope="session")
def known():
    return plant(seed=3, contexts=300, d_sae=11)


@pytest.fixture(scope="session")
def analysis(tmp_path_factory, known):
    lake = Lake.at(tmp_path_factory.mktemp("interpreted"))
    ref, _ = planted_analysis(lake, planted=known)
    return Analysis.open(lake, ref.name)


@pytest.fixture(scope="session")
def draws(analysis):
    """What draws the places of every feature, by feature."""
    material = Material(analysis, seed=5)
    return {d.page.feature: d for d in material.draws(range(analysis.n_features))}


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    """Neither key nor proxy of whoever runs the tests."""
    for name in ("SAESTORE_LLM_KEY", "OPENAI_API_KEY", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def bench(tmp_path):
    """A run beside a server that says yes; its persona may be changed."""
    with llm_server(says("yes")) as server:
        yield Bench(tmp_path, server)
