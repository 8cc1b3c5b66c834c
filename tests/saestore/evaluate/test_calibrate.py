"""Calibration over a store: exact on its rows, carried over to held-out ones, whatever the stores."""

import numpy as np
import pytest
import torch

from saestore import open_lake, train
from saestore.activations import ActivationStore, RowChoice
from saestore.activations.scatter import scatter
from saestore.dictionaries import load
from saestore.errors import UnsupportedError
from saestore.evaluate import calibrate, intervals
from saestore.lake import Lake
from saestore.progress import Recorder
from saestore.testing.stores import HOOKPOINT, synthetic_store
from saestore_schemas.dictionary import BatchTopK, TopK
from saestore_schemas.families import CltSettings, SaeSettings
from saestore_schemas.scatter import ScatterSettings
from saestore_schemas.train import (
    ActivationsSettings,
    BudgetSettings,
    SourceSettings,
    TrainSettings,
)


K = 2.5


def settings(name, activation, **activations):
    return TrainSettings(
        series="s",
        name=name,
        activations=ActivationsSettings(**{"name": "store", "batch_rows": 64, **activations}),
        dictionary=SaeSettings(hookpoint=HOOKPOINT, d_sae=19, activation=activation),
        budget=BudgetSettings(epochs=2.0),
    )


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    made = Lake.at(tmp_path_factory.mktemp("calibrate") / "lake")
    synthetic_store(made, name="store", rows=1500)
    synthetic_store(made, name="other", rows=700, seed=5)
    scatter(ScatterSettings(store="store", name="copy", seed=1), made)
    for name, activation in (("batch", BatchTopK(k=K)), ("top", TopK(k=2))):
        train.run(settings(name, activation, held_out=0.3), made, device="cpu")
    return made


def kept_rows(store, split, share, flags=0):
    """The rows of a split, found by the stream's own choice."""
    choice = RowChoice(split, share, None, flags)
    wanted = np.concatenate([marks for _, marks in choice.wanted(store)])
    return torch.from_numpy(store.read(HOOKPOINT, 0, store.n_rows)[wanted])


def scores_of(dictionary, rows):
    return torch.cat([each.clone() for each in dictionary.gate_scores(rows)])


def test_l0_is_k_on_the_training_rows_and_what_it_says_on_held_out_ones(lake):
    trained, progress = load(lake, "s/batch"), Recorder()
    given = ActivationsSettings(name="store", held_out=0.3)
    finished = calibrate(trained, given, lake, progress=progress)
    store = ActivationStore.open(lake, "store")
    rows, unseen = (kept_rows(store, split, 0.3) for split in ("train", "held_out"))
    wanted = int(K * len(rows))
    ordered = scores_of(trained, rows).flatten().sort(descending=True).values
    limit = finished.thresholds()[0].item()
    assert ordered[wanted] <= limit < ordered[wanted - 1]
    assert finished.encode(rows).l0().sum() == wanted
    record = finished.config.semantics.inference
    assert (record.kind, record.source, record.rows) == ("threshold", "exact", len(rows))
    assert record.l0 == wanted / len(rows)
    found = finished.encode(unseen).l0().double().mean().item()
    assert record.l0_heldout == pytest.approx(found, rel=1e-12)
    assert record.threshold_ema == pytest.approx(trained.thresholds()[0].item())
    assert f"on {len(unseen)} held-out rows" in progress.notes[-1]
    assert (
        [t["advanced"] for t in progress.tasks] == [2 * len(rows)] == [progress.tasks[0]["total"]]
    )


def test_few_rows_are_spread_over_the_contexts(lake):
    trained = load(lake, "s/batch")
    given = ActivationsSettings(name="store", held_out=0.3)
    finished = calibrate(trained, given, lake, rows=200)
    record = finished.config.semantics.inference
    assert 100 < record.rows <= 200
    assert record.l0 == int(K * record.rows) / record.rows


def test_a_scattered_copy_is_calibrated_on_the_rows_of_its_original(lake):
    trained = load(lake, "s/batch")
    one, other = (
        calibrate(trained, ActivationsSettings(name=name, held_out=0.3), lake)
        for name in ("store", "copy")
    )
    assert one.config.semantics.inference == other.config.semantics.inference
    assert one.thresholds().equal(other.thresholds())


