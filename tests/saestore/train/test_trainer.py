"""A trainer counts dead features in rows, clips by the plain L2 norm, and measures what it says."""

import io
import math

import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError

from saestore.dictionaries import backends, build
from saestore.errors import DivergedError
from saestore.testing.dictionaries import D_IN, HOOK, ExactMoments, raw_rows
from saestore.train import objectives
from saestore.train.counters import FiringCounters
from saestore.train.metrics import MetricsTable
from saestore.train.optimizer import Optimizer
from saestore.train.trainer import Schedule, Trainer
from saestore_schemas.dictionary import Relu, TopK
from saestore_schemas.families import SaeSettings
from saestore_schemas.objective import AuxSettings, L1Settings, LossSettings
from saestore_schemas.optimize import (
    LogSettings,
    OptimizerSettings,
    PrecisionSettings,
    ScheduleSettings,
)
from saestore_schemas.tables import METRICS
from saestore_schemas.train import (
    ActivationsSettings,
    BudgetSettings,
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


UNIT = SaeSettings(hookpoint=HOOK, d_sae=23, activation=TopK(k=2), decoder_norm="unit")


def batch(n=16, seed=0):
    return {HOOK: torch.from_numpy(raw_rows(n, seed=seed)).float()}


def test_steps_with_the_kernels_for_cuda_are_those_without(with_triton):
    found = {}
    for backend in ("loops", "triton"):
        one = trainer(batch=5, steps=3)
        with backends.using(backend):
            for number in range(2):
                one.advance(batch(5, seed=number), log=number == 1)
        found[backend] = one.dictionary.tensors()
    torch.testing.assert_close(found["triton"], found["loops"], rtol=1e-5, atol=1e-6)


NARROW = ["bfloat16", "float16"]


def of_type(dtype, **changes):
    sae = SaeSettings(hookpoint=HOOK, d_sae=23, activation=TopK(k=2), dtype=dtype)
    return trainer(steps=200, dictionary=sae, **changes)


@pytest.mark.parametrize("dtype", [*NARROW, "float64"])
def test_weights_of_any_type_learn_as_float32_ones_do(dtype):
    found = {}
    for each in ("float32", dtype):
        one = of_type(each)
        logged = [one.advance(batch(seed=i), log=True)["ev_batch"] for i in range(60)]
        found[each] = sum(logged[-20:]) / 20
        assert found[each] > sum(logged[:5]) / 5 + 0.05
    assert found[dtype] == pytest.approx(found["float32"], abs=0.02)
    assert str(one.dictionary.W_dec.dtype) == f"torch.{dtype}"


def test_steps_smaller_than_the_rounding_of_weights_add_up():
    parameter = torch.nn.Parameter(torch.ones(3, 2, dtype=torch.bfloat16))
    optimizer = Optimizer({"w": parameter}, OptimizerSettings(), lr=1e-4)
    for _ in range(200):
        optimizer.zero_grad()
        parameter.grad = torch.ones_like(parameter)
        optimizer.collect_()
        optimizer.step(1.0)
        optimizer.publish_()
    # Of 1 the next smaller bfloat16 is 0.996: rounded step by step, it would still be 1.
    assert parameter.tolist() == [[pytest.approx(0.98, abs=2**-8)] * 2] * 3
    torch.testing.assert_close(optimizer.masters["w"], torch.full((3, 2), 0.98), rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", NARROW)
def test_narrow_decoders_stay_on_their_constraint(dtype):
    sae = UNIT.model_copy(update={"dtype": dtype})
    one = trainer(steps=200, dictionary=sae)
    for i in range(5):
        one.advance(batch(seed=i), log=False)
    lengths = torch.linalg.vector_norm(one.optimizer.masters["W_dec"], dim=1)
    torch.testing.assert_close(lengths, torch.ones(23))
    assert torch.equal(
        one.optimizer.masters["W_dec"].to(one.dictionary.W_dec), one.dictionary.W_dec
    )


def test_parts_of_a_batch_are_added_up_in_float32():
    loss = LossSettings(aux=AuxSettings(coefficient=0))
    whole, parts = (
        of_type("bfloat16", loss=loss, optimizer=OptimizerSettings(accumulate=n)) for n in (1, 8)
    )
    for one in (whole, parts):
        one.advance(batch(seed=3), log=False)
    for name in whole.optimizer.masters:
        moved = [one.optimizer.state()[f"{name}.exp_avg"] for one in (whole, parts)]
        assert moved[1].dtype == torch.float32
        torch.testing.assert_close(*moved, rtol=2**-5, atol=2**-5 * float(moved[0].abs().max()))


@pytest.mark.parametrize("dtype", NARROW)
def test_a_state_with_narrow_weights_goes_on_bit_for_bit(dtype):
    straight = of_type(dtype)
    for i in range(6):
        straight.advance(batch(seed=i), log=False)
        if i == 2:
            tensors, values = straight.state()
            tensors = {name: each.clone() for name, each in tensors.items()}
            weights = [p.detach().clone() for p in straight.dictionary.parameters()]
    resumed = of_type(dtype)
    for mine, saved in zip(resumed.dictionary.parameters(), weights, strict=True):
        mine.data.copy_(saved)
    resumed.load_state(tensors, values)
    for i in range(3, 6):
        resumed.advance(batch(seed=i), log=False)
    ours, theirs = resumed.dictionary.tensors(), straight.dictionary.tensors()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    masters = resumed.optimizer.masters
    assert all(torch.equal(masters[n], each) for n, each in straight.optimizer.masters.items())


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


def test_a_step_is_adam_on_the_projected_gradient():
    one = trainer(
        dictionary=UNIT,
        optimizer=OptimizerSettings(lr=0.01, clip_norm=None),
        schedule=ScheduleSettings(warmup=0, cooldown=0),
    )
    twin = trainer(dictionary=UNIT, optimizer=OptimizerSettings(lr=0.01, clip_norm=None))
    seen = twin._forward(batch(), torch.zeros(23, dtype=torch.int64), whole=True)
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


def test_lengths_are_free_and_ranked_unless_asked_otherwise():
    one = trainer()
    semantics = one.dictionary.config.semantics
    assert (semantics.decoder_norm, semantics.gate_on_decoder_norm) == ("free", True)
    one.advance(batch(), log=False)
    assert (one.dictionary.decoder_norms() - 1).abs().max() > 1e-3
    semantics = trainer(dictionary=UNIT).dictionary.config.semantics
    assert (semantics.decoder_norm, semantics.gate_on_decoder_norm) == ("unit", False)
    alone = SaeSettings(hookpoint=HOOK, d_sae=23, activation=Relu())
    assert (alone.decoder_norm, alone.gated_on_lengths) == ("free", False)
    kept = UNIT.model_copy(update={"decoder_norm": "free", "gate_on_decoder_norm": False})
    assert not kept.gated_on_lengths


def test_metrics_are_what_they_are_called():
    one = trainer(dictionary=UNIT)
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
    assert objectives.dead_after_rows(LossSettings(), rows) == wanted


def relu(**changes):
    sae = SaeSettings(
        hookpoint=HOOK, d_sae=23, activation=Relu(), decoder_norm="free",
        gate_on_decoder_norm=True, scale="dataset_rms",
    )  # fmt: skip
    loss = LossSettings(sparsity=L1Settings(coefficient=0.3, warmup=0))
    return trainer(**{"dictionary": sae, "loss": loss, "batch": 13} | changes)


@pytest.mark.parametrize("accumulate", [2, 5, 13, 40])
def test_a_batch_in_parts_is_the_whole_batch(accumulate):
    """Thirteen rows in 2, 5 and 13 parts: unequal ones, weighted by their rows."""
    whole = relu()
    parts = relu(optimizer=OptimizerSettings(accumulate=accumulate))
    for one in (whole, parts):
        one.dictionary.double()
    for step in range(3):
        rows = {HOOK: batch(13, seed=step)[HOOK].double()}
        a, b = (one.advance(rows, log=True) for one in (whole, parts))
        assert a.keys() == b.keys()
        for name, value in a.items():
            assert b[name] == pytest.approx(value, rel=1e-9, nan_ok=True), name
        for mine, theirs in zip(
            whole.dictionary.parameters(), parts.dictionary.parameters(), strict=True
        ):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)
        assert torch.equal(whole.counters.rows_since_fired, parts.counters.rows_since_fired)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, r"loss\.aux \(on with top-k"),
        ({"loss": LossSettings(aux=AuxSettings())}, r"but loss\.aux is no mean"),
    ],
)
def test_parts_are_refused_where_a_loss_is_no_mean_over_rows(changes, message):
    with pytest.raises(ValidationError, match=message):
        trainer(optimizer=OptimizerSettings(accumulate=2), **changes)
    off = LossSettings(aux=AuxSettings(coefficient=0))
    trainer(optimizer=OptimizerSettings(accumulate=2), loss=off)


