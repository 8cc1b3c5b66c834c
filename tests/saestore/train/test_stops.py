"""Ends of a run: early, out of time, by signal, diverged; which checkpoints are left, and loading them."""

import json
import math
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError

from saestore import dictionaries, train
from saestore.errors import (
    ArtefactNotFoundError,
    ConfigError,
    DamagedArtefactError,
    DivergedError,
    MissingExtraError,
    StoppedError,
)
from saestore.lake import Lake, Ref
from saestore.progress import Recorder
from saestore.testing.stores import HOOKPOINT, synthetic_store
from saestore.train.stops import EarlyStop
from saestore_schemas.optimize import CheckpointSettings, EarlyStopSettings
from saestore_schemas.train import TrainSettings


FILES = ("weights.safetensors", "metrics.parquet", "config.json")
FOLDER = "dictionaries/s/one"


def settings(**changes):
    plain = {
        "series": "s",
        "name": "one",
        "activations": {"name": "synthetic", "batch_rows": 64, "held_out": 0.1},
        "dictionary": {
            "family": "sae",
            "hookpoint": HOOKPOINT,
            "d_sae": 23,
            "activation": {"kind": "topk", "k": 2},
        },
        "budget": {"epochs": 5.0},
        "optimizer": {"lr": 0.003},
        "checkpoints": {"count": 4},
        "log": {"every": 7},
    }
    return TrainSettings.model_validate({**plain, **changes})


def filled(folder):
    lake = Lake.at(folder)
    synthetic_store(lake, rows=600, width=7)
    return lake


@pytest.fixture
def lake(tmp_path):
    return filled(tmp_path / "lake")


DUE = [8, 16, 24, 32]
"""Where checkpoints are due: four, in 41 steps."""


class Signalling(Recorder):
    """Sends SIGTERM to this process when a run has taken so many steps."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    @contextmanager
    def task(self, label, *, total, unit, done=0):
        with super().task(label, total=total, unit=unit, done=done) as inner:
            rows, wanted = done, self.step * 64

            class Task:
                def advance(self, n, **values):
                    nonlocal rows
                    inner.advance(n, **values)
                    rows += n
                    if rows == wanted:
                        os.kill(os.getpid(), signal.SIGTERM)

            yield Task()


def payload(lake):
    folder = lake.storage.child(FOLDER)
    return {file: folder.read(file) for file in FILES}


def steps(lake):
    return [int(name) for name in lake.storage.child(FOLDER).names("checkpoints")]


def test_out_of_time_it_stops_with_a_checkpoint_and_goes_on_bit_for_bit(lake, tmp_path):
    """A limit that is over at once stops each process after one step."""
    few = settings(budget={"rows": 64 * 6}, checkpoints={"count": 1})
    train.run(few, lake)
    again = filled(tmp_path / "again")
    for done in range(1, 6):
        with pytest.raises(StoppedError, match=rf"step {done} of 6: its time of 1e-09 s") as caught:
            train.run(few, again, time_limit_s=1e-9)
        assert "run the same command again" in caught.value.hint
        assert steps(again) == [done]
    train.run(few, again, time_limit_s=1e-9)  # the last step ends the run: no time was lacking
    assert payload(again) == payload(lake)
    assert not again.storage.exists(f"{FOLDER}/checkpoints")


SCRIPT = """
import os, signal, sys
from contextlib import contextmanager
from saestore import train
from saestore.lake import Lake
from saestore.progress import Recorder
from saestore_schemas.train import TrainSettings

class Signalled(Recorder):
    @contextmanager
    def task(self, label, *, total, unit, done=0):
        class Task:
            steps = 0
            def advance(self, n, **values):
                self.steps += 1
                if self.steps == 9:
                    os.kill(os.getpid(), signal.SIGINT)
        yield Task()

try:
    train.run(TrainSettings.model_validate_json(sys.argv[2]), Lake.at(sys.argv[1]), progress=Signalled())
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_ctrl_c_leaves_a_checkpoint_at_the_step(lake, tmp_path):
    again = filled(tmp_path / "again")
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, again.storage.url, settings().model_dump_json()],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 130, done.stderr
    assert steps(again) == [9]
    train.run(settings(), again)
    train.run(settings(), lake)
    assert payload(again) == payload(lake)


