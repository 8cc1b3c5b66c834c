"""Sweeps: each dictionary is the one it would be alone, whatever happens to the others."""

import json
import signal

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

import saestore
from saestore import train
from saestore.api import pages
from saestore.errors import ArtefactExistsError, ConfigError, StoppedError
from saestore.lake import Lake, Ref
from saestore.progress import Recorder
from saestore.report import artefacts
from saestore.report.artefacts import SweepItem
from saestore.testing.stores import HOOKPOINT, synthetic_store
from saestore_schemas.sweep import SweepSettings, changed
from saestore_schemas.train import TrainSettings


FILES = ("weights.safetensors", "metrics.parquet", "config.json")

SWEEP = {
    "name": "both",
    "grid": {"dictionary.activation.k": [2, 3], "optimizer.lr": [0.003, 0.01]},
    "items": [
        {
            "name": "relu",
            "change": {
                "dictionary.activation": {"kind": "relu"},
                "loss.aux": None,
                "loss.sparsity": {"kind": "l1", "coefficient": 0.3},
                "budget": {"rows": 64 * 13},
                "seed.init": 5,
            },
        },
        {"name": "other-batch", "change": {"activations.batch_rows": 48}},
        {"name": "other-order", "change": {"seed.data": 3}},
    ],
}
NAMES = ["t-k2-lr0.003", "t-k2-lr0.01", "t-k3-lr0.003", "t-k3-lr0.01"]
ALL = [*NAMES, "relu", "other-batch", "other-order"]


def settings(sweep=SWEEP, **changes):
    plain = {
        "series": "s",
        "name": "t",
        "activations": {"name": "synthetic", "batch_rows": 64, "held_out": 0.1},
        "dictionary": {
            "family": "sae",
            "hookpoint": HOOKPOINT,
            "d_sae": 23,
            "activation": {"kind": "topk", "k": 2},
        },
        "budget": {"epochs": 2.0},
        "loss": {"aux": {"dead_after_rows": 200}},
        "checkpoints": {"count": 3},
        "log": {"every": 4},
        "sweep": sweep,
    }
    return TrainSettings.model_validate({**plain, **changes})


def filled(folder):
    lake = Lake.at(folder)
    synthetic_store(lake, rows=600, width=7)
    return lake


@pytest.fixture
def lake(tmp_path):
    return filled(tmp_path / "lake")


def payload(lake, name):
    folder = lake.storage.child(f"dictionaries/s/{name}")
    return {file: folder.read(file) for file in FILES}


def results(lake, name="both"):
    return pq.read_table(lake.storage.path(f"sweeps/{name}/results.parquet")).to_pylist()


def test_each_of_a_sweep_is_the_one_it_would_be_alone(lake, tmp_path):
    progress = Recorder()
    train.sweep(settings(), lake, progress=progress)
    alone = filled(tmp_path / "alone")
    for each in settings().runs():
        train.run(each, alone)
        assert payload(lake, each.name) == payload(alone, each.name), each.name
        ref = Ref("dictionary", f"s/{each.name}")
        assert lake.manifest(ref).fingerprint == alone.manifest(ref).fingerprint
    # one pass for the five that read the same batches, one for each of the others
    assert [task["label"] for task in progress.tasks] == [
        "training 5 dictionaries", "training s/other-batch", "training s/other-order",
    ]  # fmt: skip
    assert any(note.startswith("5 dictionaries need about") for note in progress.notes)
    lines = results(lake)
    assert [line["dictionary"] for line in lines] == ALL
    assert {line["status"] for line in lines} == {"trained"}
    assert json.loads(lines[1]["change"]) == {"dictionary.activation.k": 2, "optimizer.lr": 0.01}
    assert lines[4]["steps"] == 13
    assert all(line["l0_mean"] <= 3 for line in lines[:4])
    manifest = lake.manifest(Ref("sweep", "both"))
    assert [parent.name for parent in manifest.parents] == [f"s/{name}" for name in ALL]


