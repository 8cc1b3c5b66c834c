"""Evaluation while training: the scores of evaluate, resumed exactly, watched by an early stop."""

import re

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from saestore import evaluate, open_lake
from saestore.errors import ConfigError
from saestore.lake import checkpoint
from saestore.testing.stores import HOOKPOINT, synthetic_store
from saestore_schemas.evaluate import EvaluateSettings
from saestore_schemas.train import TrainSettings


FILES = ("weights.safetensors", "metrics.parquet", "config.json")


def settings(**changes):
    plain = {
        "series": "s",
        "name": "one",
        "activations": {"name": "synthetic", "batch_rows": 64, "held_out": 0.2},
        "dictionary": {
            "family": "sae",
            "hookpoint": HOOKPOINT,
            "d_sae": 23,
            "activation": {"kind": "topk", "k": 2},
        },
        "budget": {"epochs": 5.0},
        "optimizer": {"lr": 0.003},
        "checkpoints": {"count": 3, "keep": "all"},
        "log": {"every": 7},
        "evaluate_every": {"steps": 10, "rows": 100},
    }
    return TrainSettings.model_validate({**plain, **changes})


def filled(folder):
    opened = open_lake(folder, device="cpu")
    synthetic_store(opened.lake, rows=600, width=7)
    return opened


@pytest.fixture
def lake(tmp_path):
    return filled(tmp_path / "lake")


def payload(lake, name="one"):
    artefact = lake.lake.storage.child(f"dictionaries/s/{name}")
    return {file: artefact.read(file) for file in FILES}


def scores(lake, name="one"):
    """Step to scores, without their prefix."""
    table = pq.read_table(lake.lake.storage.path(f"dictionaries/s/{name}/metrics.parquet"))
    found = {}
    for row in table.to_pylist():
        if row["name"].startswith("evaluate/"):
            metric = row["name"].removeprefix("evaluate/")
            assert metric not in found.setdefault(row["step"], {})
            found[row["step"]][metric] = row["value"]
    return found


def wanted(name):
    return EvaluateSettings(dictionary=name, rows=100, splice=None, cosines=False)


def test_scores_are_those_of_evaluate_and_weights_those_without(lake, tmp_path):
    lake.train(settings(evaluate_every={"steps": 9, "rows": 100}))
    found = scores(lake)
    assert sorted(found) == [9, 18, 27, 36, 38]
    artefact = lake.lake.storage.child("dictionaries/s/one")
    (step,) = set(found) & set(checkpoint.steps(artefact))
    for at, name in ((step, f"s/one@{step}"), (38, "s/one")):
        measured = evaluate.run(wanted(name), lake.lake, device="cpu").values
        assert found[at] == {metric: measured[metric] for metric in found[at]}
    without = filled(tmp_path / "without")
    without.train(settings(evaluate_every=None))
    assert payload(without)["weights.safetensors"] == payload(lake)["weights.safetensors"]
    assert not scores(without)
    told = lake.sql("SELECT value FROM metrics WHERE name = 'evaluate/l0' ORDER BY step")
    assert told["value"].to_pylist() == [found[step]["l0"] for step in sorted(found)]
    assert "evaluate/explained_variance" in lake.show("s/one").curves


@pytest.mark.parametrize("minutes", [1, 3])
def test_resumed_equals_uninterrupted(lake, tmp_path, monkeypatch, minutes):
    watched = settings(
        early_stop={"metric": "evaluate/mse", "goal": "smallest", "min_change": 9.0, "patience": 3}
    )
    lake.train(watched)
    again = filled(tmp_path / "again")
    asked, plain = [], evaluate.Periodic.__call__

    def stopped(self, dictionary, step):
        asked.append(step)
        if len(asked) == minutes:
            raise InterruptedError
        return plain(self, dictionary, step)

    monkeypatch.setattr(evaluate.Periodic, "__call__", stopped)
    with pytest.raises(InterruptedError):
        again.train(watched)
    again.train(watched)
    assert payload(again) == payload(lake)


def test_an_early_stop_watches_a_score(lake):
    """No score beats the first by 9: with patience 2 the third evaluation ends the run."""
    chosen = {"metric": "evaluate/explained_variance", "min_change": 9.0, "patience": 2}
    dictionary = {
        "family": "sae",
        "hookpoint": HOOKPOINT,
        "d_sae": 23,
        "activation": {"kind": "batchtopk", "k": 2},
    }
    lake.train(
        settings(early_stop=chosen, evaluate_every={"steps": 5, "rows": 100}, dictionary=dictionary)
    )
    found = scores(lake)
    assert sorted(found) == [5, 10, 15]
    facts = lake.show("s/one").manifest.facts
    best = found[5]["explained_variance"]
    assert facts["stopped_early"] == {"step": 15, "metric": chosen["metric"], "best": best}
    finished = evaluate.run(wanted("s/one"), lake.lake, device="cpu").values
    assert found[15]["l0"] == finished["l0"]  # of the calibrated dictionary


def test_a_metric_that_is_no_score_is_refused_with_the_nearest(lake):
    chosen = {"metric": "evaluate/explained_varience"}
    with pytest.raises(ConfigError, match=re.escape("early_stop.metric")) as caught:
        lake.train(settings(early_stop=chosen))
    assert caught.value.hint == "did you mean evaluate/explained_variance?"


def test_a_sweep_evaluates_each_of_its_dictionaries(lake):
    grid = {"name": "ks", "grid": {"dictionary.activation.k": [1, 2]}}
    page = lake.sweep(settings(sweep=grid))
    names = sorted(ref.name.split("/")[1] for ref in lake.lake.refs("dictionary"))
    for name in names:
        found = scores(lake, name)
        finished = evaluate.run(wanted(f"s/{name}"), lake.lake, device="cpu").values
        assert found[max(found)]["l0"] == finished["l0"]
        (item,) = (each for each in page.items if each.name == f"s/{name}")
        assert item.evaluation == "evaluate_every"
        assert item.scores == {score: finished[score] for score in item.scores}
        assert {"l0", "explained_variance", "dead[all]"} == set(item.scores)
    assert len(names) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activations": {"name": "synthetic", "held_out": 0.0}}, "activations.held_out is 0"),
        ({"evaluate_every": {"steps": 0}}, "remove evaluate_every"),
        (
            {"activations": {"sources": [{"name": "a"}, {"name": "b"}]}},
            "evaluate_every.activations is missing: say which of a, b",
        ),
        (
            {"evaluate_every": {"activations": "other"}},
            "'other', which trains nothing here: the run reads synthetic",
        ),
        (
            {"evaluate_every": None, "early_stop": {"metric": "evaluate/l0"}},
            "it needs evaluate_every",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_when_settings_load(changes, message):
    with pytest.raises(ValidationError, match=re.escape(message)):
        settings(**changes)


def test_a_store_without_a_held_out_context_is_refused_before_anything_is_written(lake):
    chosen = settings(activations={"name": "synthetic", "batch_rows": 64, "held_out": 1e-9})
    with pytest.raises(ConfigError, match="evaluate_every"):
        lake.train(chosen)
    assert not lake.lake.storage.exists("dictionaries/s/one")