def test_sigterm_leaves_a_checkpoint_and_an_error_that_says_why(lake):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(StoppedError, match="after step 9 of 41: the process got SIGTERM"):
        train.run(settings(), lake, progress=Signalling(9))
    assert steps(lake) == [9]
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_early_stop_ends_the_run_and_says_so(lake, tmp_path):
    """No EV beats the first by 5: of the values logged after steps 1, 7, 14, 21 the last is the third."""
    stop = {"metric": "ev_batch", "patience": 3, "min_change": 5.0}
    early = settings(early_stop=stop, checkpoints={"count": 4, "keep": "all"})
    train.run(early, lake)
    manifest = lake.manifest(Ref("dictionary", "s/one"))
    assert manifest.counts["steps"] == 21
    fact = manifest.facts["stopped_early"]
    table = pq.read_table(lake.storage.path(f"{FOLDER}/metrics.parquet")).to_pylist()
    first = next(row["value"] for row in table if row["name"] == "ev_batch")
    assert fact == {"step": 21, "metric": "ev_batch", "best": first}
    assert max(row["step"] for row in table) == 21
    assert steps(lake) == [8, 16]
    again = filled(tmp_path / "again")  # and patience is remembered
    with pytest.raises(StoppedError):
        train.run(early, again, progress=Signalling(15))
    train.run(early, again)
    assert payload(again) == payload(lake)
    assert steps(again) == [8, 16]


def test_early_stops_look_at_either_side_and_pass_over_nan():
    stop = EarlyStop(EarlyStopSettings(metric="loss", goal="smallest", patience=2, min_change=0.5))
    seen = [stop.see({"loss": x}) for x in (3.0, 2.75, 2.25, math.nan, 1.75)]
    assert seen == [False, False, False, False, True]
    assert stop.best == 2.25
    stop = EarlyStop(EarlyStopSettings(metric="loss", goal="smallest", patience=2))
    assert [stop.see({"loss": x}) for x in (3.0, 3.0, 2.9, 3.0, 2.9)] == [False] * 4 + [True]


def test_an_early_stop_on_what_is_not_logged_is_refused_and_keeps_no_name(lake):
    with pytest.raises(ConfigError, match=r"early_stop\.metric: found 'ev_batsh'") as caught:
        train.run(settings(early_stop={"metric": "ev_batsh"}), lake)
    assert caught.value.hint == "did you mean ev_batch?"
    train.run(settings(), lake)


@pytest.mark.parametrize(("keep", "kept"), [("latest", []), ("all", DUE), (2, DUE[-2:]), (9, DUE)])
def test_checkpoints_are_kept_by_policy_however_often_a_run_was_stopped(lake, keep, kept):
    some = settings(checkpoints={"count": 4, "keep": keep})
    for step in (3, 8, 11, 30, 35):
        with pytest.raises(StoppedError):
            train.run(some, lake, progress=Signalling(step))
        there = steps(lake)
        assert there[-1] == step
        assert len([each for each in there if each not in DUE]) <= 1
    train.run(some, lake)
    assert steps(lake) == kept
    with pytest.raises(ValidationError):
        CheckpointSettings(keep=0)


def test_checkpoints_load_as_dictionaries_and_damage_is_found(lake):
    found = {}

    def evaluate(dictionary, step):
        found[step] = {name: tensor.clone() for name, tensor in dictionary.tensors().items()}
        return {}

    train.run(settings(checkpoints={"count": 4, "keep": 2}), lake, evaluate=evaluate)
    for name, step in (("s/one@24", 24), ("s/one@latest", 32), ("dictionaries/s/one@32", 32)):
        loaded = dictionaries.load(lake, name).tensors()
        assert all(torch.equal(loaded[each], found[step][each]) for each in loaded)
    with pytest.raises(ArtefactNotFoundError, match="checkpoint") as caught:
        dictionaries.load(lake, "s/one@8")
    assert caught.value.hint == "s/one has checkpoints at 24, 32"
    with pytest.raises(ArtefactNotFoundError) as caught:
        dictionaries.load(lake, "s/two@latest")
    assert "has none" in caught.value.hint
    path = lake.storage.path(f"{FOLDER}/checkpoints/000000024/weights.safetensors")
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedArtefactError, match=r"weights\.safetensors"):
        dictionaries.load(lake, "s/one@24")