class Signalling(Recorder):
    """Asks the process to end after some batches of all passes together."""

    def __init__(self, batches):
        super().__init__()
        self.left = batches

    def task(self, label, *, total, unit, done=0):
        outer, context = self, super().task(label, total=total, unit=unit, done=done)

        class Opened:
            def __enter__(self):
                self.inner = context.__enter__()
                return self

            def __exit__(self, *exc):
                return context.__exit__(*exc)

            def advance(self, n, **values):
                self.inner.advance(n, **values)
                outer.left -= 1
                if outer.left == 0:
                    signal.raise_signal(signal.SIGTERM)

        return Opened()


def test_interrupted_anywhere_a_sweep_ends_with_the_same_bytes(lake, tmp_path):
    train.sweep(settings(), lake)
    again = filled(tmp_path / "again")
    # one of them has been on its way alone, and is ahead of the others
    with pytest.raises(StoppedError):
        train.run(settings().runs()[1], again, progress=Signalling(7))
    for batches in (3, 9, 8):
        with pytest.raises(StoppedError, match="step"):
            train.sweep(settings(), again, progress=Signalling(batches))
    train.sweep(settings(), again)
    for name in ALL:
        assert payload(again, name) == payload(lake, name), name
    assert results(again) == results(lake)
    progress = Recorder()
    train.sweep(settings(), again, progress=progress)
    assert progress.tasks == []


def test_what_diverges_ends_alone(lake, tmp_path):
    wild = {
        "name": "wild",
        "grid": {"optimizer.lr": [0.003, 1e30]},
    }
    relu = {
        "family": "sae", "hookpoint": HOOKPOINT, "d_sae": 23,
        "activation": {"kind": "relu"}, "decoder_norm": "free",
    }  # fmt: skip
    loose = {
        "dictionary": relu,
        "loss": {},
        "optimizer": {"clip_norm": None},
        "schedule": {"warmup": 1.0, "cooldown": 0},
    }
    progress = Recorder()
    train.sweep(settings(wild, **loose), lake, progress=progress)
    good, bad = results(lake, "wild")
    assert (good["status"], bad["status"]) == ("trained", "diverged")
    assert "training diverged at step" in bad["message"]
    assert not lake.storage.exists("dictionaries/s/t-lr1e30/manifest.json")
    assert any("t-lr1e30: training diverged" in note for note in progress.notes)
    alone = filled(tmp_path / "alone")
    one = settings(wild, **loose).runs()[0]
    train.run(one, alone)
    assert payload(lake, one.name) == payload(alone, one.name)
    page = pages.page(lake, "sweeps/wild")
    assert [item.status for item in page.items if item.name == "s/t-lr1e30"] == ["diverged"]
    assert page.fronts["explained_variance"] == ("s/t-lr0.003",)


def test_a_dictionary_of_other_settings_is_found_before_anything_is_trained(lake):
    train.run(settings(None, name="t-k3-lr0.01"), lake)
    with pytest.raises(ArtefactExistsError, match=r"dictionary\.activation\.k: 2 → 3"):
        train.sweep(settings(), lake)
    assert not lake.storage.exists("sweeps/both")
    assert not lake.storage.exists("dictionaries/s/relu")


