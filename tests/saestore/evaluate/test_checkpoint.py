"""Checkpoints are used as dictionaries are: while training goes on, and afterwards."""

import json

import numpy as np
import pytest
import torch

from saestore import analyze, evaluate, open_lake, train
from saestore.activations import ActivationStore
from saestore.dictionaries import load
from saestore.errors import ArtefactNotFoundError, IncompleteArtefactError
from saestore.evaluate import Evaluation, compare
from saestore.lake import Lake, Ref, checkpoint
from saestore.testing.stores import HOOKPOINT, synthetic_store
from saestore_schemas.analyze import AnalyzeSettings
from saestore_schemas.dictionary import TopK
from saestore_schemas.evaluate import EvaluateSettings
from saestore_schemas.families import SaeSettings
from saestore_schemas.optimize import CheckpointSettings
from saestore_schemas.train import ActivationsSettings, BudgetSettings, TrainSettings


def settings(name):
    return TrainSettings(
        series="s",
        name=name,
        activations=ActivationsSettings(name="store", batch_rows=64, held_out=0.3),
        dictionary=SaeSettings(hookpoint=HOOKPOINT, d_sae=19, activation=TopK(k=3)),
        budget=BudgetSettings(epochs=3.0),
        checkpoints=CheckpointSettings(count=3, keep="all"),
    )


def wanted(name, **changes):
    return EvaluateSettings(**{"dictionary": name, "splice": None, **changes})


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    made = Lake.at(tmp_path_factory.mktemp("checkpoints") / "lake")
    synthetic_store(made, name="store", rows=900)
    train.run(settings("kept"), made, device="cpu")
    return made


def test_a_kept_checkpoint_has_scores_of_its_own_beside_its_dictionarys(lake):
    steps = checkpoint.steps(lake.storage.child("dictionaries/s/kept"))
    first, last = steps[0], steps[-1]
    found = evaluate.run(wanted(f"s/kept@{first}"), lake, device="cpu")
    assert found.ref.name == f"s/kept/default-step{first}"
    whole = evaluate.run(wanted("s/kept"), lake, device="cpu")
    assert found.values["mse"] != whole.values["mse"]
    assert found.manifest.facts["rows"] == whole.manifest.facts["rows"]
    latest = evaluate.run(wanted("s/kept@latest"), lake, device="cpu")
    assert latest.manifest.settings["dictionary"] == f"s/kept@{last}"  # no moving name is kept
    assert Evaluation.open(lake, f"s/kept/default-step{last}").table.equals(latest.table)


def test_checkpoints_and_dictionaries_are_compared(lake):
    first = checkpoint.steps(lake.storage.child("dictionaries/s/kept"))[0]
    names = [f"s/kept@{first}", "s/kept"]
    found = compare(names, wanted("s/kept"), lake, device="cpu")
    assert found.dictionaries == tuple(names)
    assert set(found.values["l0"]) == set(names)
    assert set(found.table["dictionary"].to_pylist()) == set(names)


def test_training_may_be_under_way(lake):
    def stop(dictionary, step):
        if step > 5 and checkpoint.steps(lake.storage.child("dictionaries/s/half")):
            raise InterruptedError
        return {}

    with pytest.raises(InterruptedError):
        train.run(settings("half"), lake, device="cpu", evaluate=stop)
    with pytest.raises(IncompleteArtefactError) as caught:
        lake.manifest(Ref("dictionary", "s/half"))
    assert "saestore show s/half@latest" in caught.value.hint
    found = evaluate.run(wanted("s/half@latest"), lake, device="cpu")
    train.run(settings("half"), lake, device="cpu")
    finished = lake.manifest(checkpoint.dictionary_of("s/half"))
    assert found.manifest.parents[0].fingerprint == finished.fingerprint
    again = evaluate.run(wanted(found.manifest.settings["dictionary"]), lake, device="cpu")
    assert again.manifest == found.manifest
    assert load(lake, found.manifest.settings["dictionary"]).d_sae == 19


def test_a_step_that_is_not_there_is_answered_with_those_that_are(lake):
    with pytest.raises(ArtefactNotFoundError, match="s/kept@7777") as caught:
        evaluate.run(wanted("s/kept@7777"), lake, device="cpu")
    assert "has checkpoints at" in caught.value.hint


def firings(lake, name):
    """How often each feature fires on the rows without flags."""
    store = ActivationStore.open(lake, "store")
    rows = torch.from_numpy(store.read(HOOKPOINT, 0, store.n_rows)[store.flags() == 0])
    code = load(lake, name).encode(rows)
    return np.bincount(code.indices.numpy(), minlength=code.d_sae)


def test_an_analysis_of_a_checkpoint_has_its_firings_and_not_those_of_the_end(lake):
    first = checkpoint.steps(lake.storage.child("dictionaries/s/kept"))[0]
    for name, place in (
        ("s/kept", "s/kept/default"),
        (f"s/kept@{first}", f"s/kept/default-step{first}"),
    ):
        ref = analyze.run(AnalyzeSettings(dictionary=name, logits=None), lake, device="cpu")
        assert ref.name == place
        found = open_lake(lake.storage.url).polars("features", place).sort("feature").collect()
        assert (found["n_firings"].to_numpy() == firings(lake, name)).all()
    assert (firings(lake, "s/kept") != firings(lake, f"s/kept@{first}")).any()


def test_a_checkpoint_is_exported_under_the_step_it_has(lake, tmp_path):
    last = checkpoint.steps(lake.storage.child("dictionaries/s/kept"))[-1]
    opened = open_lake(lake.storage.url)
    opened.export_dictionary("s/kept@latest", "sae-lens", tmp_path / "out")
    record = json.loads((tmp_path / "out" / "saestore-export.json").read_text())
    assert record["dictionary"] == f"s/kept@{last}"
