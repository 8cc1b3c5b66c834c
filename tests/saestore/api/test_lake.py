import shutil

import pyarrow as pa
import pytest

import saestore
from saestore.api import config, demo
from saestore.errors import (
    ArtefactBusyError,
    ArtefactExistsError,
    ArtefactNotFoundError,
    UnsupportedError,
)
from saestore.lake import Ref
from saestore.lake.lock import writing
from saestore.testing.lakes import small_lake, small_plan


@pytest.fixture(scope="module")
def plan(tiny_llama, tiny_jsonl):
    return small_plan(tiny_llama, tiny_jsonl)


@pytest.fixture(scope="module")
def lake(tmp_path_factory, plan):
    return small_lake(tmp_path_factory.mktemp("api") / "lake", plan)


def test_the_four_stages_leave_four_artefacts(lake, plan):
    assert [r.ref for r in lake.ls()] == [
        Ref("activations", "demo"),
        Ref("dictionary", "demo/topk-32"),
        Ref("features", "demo/topk-32/default"),
        Ref("evaluation", "demo/topk-32/default"),
    ]
    assert lake.activations("demo").n_rows == plan.generate.tokens
    sae = lake.dictionary("demo/topk-32")
    analysis = lake.analysis("demo/topk-32")
    assert analysis.n_features == sae.d_sae
    answer = lake.sql("SELECT sum(n_firings) AS n FROM features")
    assert isinstance(answer, pa.Table)
    firings = lake.polars("firings_by_feature", "demo/topk-32").collect()
    assert answer.to_pylist() == [{"n": firings.height}]
    assert lake.duckdb().sql("SELECT count(*) FROM firings").fetchall() == [(firings.height,)]


def test_running_again_does_nothing_and_other_settings_are_refused(lake, plan):
    before = {r.ref: r.manifest.created for r in lake.ls()}
    lake.generate(plan.generate)
    lake.train(plan.train)
    lake.evaluate(plan.evaluate)
    lake.analyze(plan.analyze)
    assert {r.ref: r.manifest.created for r in lake.ls()} == before
    with pytest.raises(ArtefactExistsError, match=r"dtype"):
        lake.generate(plan.generate.model_copy(update={"dtype": "float32"}))


def test_everything_verifies_and_damage_is_named(lake, tmp_path):
    for remark in lake.ls():
        assert lake.verify(remark.ref.path) == []
        assert lake.verify(remark.ref.path, quick=True) == []
    copy = saestore.open_lake(shutil.copytree(lake.lake.storage.url, tmp_path / "copy"))
    for remark in copy.ls():
        artefact = copy.lake.artefact(remark.ref)
        victim = next(p for p in artefact.files() if p not in {"manifest.json", "files.parquet"})
        data = bytearray(artefact.read(victim))
        data[len(data) // 2] ^= 4
        artefact.write(victim, bytes(data))
        assert any(line.startswith(victim) for line in copy.verify(remark.ref.path))


def test_lineage_runs_from_features_to_activations(lake):
    node = lake.lineage("features/demo/topk-32/default")
    assert [p.ref for p in node.parents] == [
        Ref("dictionary", "demo/topk-32"),
        Ref("activations", "demo"),
    ]
    assert Ref("dictionary", "demo/topk-32") in lake.children("activations/demo")


def test_parents_cannot_be_removed_before_their_children(lake, tmp_path):
    copy = saestore.open_lake(shutil.copytree(lake.lake.storage.url, tmp_path / "copy"))
    with pytest.raises(UnsupportedError, match="has children: dictionaries/demo/topk-32"):
        copy.remove("activations/demo")
    copy.remove("features/demo/topk-32/default")
    copy.remove("evaluations/demo/topk-32/default")
    copy.remove("demo/topk-32")
    copy.remove("demo")
    assert copy.ls() == []
    with pytest.raises(ArtefactNotFoundError):
        copy.remove("demo")


def test_what_is_being_written_is_not_removed(lake, tmp_path):
    copy = saestore.open_lake(shutil.copytree(lake.lake.storage.url, tmp_path / "copy"))
    ref = Ref("features", "demo/topk-32/default")
    with writing(copy.lake.artefact(ref), name=ref.name), pytest.raises(ArtefactBusyError):
        copy.remove(ref.path)
    assert ref in copy.lake.refs()
    copy.remove(ref.path)
    assert ref not in copy.lake.refs()


def test_the_demos_configs_are_the_settings_it_ran(lake, plan):
    for verb, settings in plan.stages().items():
        path = lake.lake.storage.join(f"{demo.CONFIGS}/{verb}.toml")
        assert config.load_settings(verb, path) == settings


def test_the_demo_shows_what_its_queries_find(lake, plan, monkeypatch, tiny_llama, tiny_jsonl):
    monkeypatch.setattr(demo, "plan", lambda **_: plan)
    result = demo.run(lake, model=str(tiny_llama), corpus=str(tiny_jsonl))
    assert result.scores["l0"] == pytest.approx(plan.train.dictionary.activation.k, abs=1e-6)
    assert result.answer.column_names == ["token", "features", "share", "density"]
    assert len(result.features) <= 3
    assert all("--lake" in command for _, command in result.commands)


@pytest.mark.parametrize(
    "kind", ["gpt2", *(pytest.param(each, marks=pytest.mark.slow) for each in ("neox", "qwen2"))]
)
def test_every_architecture_goes_all_the_way(kind, tiny_models, tiny_jsonl, tmp_path):
    plan = small_plan(tiny_models(kind), tiny_jsonl, tokens=1500)
    lake = small_lake(tmp_path / "lake", plan)
    (answer,) = lake.sql("SELECT count(*) AS n, sum(n_firings) AS s FROM features").to_pylist()
    assert answer["n"] == lake.dictionary("demo/topk-32").d_sae
    assert answer["s"] > 0


def test_threads_are_a_machine_fact(lake, plan, monkeypatch):
    import torch

    monkeypatch.setenv("SAESTORE_THREADS", "1")
    before = torch.get_num_threads()
    try:
        saestore.open_lake(lake.lake.storage.url).generate(plan.generate)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
