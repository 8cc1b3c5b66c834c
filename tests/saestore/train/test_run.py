"""The verb: what it leaves, and that interrupting it changes no byte."""

import json
from contextlib import contextmanager

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from saestore import dictionaries, train
from saestore.errors import (
    ArtefactExistsError,
    ConfigError,
    DamagedArtefactError,
    DivergedError,
    HookpointNotFoundError,
)
from saestore.lake import Lake, Ref, manifest as manifests
from saestore.progress import Recorder
from saestore.testing.stores import HOOKPOINT, synthetic_rows, synthetic_store
from saestore_schemas.train import TrainSettings


WIDTH = 7
FILES = ("weights.safetensors", "metrics.parquet", "config.json")


def settings(name="one", **changes):
    plain = {
        "series": "s",
        "name": name,
        "activations": {"name": "synthetic", "batch_rows": 64, "held_out": 0.1},
        "dictionary": {
            "family": "sae",
            "hookpoint": HOOKPOINT,
            "d_sae": 23,
            "activation": {"kind": "topk", "k": 2},
        },
        "budget": {"epochs": 5.0},
        "loss": {"aux": {"dead_after_rows": 200}},
        "optimizer": {"lr": 0.003},
        "checkpoints": {"count": 4},
        "log": {"every": 7},
    }
    return TrainSettings.model_validate({**plain, **changes})


RELU = {
    "dictionary": {
        "family": "sae",
        "hookpoint": HOOKPOINT,
        "d_sae": 23,
        "activation": {"kind": "relu"},
        "decoder_norm": "free",
        "gate_on_decoder_norm": True,
        "scale": "dataset_rms",
    },
    "loss": {"sparsity": {"kind": "l1", "coefficient": 0.3}},
}


@pytest.fixture
def lake(tmp_path):
    lake = Lake.at(tmp_path / "lake")
    synthetic_store(lake, rows=600, width=WIDTH)
    return lake


class CrashError(Exception):
    """What stands for a crash."""


class Crashing(Recorder):
    """Raises when a run has seen so many rows."""

    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    @contextmanager
    def task(self, label, *, total, unit, done=0):
        with super().task(label, total=total, unit=unit, done=done) as inner:
            outer = self

            class Task:
                def advance(self, n, **values):
                    inner.advance(n, **values)
                    if done + outer.tasks[-1]["advanced"] >= outer.rows:
                        raise CrashError

            yield Task()


def payload(lake, name="one"):
    folder = lake.storage.child(f"dictionaries/s/{name}")
    return {file: folder.read(file) for file in FILES}


def test_a_run_leaves_a_whole_artefact_that_says_how_it_came_to_be(lake):
    progress = Recorder()
    dictionary = train.run(settings(), lake, progress=progress)
    ref = Ref("dictionary", "s/one")
    manifest = lake.manifest(ref)
    artefact = lake.artefact(ref)
    steps = manifest.counts["steps"]
    assert manifest.counts == {"rows": steps * 64, "steps": steps, "d_sae": 23}
    assert manifests.damage(artefact, manifest) == []
    assert sorted(artefact.files()) == sorted(
        [*FILES, "files.parquet", "manifest.json", "timings.parquet"]
    )
    assert manifest.facts["l0_mean"] <= 2
    assert 0 < manifest.facts["ev_batch"] < 1
    assert {"dead", "mixing", "window_rows", "rows_per_s", "loss"} <= set(manifest.facts)
    assert manifest.arrays["W_enc"].shape == (WIDTH, 23)
    config = dictionary.config
    assert config.train.steps == steps
    assert config.train.settings == settings().model_dump(mode="json")
    assert config.model.name == "synthetic"
    assert [parent.name for parent in config.parents] == ["synthetic"]
    assert config.scale[HOOKPOINT].rows > 0
    (task,) = progress.tasks
    assert task["total"] == task["advanced"] == steps * 64
    assert {"loss", "L0", "EV", "dead"} == set(task["values"])