def test_the_library_and_sql_know_sweeps(lake, tmp_path):
    opened = saestore.open_lake(lake.storage.url)
    small = {"name": "small", "grid": {"dictionary.activation.k": [1, 2]}}
    page = opened.sweep(settings(small))
    assert [item.name for item in page.items] == ["s/t-k1", "s/t-k2"]
    assert page.items[0].scores["l0"] <= 1
    assert page.fronts["explained_variance"][0] == "s/t-k1"
    found = opened.sql("SELECT sweep, dictionary, status FROM sweeps ORDER BY dictionary")
    assert found.to_pylist() == [
        {"sweep": "small", "dictionary": name, "status": "trained"} for name in ("t-k1", "t-k2")
    ]
    steps = opened.sql("SELECT DISTINCT step FROM timings WHERE dictionary = 't-k1' ORDER BY 1")
    assert steps["step"].to_pylist() == [1, 4, 8, 12, 16]
    assert opened.verify("sweeps/small") == []
    with pytest.raises(ConfigError, match="settings of one dictionary"):
        opened.train(settings(small))
    with pytest.raises(ConfigError, match="a section with a name"):
        opened.sweep(settings(None))


def test_thresholds_of_inference_are_calibrated_in_sweeps_too(lake):
    opened = saestore.open_lake(lake.storage.url)
    batch = {"dictionary.activation": {"kind": "batchtopk", "k": 2.5}}
    opened.sweep(settings({"name": "b", "items": [{"name": "batch", "change": batch}]}))
    inference = opened.dictionary("s/batch").config.semantics.inference
    assert inference.source == "exact"
    assert inference.l0 == pytest.approx(2.5, rel=0.01)


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"name": "x"}, "give grid, or items"),
        ({"name": "x", "grid": {"optimizer.lr": []}}, "has no value"),
        (
            {"name": "x", "grid": {"optimizer.lrr": [1.0]}},
            r"t-lrr1: optimizer\.lrr: unknown setting",
        ),
        ({"name": "x", "grid": {"dictionary.activation.k": [99]}}, "k = 99 is more than d_sae"),
        ({"name": "x", "grid": {"name": ["a"]}}, "which names it"),
        ({"name": "x", "items": [{"name": "a"}, {"name": "a"}]}, "two dictionaries are called 'a'"),
        ({"name": "x", "grid": {"optimizer.lr": [0.1, 0.1]}}, "two dictionaries are called"),
    ],
)
def test_what_makes_no_sense_is_refused_when_settings_load(sweep, message):
    with pytest.raises(ValidationError, match=message):
        settings(sweep)


def test_changes_leave_the_settings_around_them_alone():
    plain = {"a": {"b": 1, "c": None}, "d": 2}
    assert changed(plain, {"a.b": 3, "a.c.e": 4}) == {"a": {"b": 3, "c": {"e": 4}}, "d": 2}
    assert plain == {"a": {"b": 1, "c": None}, "d": 2}
    grid = SweepSettings(name="x", grid={"a.kind": ["p q"], "b": [True, {"k": 1, "l": 2.5}]})
    assert [name for name, _ in grid.changes("n")] == ["n-kindp-q-bTrue", "n-kindp-q-b1-2.5"]


def test_the_front_is_what_nothing_beats():
    def item(name, l0, ev, status="trained"):
        return SweepItem(name, {}, status, "", {"l0": l0, "explained_variance": ev}, None)

    items = [
        item("a", 1.0, 0.2), item("b", 2.0, 0.1), item("c", 3.0, 0.5), item("d", 3.0, 0.4),
        item("e", 4.0, 0.5), item("f", 9.0, 0.9), item("g", 0.5, 1.0, "diverged"),
        item("h", None, 0.99), item("i", 9.0, 0.9),
    ]  # fmt: skip
    assert artefacts.front(items, "explained_variance") == ("a", "c", "f", "i")


def test_names_of_a_grid_tell_large_numbers_from_small_ones():
    given = SweepSettings(name="s", grid={"optimizer.lr": [1e30, 1e-30, 3e-4]})
    assert [name for name, _ in given.changes("t")] == ["t-lr1e30", "t-lr1e-30", "t-lr0.0003"]


def test_an_unknown_setting_of_a_grid_is_called_one():
    with pytest.raises(ValueError, match=r"t-kk1: dictionary\.activation\.kk: unknown setting"):
        settings({"name": "s", "grid": {"dictionary.activation.kk": [1]}})