def test_divergence_names_a_checkpoint_whose_weights_are_numbers(lake):
    """ReLU without penalty under a rate that rises to 1e30: the loss overflows after some steps."""
    wild = settings(
        optimizer={"lr": 1e30, "clip_norm": None},
        schedule={"warmup": 1.0, "cooldown": 0},
        dictionary={
            "family": "sae", "hookpoint": HOOKPOINT, "d_sae": 23,
            "activation": {"kind": "relu"}, "decoder_norm": "free",
        },
        checkpoints={"count": 40, "keep": "all"},
    )  # fmt: skip
    with pytest.raises(DivergedError) as caught:
        train.run(wild, lake)
    last = steps(lake)[-1:]
    for step in last:
        assert f"last good checkpoint: {lake.storage.url}/{FOLDER}/checkpoints/{step:09d}" in (
            caught.value.hint
        )
        dictionaries.load(lake, f"s/one@{step}")
    assert last or "no checkpoint had been written" in caught.value.hint


def test_weights_that_are_no_numbers_become_no_checkpoint(lake):
    def poison(dictionary, step):
        if step == 16:
            with torch.no_grad():
                dictionary.W_dec[3, 2] = math.nan
        return {}

    with pytest.raises(DivergedError, match="step 16") as caught:
        train.run(settings(checkpoints={"count": 4, "keep": "all"}), lake, evaluate=poison)
    assert steps(lake) == [8]
    assert "000000008" in caught.value.hint


def test_rates_and_memory_stand_in_a_table_of_their_own(lake):
    train.run(settings(), lake)
    table = pq.read_table(lake.storage.path(f"{FOLDER}/timings.parquet")).to_pylist()
    assert {row["name"] for row in table} == {
        "rows_per_s", "seconds_waiting", "peak_memory_bytes",
    }  # fmt: skip
    assert {row["step"] for row in table} == {1, 7, 14, 21, 28, 35, 41}
    assert all(row["value"] >= 0 for row in table)
    assert all(row["value"] > 1e7 for row in table if row["name"] == "peak_memory_bytes")


def test_going_on_elsewhere_is_said(lake):
    with pytest.raises(StoppedError):
        train.run(settings(), lake, time_limit_s=1e-9)
    path = lake.storage.path(f"{FOLDER}/checkpoints/000000001/state.json")
    record = json.loads(path.read_text())
    record["values"]["environment"]["threads"] = 99
    path.write_text(json.dumps(record))
    progress = Recorder()
    train.run(settings(), lake, progress=progress)
    assert any("other threads" in note and "before 99" in note for note in progress.notes)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    if not os.environ.get("TESTS_REQUIRE_PARTS"):
        pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    return tmp_path


WANDB = {"every": 7, "wandb": {"project": "p", "mode": "offline"}}


@pytest.mark.filterwarnings("ignore")
def test_metrics_go_to_wandb_too_and_change_nothing(lake, tmp_path, offline):
    train.run(settings(log=WANDB), lake)
    plain = filled(tmp_path / "plain")
    train.run(settings(), plain)
    assert payload(lake) == payload(plain)
    manifest = lake.manifest(Ref("dictionary", "s/one"))
    assert manifest.fingerprint == plain.manifest(Ref("dictionary", "s/one")).fingerprint
    (log,) = offline.glob("wandb/offline-run-*/*.wandb")
    assert manifest.fingerprint[:16] in log.name
    data = log.read_bytes()
    for name in (b"ev_batch", b"density_histogram", b"rows_per_s", b"grad_norm"):
        assert name in data


def test_without_wandb_the_error_says_what_to_install(lake, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError) as caught:
        train.run(settings(log=WANDB), lake)
    assert caught.value.hint == "pip install 'saestore[wandb]'"
    assert not lake.storage.exists(FOLDER)
