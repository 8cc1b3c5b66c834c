"""Exported dashboards hold what the planted activations say, where their readers look for it."""

import gzip
import json

import numpy as np
import pytest
import torch

import saestore
from saestore.errors import ConfigError
from saestore.exchange.features import Neuronpedia, SaeDashboard
from saestore.lake import Lake
from saestore.progress import Recorder
from saestore.testing.analyses import DICTIONARY, plant, planted_analysis
from saestore.testing.interpretations import Explained, interpretation_run
from saestore_schemas.analyze import (
    AnalyzeSettings,
    CoactivationSettings,
    IntervalSubsample,
    SilentSubsample,
    TopSubsample,
)
from saestore_schemas.dashboards import NeuronpediaSettings, SaeDashboardSettings


Q = 5
WANTED = AnalyzeSettings(
    dictionary=DICTIONARY,
    logits=None,
    subsamples={
        "best": TopSubsample(n=7, window=None),
        "none": SilentSubsample(n=3),
        "parts": IntervalSubsample(q=Q, n=2, window=5),
    },
    coactivation=CoactivationSettings(min_both=3),
)
NAMES = SaeDashboardSettings(model_id="toy", set_name="res", file_features=4, vectors=True, fill=60)
OURS = NeuronpediaSettings(
    model_id="toy", set_name="res", suffix="v2", creator_id="me", creator_name="Me", release="first",
    file_features=5,
)  # fmt: skip
FEATURE = {
    "feature_index", "neuron_alignment_indices", "neuron_alignment_values", "neuron_alignment_l1",
    "correlated_neurons_indices", "correlated_neurons_l1", "correlated_neurons_pearson",
    "correlated_features_indices", "correlated_features_l1", "correlated_features_pearson",
    "neg_str", "neg_values", "pos_str", "pos_values", "frac_nonzero", "freq_hist_data_bar_values",
    "freq_hist_data_bar_heights", "logits_hist_data_bar_heights", "logits_hist_data_bar_values",
    "n_prompts_total", "n_tokens_in_prompt", "dataset", "activations", "decoder_weights_dist", "vector",
}  # fmt: skip
"""Arguments of sae-dashboard 0.8.0's NeuronpediaDashboardFeature: it takes these and no other."""


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    made = Lake.at(tmp_path_factory.mktemp("dashboards") / "lake")
    _, known = planted_analysis(made, settings=WANTED)
    return saestore.open_lake(made.storage.url), known


@pytest.fixture(scope="module")
def batches(lake, tmp_path_factory):
    """The folder, and every feature written in it by number."""
    folder = tmp_path_factory.mktemp("saedashboard") / "out"
    lake[0].export_features(DICTIONARY, folder, SaeDashboard(NAMES))
    read = [json.loads((folder / f"batch-{n}.json").read_text()) for n in range(2)]
    assert not (folder / "batch-2.json").exists()
    return folder, read, {each["feature_index"]: each for b in read for each in b["features"]}


def test_every_feature_that_fires_is_in_one_batch_and_the_dead_are_skipped(lake, batches):
    _, known = lake
    folder, read, features = batches
    fires = (known.values > 0).any(axis=0)
    assert sorted(features) == np.flatnonzero(fires).tolist()
    assert [len(each["features"]) for each in read] == [4, 4]
    for batch in read:
        head = {key: value for key, value in batch.items() if key != "features"}
        assert head == {"model_id": "toy", "layer": 1, "sae_set": "res", "sae_id_suffix": None}
        assert all(set(each) == FEATURE for each in batch["features"])
    skipped = json.loads((folder / "skipped_indexes.json").read_text())
    assert skipped["skipped_indexes"] == np.flatnonzero(~fires).tolist() == [0]
    assert skipped["layer"] == "1"
    settings = json.loads((folder / "run_settings.json").read_text())
    asked = ("n_quantiles", "top_acts_group_size", "quantile_group_size", "n_prompts_total")
    assert [settings[name] for name in asked] == [Q, 7, 2, 40]
    tokens = torch.load(folder / "tokens_40.pt", weights_only=True)  # noqa: TID251 - a tensor
    assert tokens.shape == (40, max(known.lengths))
    for context, length in enumerate(known.lengths):
        row = tokens[context].tolist()
        assert row[:length] == known.tokens[known.context == context].tolist()
        assert set(row[length:]) <= {60}


