import numpy as np
import pytest

from saestore import analyze
from saestore.errors import (
    ArtefactBusyError,
    ArtefactExistsError,
    ArtefactNotFoundError,
    ConfigError,
    OverflowRowError,
)
from saestore.features import Analysis, run_named
from saestore.lake import Lake, Ref, layout, manifest as manifests
from saestore.lake.lock import writing
from saestore.progress import Recorder
from saestore.testing.analyses import DICTIONARY, plant, planted_analysis, synthetic_dictionary
from saestore.testing.stores import synthetic_store
from saestore_schemas.analyze import AnalyzeSettings, LogitSettings, TopSubsample
from saestore_schemas.dictionary import TopK


PLAIN = AnalyzeSettings(dictionary=DICTIONARY, logits=None)


@pytest.fixture
def lake(tmp_path):
    """A lake with one planted analysis of its own."""
    lake = Lake.at(tmp_path)
    planted_analysis(lake)
    return lake


def stamps(lake, ref):
    folder = lake.artefact(ref).path()
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_a_second_run_does_nothing(lake):
    ref = Ref("features", f"{DICTIONARY}/default")
    before = stamps(lake, ref)
    assert analyze.run(PLAIN, lake, device="cpu") == ref
    assert analyze.run(PLAIN.model_copy(update={"memory_mib": 99}), lake, device="cpu") == ref
    assert stamps(lake, ref) == before


def test_other_settings_under_the_same_name_are_refused(lake):
    with pytest.raises(ArtefactExistsError, match="seed: 0 → 5"):
        analyze.run(PLAIN.model_copy(update={"seed": 5}), lake, device="cpu")


def test_the_manifest_tells_what_was_done(lake):
    ref = Ref("features", f"{DICTIONARY}/default")
    manifest = lake.manifest(ref)
    planted = plant()
    assert manifest.counts == {
        "rows": planted.kept.sum(),
        "contexts": 40,
        "features": 9,
        "firings": (planted.values > 0).sum(),
        "dead": 1,
    }
    assert {p.kind for p in manifest.parents} == {"dictionary", "activations"}
    assert manifest.arrays["features"].shape == (9, 38)
    assert manifest.facts["semantics"]["activation"] == {"kind": "relu"}
    assert manifest.facts["coactivation"] == {"contexts": 40, "rows": planted.kept.sum()}
    assert manifests.damage(lake.artefact(ref), manifest) == []
    assert lake.artefact(ref).names(layout.PROGRESS) == []


def test_what_is_not_asked_for_is_not_written(tmp_path):
    lake = Lake.at(tmp_path)
    less = PLAIN.model_copy(update=dict.fromkeys(("token_stats", "coactivation", "neighbours")))
    ref, _ = planted_analysis(lake, settings=less)
    manifest = lake.manifest(ref)
    assert not set(manifest.arrays) & {"token_stats", "coactivation", "neighbours"}
    assert "coactivation" not in manifest.facts


def test_what_a_killed_run_left_is_cleared(tmp_path):
    lake = Lake.at(tmp_path)
    other = PLAIN.model_copy(update={"name": "other"})
    planted_analysis(lake, settings=other)
    artefact = lake.artefact(Ref("features", f"{DICTIONARY}/default"))
    artefact.write("features/part-00007.parquet", b"left over")
    artefact.write(f"{layout.PROGRESS}/runs/run-00000", b"left over")
    ref = analyze.run(PLAIN, lake, device="cpu")
    assert manifests.damage(lake.artefact(ref), lake.manifest(ref)) == []
    assert not artefact.exists("features/part-00007.parquet")


def test_progress_counts_rows_and_firings(tmp_path):
    lake = Lake.at(tmp_path)
    recorder = Recorder()
    planted_analysis(lake, settings=PLAIN.model_copy(update={"name": "first"}))
    analyze.run(PLAIN, lake, device="cpu", progress=recorder)
    encode, compare, sort, count = recorder.tasks
    assert sort["advanced"] == 270
    assert (encode["label"], encode["total"], encode["unit"]) == ("encode", 270, "rows")
    assert encode["advanced"] == 270
    assert count["advanced"] == count["total"] == (plant().values > 0).sum()
    assert (compare["label"], compare["advanced"], compare["unit"]) == ("neighbours", 9, "features")
    assert any("logits = null" in note for note in recorder.notes)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"dictionary": "planted/rely"}, ArtefactNotFoundError, "planted/rely"),
        ({"activations": "nothing"}, ArtefactNotFoundError, "nothing"),
        ({"rows": 10**6, "name": "new"}, ConfigError, "rows: found 1000000; expected at most 270"),
        ({"logits": LogitSettings(lm="./gone"), "name": "new"}, ConfigError, "found './gone'"),
    ],
)
def test_mistakes_are_named(lake, change, error, message):
    with pytest.raises(error, match=message) as caught:
        analyze.run(PLAIN.model_copy(update=change), lake, device="cpu")
    assert caught.value.hint