def test_a_mix_is_calibrated_on_each_source_by_its_weight(lake):
    trained = load(lake, "s/batch")
    given = ActivationsSettings(
        sources=(SourceSettings(name="store", weight=3), SourceSettings(name="other", weight=1)),
        held_out=0.0,
    )
    record = calibrate(trained, given, lake, rows=400).config.semantics.inference
    assert 200 < record.rows <= 400
    assert record.l0_heldout is None  # nothing was held out


def test_rows_with_flags_count_where_training_uses_them(lake):
    trained = load(lake, "s/batch")
    given = ActivationsSettings(name="store", held_out=0.3, flags=("special", "ignored"))
    record = calibrate(trained, given, lake).config.semantics.inference
    store = ActivationStore.open(lake, "store")
    assert (
        record.rows == len(kept_rows(store, "train", 0.3, 3)) > len(kept_rows(store, "train", 0.3))
    )


def test_train_ends_with_an_exact_threshold_and_evaluate_agrees(lake):
    opened = open_lake(lake.storage.url, device="cpu")
    wanted = settings("exact", BatchTopK(k=K), held_out=0.3)
    finished = opened.train(wanted)
    record = finished.config.semantics.inference
    assert record.source == "exact"
    found = opened.evaluate(
        {"dictionary": "s/exact", "splice": None, "name": "seen", "split": "train", "rows": None}
    )
    assert found.values["l0"] == pytest.approx(record.l0, rel=1e-12)
    unseen = opened.evaluate({"dictionary": "s/exact", "splice": None, "rows": None})
    assert unseen.values["l0"] == pytest.approx(record.l0_heldout, rel=1e-12)
    assert unseen.values["l0[low]"] < record.l0_heldout < unseen.values["l0[high]"]


def test_one_of_a_sweep_ends_with_the_threshold_it_would_have_alone(lake):
    opened = open_lake(lake.storage.url, device="cpu")
    alone = opened.train(settings("alone", BatchTopK(k=K), held_out=0.3))
    swept = settings("swept", BatchTopK(k=1.0), held_out=0.3).model_dump(mode="json")
    opened.sweep(swept | {"sweep": {"name": "ks", "grid": {"dictionary.activation.k": [K, 4.0]}}})
    beside = opened.dictionary("s/swept-k2.5")
    assert beside.config.semantics == alone.config.semantics
    assert beside.thresholds().equal(alone.thresholds())


def test_what_works_row_by_row_needs_no_threshold(lake):
    with pytest.raises(UnsupportedError, match="topk needs no calibrated threshold"):
        calibrate(load(lake, "s/top"), ActivationsSettings(name="store"), lake)


def test_an_interval_needs_two_contexts():
    assert intervals.context_interval(np.array([3]), np.array([2])) is None


def test_where_k_counts_in_each_layer_each_has_its_own_threshold(tmp_path):
    rng = np.random.default_rng(7)
    reads, writes = (
        tuple(f"blocks.{n}.hook_{kind}" for n in (0, 1)) for kind in ("mlp_in", "mlp_out")
    )
    values = {hook: rng.standard_normal((900, 6)).astype(np.float32) for hook in (*reads, *writes)}
    made = Lake.at(tmp_path / "lake")
    synthetic_store(made, name="store", values=values)
    family = CltSettings(
        family="clt",
        hookpoints_in=reads,
        hookpoints_out=writes,
        d_sae=19,
        activation=BatchTopK(k=K),
    )
    given = settings("clt", BatchTopK(k=K)).model_copy(update={"dictionary": family})
    trained, progress = train.run(given, made, device="cpu"), Recorder()
    finished = calibrate(trained, given.activations, made, progress=progress)
    record, (low, high) = finished.config.semantics.inference, finished.tensors()["threshold"][:, 0]
    assert low != high
    assert "in each of 2 layers" in progress.notes[-1]
    store = ActivationStore.open(made, "store")
    marks = np.concatenate([m for _, m in RowChoice("train", 0.05, None, 0).wanted(store)])
    rows = {h: torch.from_numpy(store.read(h, 0, store.n_rows)[marks]) for h in reads}
    code = finished.encode(rows).to_dense() != 0
    for layer in finished.layers:
        assert int(code[:, layer.features].sum()) == int(K * record.rows)
    assert record.l0 == pytest.approx(2 * int(K * record.rows) / record.rows)