def test_the_loaded_dictionary_computes_what_training_computed(lake):
    last = {}

    def evaluate(dictionary, step):
        rows = torch.from_numpy(synthetic_rows(100, WIDTH, seed=5))
        last[step] = dictionary.reconstruct(rows)[HOOKPOINT]
        return {"sum": float(last[step].sum())}

    dictionary = train.run(settings(), lake, evaluate=evaluate)
    rows = torch.from_numpy(synthetic_rows(100, WIDTH, seed=5))
    loaded = dictionaries.load(lake, "s/one")
    for one in (dictionary, loaded):
        assert torch.equal(one.reconstruct(rows)[HOOKPOINT], last[max(last)])
    table = pq.read_table(lake.storage.path("dictionaries/s/one/metrics.parquet")).to_pylist()
    found = {row["step"]: row["value"] for row in table if row["name"] == "evaluate/sum"}
    assert found == {step: float(part.sum()) for step, part in last.items()}
    assert len(found) == 5  # four checkpoints and the end


def test_training_learns_something(lake):
    train.run(settings(budget={"epochs": 40.0}), lake)
    table = pq.read_table(lake.storage.path("dictionaries/s/one/metrics.parquet")).to_pylist()
    loss = [row["value"] for row in table if row["name"] == "loss_mse"]
    assert loss[-1] < 0.6 * loss[0]
    steps = sorted({row["step"] for row in table})
    assert steps[:3] == [1, 7, 14]


def test_a_second_run_is_a_no_op_and_other_settings_are_refused(lake):
    train.run(settings(), lake)
    before = payload(lake)
    progress = Recorder()
    train.run(settings(), lake, progress=progress)
    assert progress.tasks == []
    assert payload(lake) == before
    other = settings().model_dump(mode="json")
    other["dictionary"]["d_sae"] = 24
    with pytest.raises(ArtefactExistsError, match=r"dictionary\.d_sae"):
        train.run(TrainSettings.model_validate(other), lake)


NARROW = {
    "dictionary": {
        "family": "sae",
        "hookpoint": HOOKPOINT,
        "d_sae": 23,
        "activation": {"kind": "batchtopk", "k": 2},
        "dtype": "bfloat16",
    },
}