def test_statistics_are_those_of_the_dense_values(lake, batches):
    _, known = lake
    dense = known.values[known.kept].astype(np.float64)
    for feature, written in batches[2].items():
        own = dense[:, feature]
        fired = own[own > 0]
        assert written["frac_nonzero"] == len(fired) / len(own)
        heights, places = (written[f"freq_hist_data_bar_{w}"] for w in ("heights", "values"))
        assert sum(heights) == len(fired)
        lo, hi = fired.min(), fired.max()
        edges = lo + np.arange(51) * (hi - lo) / 50
        if hi > lo:
            wanted = np.minimum(((fired - lo) * (50 / (hi - lo))).astype(int), 49)
            assert heights == np.bincount(wanted, minlength=50).tolist()
        assert places == pytest.approx((edges[1:] + edges[:-1]) / 2, abs=6e-4)
        # the decoder is the identity
        assert written["neuron_alignment_indices"][0] == feature
        assert written["neuron_alignment_values"] == [1, 0, 0]
        assert written["vector"] == np.eye(9)[feature].tolist()
        assert written["pos_str"] == written["logits_hist_data_bar_heights"] == []


def test_correlated_features_are_the_ones_of_all_rows(lake, batches):
    _, known = lake
    dense = known.values[known.kept].astype(np.float64)
    both = (dense > 0).T.astype(int) @ (dense > 0)
    listed = 0
    for feature, written in batches[2].items():
        own = dense[:, feature]
        found = []
        for other in range(dense.shape[1]):
            always = {own.all(), dense[:, other].all()}  # whose firing correlates with nothing
            if other != feature and both[feature, other] >= 3 and True not in always:
                theirs = dense[:, other]
                cosine = own @ theirs / np.linalg.norm(own) / np.linalg.norm(theirs)
                found.append((np.corrcoef(own, theirs)[0, 1], cosine, other))
        best = sorted(found, key=lambda each: -each[0])[:3]
        listed += len(best)
        for at, name in enumerate(("pearson", "l1", "indices")):
            numbers = written[f"correlated_features_{name}"]
            assert numbers == pytest.approx([each[at] for each in best], abs=6e-4)
    assert listed > 15


def test_examples_are_the_subsamples_with_a_bos_cut(lake, batches):
    _, known = lake
    starts = np.cumsum(known.lengths) - known.lengths
    pieces = {0: "<bos>", 59: "�", 60: "�"}
    total = int(known.kept.sum())
    cut = 0
    for feature, written in batches[2].items():
        own = known.values[:, feature]
        peaks = np.maximum.reduceat(own, starts)
        order = np.lexsort((np.arange(len(peaks)), -peaks.astype(np.float64)))
        best = [c for c in order.tolist() if peaks[c] > 0][:7]
        shown = written["activations"]
        assert [each["bin_min"] for each in shown[: len(best)]] == [-1] * len(best)
        for context, each in zip(best, shown, strict=False):
            rows = np.flatnonzero(known.context == context)
            if known.tokens[rows[0]] == 0:
                rows, cut = rows[1:], cut + 1
            assert each["values"] == [round(float(v), 3) for v in own[rows]]
            assert each["qualifying_token_index"] == int(own[rows].argmax())
            assert (each["bin_max"], each["bin_contains"]) == (round(float(own.max()), 3), -1)
            words = [pieces.get(t, f" w{t}") for t in known.tokens[rows].tolist()]
            if not {59, 60} & set(known.tokens[rows].tolist()):
                assert each["tokens"] == words
            assert len(each["tokens"]) == len(words)
            assert "<bos>" not in each["tokens"][:1]
        most = float(own.max())
        parts = [each["bin_min"] for each in shown[len(best) :]]
        assert parts == sorted(parts, reverse=True)
        for each in shown[len(best) :]:
            part = round(each["bin_min"] * Q / most)
            lo, hi = most * part / Q, most * (part + 1) / Q
            assert (each["bin_min"], each["bin_max"]) == (round(lo, 3), round(hi, 3))
            inside = (own[known.kept] >= lo) & (own[known.kept] <= hi)
            assert each["bin_contains"] == round(inside.sum() / total, 5)
            peak = max(each["values"])
            assert each["values"][each["qualifying_token_index"]] == peak
            assert lo - 1e-3 <= peak <= hi + 1e-3
            assert 1 <= len(each["tokens"]) <= 5
    assert cut > 10


