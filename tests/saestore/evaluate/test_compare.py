"""Several dictionaries on the same rows: what is shared, what is found made, what is refused."""

import numpy as np
import pytest

from saestore import evaluate, train
from saestore.activations import ActivationStore, held_out
from saestore.errors import ArtefactNotFoundError, ConfigError
from saestore.evaluate import Evaluation, compare
from saestore.lake import Lake
from saestore.progress import Recorder
from saestore.testing.stores import HOOKPOINT, synthetic_store
from saestore_schemas import tables
from saestore_schemas.dictionary import TopK
from saestore_schemas.evaluate import EvaluateSettings
from saestore_schemas.families import SaeSettings
from saestore_schemas.metrics import METRICS
from saestore_schemas.train import ActivationsSettings, BudgetSettings, TrainSettings


def trained(lake, name, *, share=0.3, k=3, store="store"):
    train.run(
        TrainSettings(
            series="s",
            name=name,
            activations=ActivationsSettings(name=store, batch_rows=64, held_out=share),
            dictionary=SaeSettings(hookpoint=HOOKPOINT, d_sae=19, activation=TopK(k=k)),
            budget=BudgetSettings(epochs=1.0),
        ),
        lake,
        device="cpu",
    )


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    made = Lake.at(tmp_path_factory.mktemp("compare") / "lake")
    synthetic_store(made, name="store", rows=900)
    synthetic_store(made, name="elsewhere", rows=300)
    trained(made, "a")
    trained(made, "b", k=5)
    trained(made, "c", share=0.1)
    trained(made, "d", store="elsewhere")
    return made


def settings(**changes):
    return EvaluateSettings(**{"dictionary": "s/a", "splice": None, **changes})


def test_alike_ones_are_evaluated_as_alone_and_found_made(lake):
    alone = evaluate.run(settings(), lake, device="cpu")
    progress = Recorder()
    found = compare(["s/b", "s/a"], settings(), lake, device="cpu", progress=progress)
    assert found.dictionaries == ("s/b", "s/a")
    assert found.evaluations[1] == alone or found.evaluations[1].table.equals(alone.table)
    assert any("finished already" in note for note in progress.notes)
    assert found.table.schema.equals(tables.COMPARISON.schema())
    assert found.table.num_rows == 2 * alone.table.num_rows
    assert found.values["l0"] == {
        each: Evaluation.open(lake, f"{each}/default").values["l0"] for each in ("s/b", "s/a")
    }
    order = [name for name in METRICS if name in found.values]
    assert list(found.values) == order
    again = Recorder()
    assert compare(["s/b", "s/a"], settings(), lake, progress=again).table.equals(found.table)
    assert again.tasks == []


def test_contexts_are_those_that_none_of_them_trained_on(lake):
    found = compare(["s/a", "s/c"], settings(), lake, device="cpu")
    store = ActivationStore.open(lake, "store")
    both = held_out(store.n_contexts, 0.3) & held_out(store.n_contexts, 0.1)
    kept = sum(
        int((store.flags(first, first + n) == 0).sum())
        for first, n in store.contexts()[both].tolist()
    )
    for each in found.evaluations:
        assert each.manifest.facts["rows"] == kept
        assert each.ref.name.split("/")[2].startswith("default-beside-")
    assert found.facts == {
        "store": "store", "split": "held_out", "rows": kept, "contexts": int(both.sum()),
    }  # fmt: skip


def test_one_from_elsewhere_is_compared_on_what_the_other_never_saw(lake):
    with pytest.raises(ConfigError, match="store of s/a; elsewhere of s/d") as caught:
        compare(["s/a", "s/d"], settings(), lake, device="cpu")
    assert "--set activations=NAME" in caught.value.hint
    found = compare(["s/a", "s/d"], settings(activations="store"), lake, device="cpu")
    store = ActivationStore.open(lake, "store")
    unseen = held_out(store.n_contexts, 0.3)
    assert [e.manifest.facts["contexts"] for e in found.evaluations] == [int(unseen.sum())] * 2
    np.testing.assert_equal(
        found.values["dead_rate_bound[all]"]["s/a"], found.values["dead_rate_bound[all]"]["s/d"]
    )


def test_mistakes_are_told_before_anything_is_computed(lake):
    with pytest.raises(ArtefactNotFoundError, match="s/aa") as caught:
        compare(["s/a", "s/aa"], settings(), lake)
    assert "s/a" in caught.value.hint
    with pytest.raises(ConfigError, match="expected two dictionaries"):
        compare(["s/a"], settings(), lake)
    with pytest.raises(ConfigError, match="s/a twice"):
        compare(["s/a", "s/b", "s/a"], settings(), lake)