@pytest.mark.parametrize("changes", [{}, RELU, NARROW], ids=["topk", "relu", "bfloat16"])
def test_resumed_is_uninterrupted_bit_for_bit(lake, tmp_path, changes):
    train.run(settings(**changes), lake)
    wanted = payload(lake)
    total = lake.manifest(Ref("dictionary", "s/one")).counts["rows"]
    again = Lake.at(tmp_path / "again")
    synthetic_store(again, rows=600, width=WIDTH)
    rng = np.random.default_rng(0)
    places = sorted(64 * int(n) for n in rng.integers(1, total // 64, 6))
    for rows in [1, 64 * 8, *places, total]:
        with pytest.raises(CrashError):
            train.run(settings(**changes), again, progress=Crashing(rows))
    progress = Recorder()
    train.run(settings(**changes), again, progress=progress)
    assert progress.tasks[0]["done"] > 0
    assert payload(again) == wanted


def test_the_newest_whole_checkpoint_wins(lake):
    keep = {"checkpoints": {"count": 4, "keep": "all"}}
    with pytest.raises(CrashError):
        train.run(settings(**keep), lake, progress=Crashing(64 * 30))
    folder = lake.storage.child("dictionaries/s/one/checkpoints")
    *_, older, newest = folder.names()
    data = folder.read(f"{newest}/state.safetensors")
    folder.write(f"{newest}/state.safetensors", data[:-1] + bytes([data[-1] ^ 1]))
    progress = Recorder()
    train.run(settings(**keep), lake, progress=progress)
    assert progress.tasks[0]["done"] == int(older) * 64
    manifest = lake.manifest(Ref("dictionary", "s/one"))
    assert len(folder.names()) == 4
    assert manifests.damage(lake.artefact(Ref("dictionary", "s/one")), manifest) == []


def test_without_checkpoints_a_rerun_starts_at_the_beginning(lake):
    none = {"checkpoints": {"count": 0}}
    with pytest.raises(CrashError):
        train.run(settings(**none), lake, progress=Crashing(64 * 30))
    assert not lake.storage.exists("dictionaries/s/one/checkpoints")
    progress = Recorder()
    train.run(settings(**none), lake, progress=progress)
    assert progress.tasks[0]["done"] == 0


def test_a_run_interrupted_while_it_is_being_finished_loses_nothing(lake, monkeypatch):
    train.run(settings("whole"), lake)

    def broken(*_args, **_kwargs):
        raise CrashError

    with monkeypatch.context() as patched:
        patched.setattr(manifests, "finish", broken)
        with pytest.raises(CrashError):
            train.run(settings(), lake)
    progress = Recorder()
    train.run(settings(), lake, progress=progress)
    assert progress.tasks[0]["done"] > 0
    first, second = payload(lake), payload(lake, "whole")
    assert first["weights.safetensors"] == second["weights.safetensors"]
    assert first["metrics.parquet"] == second["metrics.parquet"]


def test_divergence_names_the_step_and_the_last_good_checkpoint(lake):
    wild = settings(
        optimizer={"lr": 1e30, "clip_norm": None},
        schedule={"warmup": 40, "cooldown": 0},
        loss={},
        dictionary={**RELU["dictionary"]},
        checkpoints={"count": 40},
    )
    with pytest.raises(DivergedError, match="step") as caught:
        train.run(wild, lake)
    assert "lr" in caught.value.hint
    assert not lake.storage.exists("dictionaries/s/one/manifest.json")


def test_settings_that_contradict_the_store_are_refused(lake):
    with pytest.raises(ConfigError, match=r"budget\.rows"):
        train.run(settings(budget={"rows": 63}), lake)
    with pytest.raises(ConfigError, match=r"budget\.epochs"):
        train.run(settings(budget={"epochs": 0.01}), lake)
    other = settings().model_dump(mode="json")
    other["dictionary"]["hookpoint"] = "blocks.1.hook_resid_pos"
    with pytest.raises(HookpointNotFoundError) as caught:
        train.run(TrainSettings.model_validate(other), lake)
    assert "hook_resid_post" in caught.value.hint


@pytest.mark.parametrize("file", ["weights.safetensors", "config.json"])
def test_a_flipped_bit_is_found_when_loading(lake, file):
    train.run(settings(), lake)
    path = lake.storage.path(f"dictionaries/s/one/{file}")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedArtefactError, match=file):
        dictionaries.load(lake, "s/one")


def test_checkpoints_say_what_bit_exactness_depends_on(lake):
    with pytest.raises(CrashError):
        train.run(settings(), lake, progress=Crashing(64 * 30))
    folder = lake.storage.child("dictionaries/s/one/checkpoints")
    (name,) = folder.names()  # the newest only
    record = json.loads(folder.read(f"{name}/state.json"))
    environment = record["values"]["environment"]
    assert environment["threads"] == torch.get_num_threads()
    assert "torch" in environment["versions"]
    assert record["values"]["trainer"]["step"] == int(name)


MEASURED = {
    "decoder_bias": "geometric_median",
    "data_points": True,
    "center_encoder_bias": True,
    "sample_rows": 100,
}


def test_measured_starting_weights_cost_training_no_row(lake):
    plain = train.run(settings("plain"), lake)
    measured = train.run(settings("measured", init=MEASURED), lake)
    again = train.run(settings("again", init=MEASURED), lake)
    assert not torch.equal(plain.W_dec, measured.W_dec)
    assert torch.equal(again.W_dec, measured.W_dec)
    rows = [pq.read_table(lake.artefact(Ref("dictionary", f"s/{n}")).local / "metrics.parquet")
            for n in ("plain", "measured")]  # fmt: skip
    assert rows[0]["rows"].to_pylist()[-1] == rows[1]["rows"].to_pylist()[-1]


def test_a_run_goes_on_from_the_weights_of_another(lake):
    first = train.run(settings("first"), lake)
    start = settings("second", init={"dictionary": "s/first"}, optimizer={"lr": 1e-30})
    second = train.run(start, lake)
    assert torch.allclose(second.W_dec, first.W_dec, atol=1e-6)
    assert torch.equal(second.b_enc, first.b_enc)
    parents = lake.manifest(Ref("dictionary", "s/second")).parents
    assert [(each.kind, each.name) for each in parents] == [
        ("activations", "synthetic"),
        ("dictionary", "s/first"),
    ]
    other = settings("third", init={"dictionary": "s/first"}, **RELU)
    with pytest.raises(ConfigError, match=r"init\.dictionary.*semantics\.activation"):
        train.run(other, lake)
    assert TrainSettings.model_validate(start.model_dump(mode="json")) == start
