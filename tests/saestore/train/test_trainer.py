"""A trainer counts dead features in rows, clips by the plain L2 norm, and measures what it says."""

import io
import math

import pyarrow.parquet as pq
import pytest
import torch

from saestore.dictionaries import build
from saestore.errors import DivergedError
from saestore.testing.dictionaries import D_IN, HOOK, ExactMoments, raw_rows
from saestore.train import losses
from saestore.train.counters import FiringCounters
from saestore.train.metrics import MetricsTable
from saestore.train.trainer import Schedule, Trainer
from saestore_schemas.dictionary import SaeSettings, TopK
from saestore_schemas.tables import METRICS
from saestore_schemas.train import (
    ActivationsSettings,
    BudgetSettings,
    LossSettings,
    OptimizerSettings,
    ScheduleSettings,
    TrainSettings,
)


def trainer(batch=16, steps=20, **changes):
    sae = SaeSettings(hookpoint=HOOK, d_sae=23, activation=TopK(k=2))
    settings = TrainSettings(
        series="s",
        name="n",
        activations=ActivationsSettings(name="a", batch_rows=batch),
        dictionary=changes.pop("dictionary", sae),
        budget=BudgetSettings(rows=batch * steps),
        **changes,
    )
    dictionary = build(
        settings.dictionary,
        widths={HOOK: D_IN},
        moments={HOOK: ExactMoments(raw_rows(300))},
        init=settings.init,
        seed=0,
    )
    return Trainer(dictionary, settings, Schedule(steps, batch, 64), variance=float(D_IN))


def batch(n=16, seed=0):
    return {HOOK: torch.from_numpy(raw_rows(n, seed=seed)).float()}


@pytest.mark.parametrize("size", [4, 8, 16])
def test_silence_is_counted_in_rows_whatever_the_batch_size(size):
    """Feature 0 fires on row 7 of 64, feature 1 never."""
    counters = FiringCounters(2, torch.device("cpu"))
    for start in range(0, 64, size):
        fired = torch.tensor([int(start <= 7 < start + size), 0])
        counters.update(fired, size)
    assert counters.rows_since_fired.tolist() == [64 - (7 // size + 1) * size, 64]
    assert counters.silent(64).tolist() == [False, True]
    assert counters.drain()[1] == 64
    assert counters.drain() == (pytest.approx([0, 0]), 0) or counters.rows == 0


def test_dead_is_known_with_the_current_batch_counted():
    one = trainer(batch=16, steps=20)
    with torch.no_grad():
        one.dictionary.b_enc[3] = -1e4
    found = [one.advance(batch(seed=i), log=True) for i in range(5)]
    # 64 rows are four batches: dead in the fourth, not the fifth
    assert found[2]["loss_aux"] == 0
    assert found[3]["dead"] >= 1
    assert found[3]["loss_aux"] > 0


def test_clipping_is_by_the_plain_l2_norm_of_everything():
    ones = [torch.nn.Parameter(torch.zeros(100)) for _ in range(100)]
    one = trainer(optimizer=OptimizerSettings(clip_norm=7.3))
    one._named = {str(i): p for i, p in enumerate(ones)}
    for p in ones:
        p.grad = torch.ones(100)
    assert one._clip() == 100.0
    clipped = torch.cat([p.grad for p in ones])
    assert math.isclose(float(clipped.norm()), 7.3, rel_tol=1e-5)
    for p in ones:
        p.grad = torch.full((100,), 0.01)
    assert one._clip() == pytest.approx(1.0)
    assert float(ones[0].grad[0]) == pytest.approx(0.01)


def test_a_step_is_adam_on_the_projected_gradient():
    one = trainer(
        optimizer=OptimizerSettings(lr=0.01, clip_norm=None),
        schedule=ScheduleSettings(warmup=0, cooldown=0),
    )
    twin = trainer(optimizer=OptimizerSettings(lr=0.01, clip_norm=None))
    seen = twin._forward(batch())
    torch.stack([term(seen) for term in twin.terms]).sum().backward()
    twin.dictionary.project_gradient_()
    plain = torch.optim.Adam(twin.dictionary.parameters(), lr=0.01, foreach=False, fused=False)
    plain.step()
    twin.dictionary.renormalise_()
    one.advance(batch(), log=False)
    for mine, theirs in zip(one.dictionary.parameters(), twin.dictionary.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(one.dictionary.decoder_norms().detach(), torch.ones(23))


def test_the_default_learning_rate_is_scaled_by_width():
    assert trainer().lr == pytest.approx(2e-4 / math.sqrt(23 / 2**14))


def test_no_decoder_bias_stays_zero():
    sae = SaeSettings(hookpoint=HOOK, d_sae=23, activation=TopK(k=2), decoder_bias=False)
    one = trainer(dictionary=sae)
    for seed in range(5):
        one.advance(batch(seed=seed), log=False)
    assert (one.dictionary.b_dec == 0).all()


def test_metrics_are_what_they_are_called():
    one = trainer()
    weights = {n: t.clone() for n, t in one.dictionary.tensors().items()}
    rows = batch()
    found = one.advance(rows, log=True)
    before = one.dictionary.restore(one.dictionary.config, one.dictionary.scales, weights)
    x = before.normalise(rows)[HOOK].double()
    code = before.encode(rows)
    error = x - before.decode_normalised(code)[HOOK].detach().double()
    ev = 1 - error.square().sum() / (x - x.mean(dim=0)).square().sum()
    assert found["ev_batch"] == pytest.approx(float(ev), rel=1e-5)
    assert found["loss_mse"] == pytest.approx(float(error.square().sum(dim=1).mean()), rel=1e-5)
    assert found["l0_mean"] == pytest.approx(float(code.l0().double().mean()))
    assert found["activation_mean"] == pytest.approx(float(code.values.mean()), rel=1e-5)
    assert found["l2_error"] == pytest.approx(float(error.norm(dim=1).mean()), rel=1e-5)
    assert found["k"] == 2
    assert found["dec_norm_mean"] == pytest.approx(1.0)
    assert sum(found["density_histogram"]) == 23
    never = 23 - len(code.indices.unique())
    assert found["density_histogram"][-1] == never
    assert found["density_below_1e-5"] == pytest.approx(never / 23)


def test_the_metrics_table_is_its_schema_and_survives_a_round_trip():
    table = MetricsTable()
    table.add(1, 16, {"b": 2.0, "a": (1.0, math.nan)})
    data = table.to_bytes()
    found = pq.read_table(io.BytesIO(data))
    assert found.schema.equals(METRICS.schema())
    assert found.to_pylist() == [
        {"step": 1, "rows": 16, "name": "a", "index": 0, "value": 1.0},
        {"step": 1, "rows": 16, "name": "a", "index": 1, "value": None},
        {"step": 1, "rows": 16, "name": "b", "index": 0, "value": 2.0},
    ]
    again = MetricsTable.from_bytes(data)
    assert again.to_bytes() == data
    assert MetricsTable().to_bytes()


def test_a_diverged_step_touches_no_weight():
    one = trainer()
    before = {n: t.clone() for n, t in one.dictionary.tensors().items()}
    rows = batch()
    rows[HOOK][2, 3] = math.nan
    with pytest.raises(DivergedError) as caught:
        one.advance(rows, log=False)
    assert caught.value.step == 0
    assert all(torch.equal(t, before[n]) for n, t in one.dictionary.tensors().items())


@pytest.mark.parametrize(("rows", "wanted"), [(50, 5), (10**9, 10**7), (3, 1)])
def test_the_dead_window_fits_the_run(rows, wanted):
    assert losses.dead_after_rows(LossSettings(), rows) == wanted