def test_text_of_split_characters_is_whole(lake, batches):
    opened, _ = lake
    texts = opened.analysis(DICTIONARY).lazy("contexts").collect()["text"].to_list()
    assert any("é" in text for text in texts)
    written = ["".join(a["tokens"]) for f in batches[2].values() for a in f["activations"]]
    assert any("é" in text for text in written)
    assert all(any(each in text for text in texts) for each in written)


def records(folder, kind):
    """Every line of one kind, in the order of the batches."""
    files = sorted((folder / "toy" / "1-res__v2" / kind).iterdir())
    return [
        json.loads(line) for f in files for line in gzip.decompress(f.read_bytes()).splitlines()
    ]


def test_neuronpedia_s_folder_has_a_line_for_everything(lake, batches, tmp_path):
    opened, known = lake
    report = opened.export_features(DICTIONARY, tmp_path, Neuronpedia(OURS))
    home = tmp_path / "toy" / "1-res__v2"
    release, model, sourceset, source = (
        json.loads((home / f"{name}.jsonl").read_text())
        for name in ("release", "model", "sourceset", "source")
    )
    assert (release["name"], model["id"], sourceset["name"], source["id"]) == (
        "first", "toy", "res", "1-res__v2",
    )  # fmt: skip
    assert {each["creatorId"] for each in (release, model, sourceset, source)} == {"me"}
    assert (sourceset["releaseName"], source["num_prompts"]) == ("first", 40)
    features, shown = records(tmp_path, "features"), records(tmp_path, "activations")
    assert report.files == 4 + 2 * 2
    assert [each["index"] for each in features] == [str(n) for n in range(9)]
    analysis = opened.analysis(DICTIONARY)
    for feature, line in enumerate(features):
        assert line["maxActApprox"] == round(float(known.values[:, feature].max()), 3)
        near = [n for n in analysis.feature(feature).neighbours if n.method == "dec_cos"]
        assert line["topkCosSimIndices"] == [n.feature for n in near]
        assert line["topkCosSimValues"] == [round(n.score, 3) for n in near]
        theirs = batches[2].get(feature, {})
        for name in set(theirs) & set(line) - {"vector"}:
            assert line[name] == theirs[name], name
    assert (features[0]["maxActApprox"], features[0]["freq_hist_data_bar_heights"]) == (0, [])
    ids = [each["id"] for each in shown]
    assert len(set(ids)) == len(ids) == sum(len(f["activations"]) for f in batches[2].values())
    assert all(len(each) == 25 and each[0] == "c" for each in ids)
    for line in shown:
        assert line["maxValue"] == max(line["values"]) == line["values"][line["maxValueTokenIndex"]]
        assert len(line["tokens"]) == len(line["values"])
        assert known.values[known.context == int(line["dataIndex"]), int(line["index"])].any()