def test_bfloat16_products_change_a_step_by_their_rounding():
    exact, rounded = relu(), relu(precision=PrecisionSettings(autocast="bfloat16"))
    a, b = (one.advance(batch(13), log=True) for one in (exact, rounded))
    assert a["loss_mse"] != b["loss_mse"]
    assert b["loss_mse"] == pytest.approx(a["loss_mse"], rel=0.02)
    assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=0.02)
    assert all(p.dtype == torch.float32 for p in rounded.dictionary.parameters())
    assert all(each.dtype == torch.float32 for each in rounded.optimizer.state().values())


def test_under_bfloat16_top_k_still_keeps_exactly_k():
    one = trainer(precision=PrecisionSettings(autocast="bfloat16"))
    found = one.advance(batch(), log=True)
    assert (found["l0_p5"], found["l0_p95"]) == (2, 2)


def test_float16_skips_steps_that_overflow_and_else_learns_alike():
    one = relu(precision=PrecisionSettings(autocast="float16"))
    one._scale.value = 2.0**40
    before = {n: t.clone() for n, t in one.dictionary.tensors().items()}
    found = one.advance(batch(13), log=True)
    assert found["loss_scale"] == 2.0**39
    assert not math.isfinite(found["grad_norm"])
    assert all(torch.equal(t, before[n]) for n, t in one.dictionary.tensors().items())
    one, plain = relu(precision=PrecisionSettings(autocast="float16")), relu()
    one._scale.value = 256.0
    for seed in range(12):
        found, wanted = (each.advance(batch(13, seed=seed), log=True) for each in (one, plain))
        assert found["loss_mse"] == pytest.approx(wanted["loss_mse"], rel=0.01)
        assert found["grad_norm"] == pytest.approx(wanted["grad_norm"], rel=0.01)


def test_densities_over_a_window_forget_what_lies_before_it():
    """40 rows in batches of 16 are three batches; feature 0 fires in the first, 1 in every one."""
    counters = FiringCounters(2, torch.device("cpu"), window=3)
    for step in range(5):
        counters.update(torch.tensor([int(step == 0), 2]), 16)
        firings, rows = counters.drain()
        seen = min(step + 1, 3)
        assert (firings.tolist(), rows) == ([int(step < 3), 2 * seen], 16 * seen)
    one = trainer(log=LogSettings(every=1, density_window=40))
    found = [one.advance(batch(seed=seed), log=True) for seed in range(5)]
    assert [each["density_rows"] for each in found] == [16, 32, 48, 48, 48]


def test_a_trainer_draws_from_random_numbers_of_its_own():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, drawn = trainer(), []
    forward = one.dictionary.forward

    def drawing(inputs):
        drawn.append(float(torch.rand(())))
        return forward(inputs)

    one.dictionary.forward = drawing
    one.advance(batch(), log=False)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    one.advance(batch(), log=False)
    own = torch.Generator().manual_seed(0)
    assert drawn == [float(torch.rand((), generator=own)) for _ in range(2)]
