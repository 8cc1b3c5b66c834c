"""Checkpoints are evaluated as dictionaries are: while training goes on, and afterwards."""

import pytest

from saestore import evaluate, train
from saestore.dictionaries import load
from saestore.errors import ArtefactNotFoundError
from saestore.evaluate import Evaluation, compare
from saestore.lake import Lake, checkpoint
from saestore.testing.stores import HOOKPOINT, synthetic_store
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