def test_neuronpedia_s_files_have_the_same_bytes_again(lake, tmp_path):
    for name in ("a", "b"):
        lake[0].export_features(DICTIONARY, tmp_path / name, Neuronpedia(OURS))
    first, second = (
        {p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*") if p.is_file()}
        for n in ("a", "b")
    )  # fmt: skip
    assert first == second
    zipped = next(data for path, data in first.items() if path.suffix == ".gz")
    assert zipped[4:8] == bytes(4)  # no time of writing


@pytest.mark.parametrize(
    ("form", "field", "hint"),
    [
        (Neuronpedia(), "creator_id", "--creator-id"),
        (SaeDashboard(SaeDashboardSettings(interval="best")), "interval", "best (top)"),
        (
            SaeDashboard(SaeDashboardSettings(model_id="toy", top="parts")),
            "top",
            "parts (interval)",
        ),
    ],
)
def test_what_is_missing_is_named(lake, tmp_path, form, field, hint):
    with pytest.raises(ConfigError) as caught:
        lake[0].export_features(DICTIONARY, tmp_path / "x", form)
    assert caught.value.field == field
    assert hint in caught.value.hint
    assert not (tmp_path / "x" / "index.json").exists()


def test_an_analysis_without_the_optional_tables_says_what_would_make_them(tmp_path):
    made = Lake.at(tmp_path / "lake")
    bare = AnalyzeSettings(
        dictionary=DICTIONARY, logits=None, coactivation=None, neighbours=None, token_stats=None,
        subsamples={"silent": SilentSubsample(n=1)},
    )  # fmt: skip
    planted_analysis(made, planted=plant(contexts=9), settings=bare)
    opened = saestore.open_lake(made.storage.url)
    with pytest.raises(ConfigError, match="kind top") as caught:
        opened.export_features(DICTIONARY, tmp_path / "x", "saedashboard")
    assert "subsamples.top" in caught.value.hint
    plain = bare.model_copy(update={"name": "plain", "subsamples": {"t": TopSubsample(n=2)}})
    opened.analyze(plain)
    told = Recorder()
    opened.export_features(f"{DICTIONARY}/plain", tmp_path / "y", "saedashboard", progress=told)
    notes = " ".join(told.notes)
    assert all(each in notes for each in ("subsamples.interval", "with logits", "coactivation"))
    (batch,) = [json.loads(p.read_text()) for p in (tmp_path / "y").glob("batch-*.json")]
    assert batch["sae_set"] == "planted-relu"
    assert batch["model_id"] == "synthetic"
    assert all(each["correlated_features_indices"] == [] for each in batch["features"])
    assert all(a["bin_min"] == -1 for each in batch["features"] for a in each["activations"])


def test_neuronpedia_s_folder_has_what_models_say_of_the_features_in_it(tmp_path):
    made = Lake.at(tmp_path / "lake")
    ref, _ = planted_analysis(made, settings=WANTED)
    explained = [
        Explained(4, "articles", scores={"detection": 0.9, "fuzzing": None}),
        Explained(4, "says a number", "top", {"detection": 0.6}),
        Explained(7, "digits"),
        Explained(5, None),
    ]
    interpretation_run(made, ref.name, "first", explained)
    lake = saestore.open_lake(made.storage.url)
    lake.export_features(DICTIONARY, tmp_path / "out", Neuronpedia(OURS))
    (folder,) = (tmp_path / "out").glob("*/*/explanations")
    assert sorted(file.name for file in folder.iterdir()) == [
        "batch-0.jsonl.gz",
        "batch-1.jsonl.gz",
    ]
    lines = [
        json.loads(line)
        for file in sorted(folder.iterdir())
        for line in gzip.decompress(file.read_bytes()).splitlines()
    ]
    assert [(each["index"], each["description"]) for each in lines] == [
        ("4", "articles"),
        ("4", "says a number"),
        ("7", "digits"),
    ]
    assert lines[0]["notes"] == "run first, explainer quantile; detection 0.90; fuzzing -"
    assert (lines[0]["authorId"], lines[0]["typeName"]) == ("me", "unknown")
    assert lines[0]["createdAt"] == "2026-01-02T03:04:05.000"
    assert len({each["id"] for each in lines}) == 3
    assert all(len(each["id"]) == 25 for each in lines)
