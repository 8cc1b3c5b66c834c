"""The known-dictionary benchmark: its start knows nothing, its goals say what they say."""

import json

import numpy as np
import pytest
import torch

from benchmarks import known_dictionary, known_run
from benchmarks.known_run import BATCH, D_SAE, LIBRARIES, OURS, WIDTH, Array, settings_of, start
from saestore.evaluate import known
from saestore.testing.known_data import KnownData, stream


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.f32"
    known_dictionary.write_rows(path, seed=1, steps=3)
    return path


def test_the_array_is_read_as_it_was_drawn(rows, tmp_path):
    drawn = list(KnownData.p1().batches(3, BATCH, stream(1, "train")))
    read = list(Array(rows, 3))
    assert all(torch.equal(a, torch.from_numpy(b)) for a, b in zip(read, drawn, strict=True))
    again = known_dictionary.write_rows(tmp_path / "again", seed=1, steps=3)
    other = known_dictionary.write_rows(tmp_path / "other", seed=2, steps=3)
    assert (tmp_path / "again").read_bytes() == rows.read_bytes()
    assert again != other
    with pytest.raises(EOFError, match="ends before step 4"):
        list(Array(rows, 4))


def test_no_start_is_nearer_to_the_truth_than_chance(monkeypatch):
    truth = KnownData.p1().directions
    floor = known.floor(D_SAE, truth).mcc[0]
    starts = [start(seed)["W_dec"].numpy() for seed in range(1, 4)]
    assert all(abs(known.mcc(known.similarity(each, truth)) - floor) <= 0.02 for each in starts)
    # one stream for the directions and the start, seed 0 of both: the trap
    monkeypatch.setattr(known_run, "stream", lambda seed, _: stream(seed, "directions"))
    with pytest.raises(RuntimeError, match="the start knows the truth"):
        start(0)


@pytest.mark.parametrize("variant", OURS)
def test_settings_of_every_variant_are_valid(variant):
    for unit in (False, True):
        settings = settings_of(variant, 100, unit=unit)
        assert settings.dictionary.decoder_norm == ("unit" if unit else "free")
        assert settings.budget.rows == 100 * BATCH


def made_up(library, variant, seed, **scores):
    plain = dict.fromkeys(known_dictionary.SHOWN, 0.5)
    return {
        "library": library, "variant": variant, "seed": seed, "scores": {**plain, **scores},
    }  # fmt: skip


def test_goals_compare_with_one_deviation_of_the_peer(tmp_path):
    seeds = (1, 2, 3)
    peers = [
        made_up("sae-lens", "topk", seed, EV=0.70 + 0.01 * seed, F1=0.6 + 0.01 * seed)
        for seed in seeds
    ]
    ours = [made_up("saestore", "topk", seed, EV=0.711, F1=0.609, seconds=0.4) for seed in seeds]
    peers += [made_up("sae-lens", "jumprelu", seed, L0=7.2) for seed in seeds]
    ours += [made_up("saestore", "jumprelu", seed, L0=7.3) for seed in seeds]
    wrong = [made_up("saestore", "batchtopk", seed, L0=8.09) for seed in (1, 2)]
    other = [made_up("saestore-unit", "topk", seed, EV=0.3) for seed in seeds]
    for each in (*peers, *ours, *wrong, *other):
        path = tmp_path / f"{each['variant']}-{each['library']}-{each['seed']}-9.json"
        path.write_text(json.dumps(each))
    broken = {"library": "sae-lens", "variant": "matryoshka", "seed": 1, "error": "ValueError: no"}
    (tmp_path / "matryoshka-sae-lens-1-9.json").write_text(json.dumps(broken))
    results = known_dictionary._read(tmp_path, 9)
    goals = {goal.text: goal.holds for goal in known_dictionary.judged(results)}
    assert goals["topk: EV within one std of sae-lens or better"]
    assert not goals["topk: F1 within one std of sae-lens or better"]
    assert goals["topk: seconds at most sae-lens's"]
    assert not goals["batchtopk: L0 on fresh rows within 1 % of k"]
    assert not goals["jumprelu: L0 within 1 % of sae-lens's"]  # 1.4 %
    lines = "\n".join(known_dictionary.tables(results, 9))
    assert "matryoshka sae-lens seed 1: ValueError: no" in lines
    assert "random dictionary (floor)" in lines
    assert "0.36" in lines
    assert (
        "holds  topk: EV within one std of sae-lens or better: 0.7110, theirs 0.7200 ± 0.0100"
        in lines
    )
    assert "FAILS  topk: F1" in lines
    mean, low, high = known_dictionary.difference(
        known_dictionary.paired(results, "saestore", "topk"), "EV"
    )
    assert mean == pytest.approx(0.711 - 0.72)
    assert low < mean < high < 0.005


def test_seeds_that_decided_something_are_not_judged():
    assert not set(known_dictionary.SEEDS) & {*range(1, 6), *range(101, 106)}


def test_peak_memory_is_counted_from_when_it_was_forgotten():
    held = np.ones(8_000_000)
    del held
    before = known_run.forget_peak()
    held = np.ones(4_000_000)
    peak = known_run.memory("VmHWM") - before
    # The array's ends share pages with what was there before.
    assert held.nbytes - 2**16 <= peak < held.nbytes + 8 * 2**20


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_short_run_finds_more_than_chance(library, tmp_path):
    steps = 1500
    path = tmp_path / "rows.f32"
    known_dictionary.write_rows(path, seed=1, steps=steps)
    found = known_run.scores(LIBRARIES[library]("batchtopk", 1, Array(path, steps)), 1)
    floor = known.floor(D_SAE, KnownData.p1().directions).mcc[0]
    assert found["MCC"] > floor + 0.2
    assert found["EV"] > 0.6
    assert found["F1"] > 0.4
    if library != "sae-lens":
        assert found["L0"] == pytest.approx(8, rel=0.01)
    assert np.isfinite(list(found.values())).all()
    assert WIDTH == 64