def test_float16_overflow_leaves_no_artefact(tmp_path):
    lake = Lake.at(tmp_path)
    planted = plant()
    planted.values[planted.kept.argmax(), 4] = 1e5
    half = PLAIN.model_copy(update={"value_dtype": "float16"})
    with pytest.raises(OverflowRowError, match="65504") as caught:
        planted_analysis(lake, planted=planted, settings=half)
    assert "float32" in caught.value.hint
    assert lake.refs("features") == []


def test_a_second_writer_is_refused(tmp_path):
    lake = Lake.at(tmp_path)
    planted_analysis(lake, settings=PLAIN.model_copy(update={"name": "first"}))
    ref = Ref("features", f"{DICTIONARY}/default")
    with writing(lake.artefact(ref), name=ref.name), pytest.raises(ArtefactBusyError):
        analyze.run(PLAIN, lake, device="cpu")


def test_ignored_tokens_neither_fire_nor_count(lake):
    settings = PLAIN.model_copy(update={"name": "fewer", "ignore_tokens": (3,)})
    ref = analyze.run(settings, lake, device="cpu")
    analysis = Analysis.open(lake, ref.name)
    planted = plant()
    kept = planted.kept & (planted.tokens != 3)
    assert analysis.manifest.counts["rows"] == kept.sum()
    assert analysis.manifest.counts["firings"] == (planted.values[kept] > 0).sum()


def test_a_topk_dictionary_fires_at_most_k_times_a_row_and_reconstructs(tmp_path):
    """S4: what is stored decodes to what the dictionary reconstructs."""
    from saestore import dictionaries

    lake = Lake.at(tmp_path)
    store = synthetic_store(lake, rows=300, width=7)
    synthetic_dictionary(lake, "s/topk", store, activation=TopK(k=3), d_sae=20)
    settings = AnalyzeSettings(
        dictionary="s/topk", logits=None, subsamples={"top": TopSubsample(n=2)}
    )
    ref = analyze.run(settings, lake, device="cpu")
    analysis = Analysis.open(lake, ref.name)
    firings = analysis.sql("SELECT row, feature, value FROM firings").to_pylist()
    dense = np.zeros((300, 20), np.float32)
    for line in firings:
        dense[line["row"], line["feature"]] = line["value"]
    kept = store.flags() == 0
    assert ((dense[kept] > 0).sum(axis=1) <= 3).all()
    assert not dense[~kept].any()
    folded = dictionaries.load(lake, "s/topk").folded()
    hook = folded.hookpoints_in[0]
    import torch

    rows = torch.from_numpy(store.read(hook, 0, 300))
    expected = folded.reconstruct(rows)[hook].numpy()[kept]
    code = dictionaries.SparseCode.from_dense(torch.from_numpy(dense))
    found = folded.decode(code)[hook].numpy()[kept]
    assert np.allclose(found, expected, rtol=1e-6, atol=1e-5)
    assert run_named(lake, "dead", {}).to_pylist()[0]["features"] == 20


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"coactivation": None}, "coactivation.top_k is not asked for"),
        ({"coactivation": {"top_k": 9}}, "coactivation.top_k keeps 9"),
        ({"neighbours": None}, "neighbours.top_k with method dec_cos is not asked for"),
        ({"neighbours": {"methods": ("enc_cos",)}}, "dec_cos is not asked for"),
    ],
)
def test_near_is_refused_without_the_tables_it_is_near_by(changes, said):
    given = {"dictionary": "a/b", "subsamples": {"hard": {"kind": "near"}}, **changes}
    with pytest.raises(ValueError, match=f"subsamples.hard is near the first 10.*{said}"):
        AnalyzeSettings.model_validate(given)
    missing = "coactivation" if "coactivation" in changes else "dec_cos"
    other = "dec_cos" if missing == "coactivation" else "coactivation"
    given["subsamples"] = {"hard": {"kind": "near", "by": [other]}}
    assert AnalyzeSettings.model_validate(given).subsamples["hard"].by == (other,)


def test_logits_come_from_the_store_s_model(tmp_path, tiny_gpt2, tiny_jsonl):
    import saestore
    from saestore.testing.lakes import small_lake, small_plan

    plan = small_plan(tiny_gpt2, tiny_jsonl, tokens=600)
    opened = small_lake(tmp_path / "lake", plan)
    analysis = opened.analysis(plan.analyze.dictionary)
    page = analysis.feature(3)
    (table,) = page.logits
    assert table.score == "direction"
    assert len(table.promoted) == len(table.suppressed) == plan.analyze.logits.top_k
    values = [t.value for t in table.promoted]
    assert values == sorted(values, reverse=True)
    assert table.statistics["max"] == values[0]
    drawn = page.histograms["logit:direction"]
    assert (drawn.lo, drawn.hi) == (table.statistics["min"], values[0])
    assert sum(drawn.counts) == len(analysis.lazy("vocabulary").collect())
    vocabulary = analysis.lazy("vocabulary").collect()
    assert max(t.token_id for t in table.promoted) < len(vocabulary)
    assert table.promoted[0].token == vocabulary["token"][table.promoted[0].token_id]
    found = analysis.sql("SELECT token FROM logits WHERE feature = 3 AND sign = 1 ORDER BY rank")
    assert found["token"].to_pylist() == [t.token for t in table.promoted]
    assert saestore.open_lake(tmp_path / "lake").verify(analysis.ref.path) == []
