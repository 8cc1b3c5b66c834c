"""`saestore import TOOL` and `saestore export TOOL`, right and wrong."""

import json
import shutil
from pathlib import Path

import pytest

from saestore_cli.commands.dictionaries import TOOLS


WRITTEN = Path(__file__).parents[1] / "agreement" / "dictionaries"
LLAMASCOPIUM = WRITTEN / "llamascopium"


@pytest.fixture
def lake(tmp_path):
    return tmp_path / "lake"


def test_import_show_export_import_and_verify(run, lake, tmp_path):
    path = WRITTEN / "dictionary-learning" / "GatedAutoEncoder"
    done = run("import", "dictionary-learning", path, "dl/gated", "--lake", lake)
    assert done.code == 0, done.err
    assert "dictionaries/dl/gated" in done.out
    assert "largest relative difference" in done.out
    assert "blocks.1.hook_resid_post, 7 wide, 11 features" in done.out
    again = run("import", "dictionary-learning", path, "dl/gated", "--lake", lake)
    assert (again.code, "imported already" in again.out) == (0, True)
    shown = run("show", "dl/gated", "--lake", lake)
    assert shown.code == 0, shown.err
    assert "gated" in shown.out
    assert "imported" in shown.out
    assert run("verify", "dl/gated", "--lake", lake).code == 0
    out = run("export", "sae-lens", "dl/gated", tmp_path / "out", "--lake", lake)
    assert out.code == 0, out.err
    assert "gated" in out.out
    back = run("import", "sae-lens", tmp_path / "out", "x/y", "--lake", lake, "--output", "json")
    assert back.code == 0, back.err
    report = json.loads(back.out)
    assert report["max_error"] < 1e-9
    assert report["conversion"]["architecture"] == "gated"
    assert report["dictionary"] == "x/y"
    record = json.loads((lake / "dictionaries" / "x" / "y" / "config.json").read_text())["imported"]
    assert record["library"] == "SAELens, gated"
    assert record["version"] == "6.54.12"
    assert record["from"] == str(tmp_path / "out")


def test_a_fold_state_is_said_or_measured(run, lake):
    words = ["import", "llamascopium", LLAMASCOPIUM / "topk", "scope/1", "--lake", lake]
    asked = run(*words)
    assert asked.code == 2
    assert "--fold-state folded or external" in asked.err
    assert not (lake / "dictionaries").exists()
    done = run(*words, "--fold-state", "external", "--output", "json")
    assert done.code == 0, done.err
    assert "said by --fold-state" in " ".join(json.loads(done.out)["conversion"]["steps"])
    other = run(*words, "--fold-state", "folded")
    assert other.code == 1
    assert 'fold_state: "external" → "folded"' in other.err


def test_what_is_not_exact_needs_to_be_allowed(run, lake):
    words = ["import", "llamascopium", LLAMASCOPIUM / "batchtopk", "scope/1", "--lake", lake]
    refused = run(*words)
    assert refused.code == 1
    assert "without a threshold" in refused.err
    done = run(*words, "--approximate")
    assert done.code == 0, done.err
    assert "not exact" in done.out
    shown = run("show", "scope/1", "--lake", lake)
    assert "not exact" in shown.out


WRONG = [
    ("import sae-lens nowhere x/y", "there is no nowhere", ""),
    ("import sae-lens HERE x", "expected SERIES/NAME", "sae-lens/x"),
    ("import sae-lens HERE x/y", "has no cfg.json", "HERE"),
    ("import sparsify HERE/sparsify/run x/a:b", "name", ""),
    ("import gemma-scope HERE x/y", "no params.npz or params.safetensors", ""),
    ("import openai HERE x/y", "holds 0 .pt files", ""),
    (
        "import sae-lens HERE/sparsify/run/layers.1 x/y",
        "no sae_weights.safetensors",
        "layers.1 holds",
    ),
    ("export sparsify x/y out", "no dictionary named", ""),
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(WRITTEN / "sparsify", tmp_path / "HERE" / "sparsify")


@pytest.mark.parametrize(("line", "problem", "hint"), WRONG, ids=[line for line, *_ in WRONG])
def test_mistakes_are_named(run, lake, here, line, problem, hint):
    done = run(*line.split(), "--lake", lake)
    assert done.code != 0
    assert "Traceback" not in done.err
    said = " ".join(done.err.split())
    assert problem in said
    assert hint in said
    assert not (lake / "dictionaries").exists()


@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_has_help_with_an_example(run, tool):
    done = run("import", tool, "--help")
    assert done.code == 0
    assert f"saestore import {tool}" in " ".join(done.out.split())
    if TOOLS[tool].writes:
        assert f"saestore export {tool}" in " ".join(run("export", tool, "--help").out.split())
