"""Schedules against the numbers of other libraries' recorded runs; 0 is legal everywhere."""

import itertools
import math

import pytest
from pydantic import ValidationError

from saestore.train import schedules
from saestore_schemas.optimize import CheckpointSettings, ScheduleSettings


def rates(lr, total, **settings):
    chosen = ScheduleSettings(**settings)
    return [lr * schedules.learning_rate_factor(chosen, step, total) for step in range(total + 1)]


def test_warm_up_and_cool_down_as_saelens_counts_them():
    found = rates(0.1, 6, warmup=2, cooldown=4, end_ratio=0.0)
    assert found == pytest.approx([0.05, 0.1, 0.1, 0.075, 0.05, 0.025, 0])


def test_llamascopiums_recorded_run():
    found = rates(0.02, 976, warmup=100, cooldown=195, end_ratio=1 / 32)
    assert found[799] == pytest.approx(0.018212, abs=5e-7)
    assert found[969] == pytest.approx(0.001321, abs=5e-7)


FALLING = ["linear", "cosine", "exponential"]


@pytest.mark.parametrize(
    ("kind", "cooldown"),
    [*(("constant", each) for each in (0, 0.0, 4, 1.0, None)), *((kind, None) for kind in FALLING)],
)
@pytest.mark.parametrize("warmup", [0, 0.0, 3, 0.5, 40])
@pytest.mark.parametrize("end", [0.001, 0.1, 1.0])
@pytest.mark.parametrize("total", [1, 2, 17])
def test_every_length_is_legal_and_the_factor_stays_between_0_and_1(
    kind, warmup, cooldown, end, total
):
    found = rates(1.0, total, kind=kind, warmup=warmup, cooldown=cooldown, end_ratio=end)
    assert all(0 <= rate <= 1 for rate in found)
    assert all(rate > 0 for rate in found[:-1])


def test_nothing_at_all_is_a_constant():
    assert rates(0.3, 9, warmup=0, cooldown=0) == [0.3] * 10


@pytest.mark.parametrize(
    ("kind", "middle"), [("linear", 0.625), ("cosine", 0.625), ("exponential", 0.5)]
)
def test_falling_kinds_honour_their_end(kind, middle):
    found = rates(1.0, 100, kind=kind, warmup=10, end_ratio=0.25)
    assert found[9] == found[10] == 1.0
    assert found[55] == pytest.approx(middle)
    assert found[100] == pytest.approx(0.25)


def test_exponential_falls_by_the_same_factor_each_step():
    found = rates(0.3, 50, kind="exponential", warmup=10, end_ratio=1e-3)
    assert found[-1] == pytest.approx(3e-4)
    ratios = [b / a for a, b in itertools.pairwise(found[10:])]
    assert ratios == pytest.approx([1e-3 ** (1 / 40)] * 40, rel=1e-12)


def test_cosine_is_saelens_until_it_goes_on_to_zero():
    """Its run of 8 with warm-up 2 and decay 2 is a cosine over 4 steps; the decay is not ours."""
    theirs = [0.01 + (1 - 0.01) * (1 + math.cos(math.pi * i / 4)) / 2 for i in range(5)]
    found = rates(1.0, 6, kind="cosine", warmup=2, end_ratio=0.01)
    assert found[:2] == [0.5, 1.0]
    assert found[2:] == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "cosine", "cooldown": 0.1}, "falls over the whole run"),
        ({"kind": "exponential"}, "give end_ratio"),
    ],
)
def test_what_a_schedule_cannot_do_is_refused(given, message):
    with pytest.raises(ValidationError, match=message):
        ScheduleSettings(**given)
    stored = ScheduleSettings(kind="linear").model_dump()
    assert ScheduleSettings(**stored) == ScheduleSettings(kind="linear")


def test_a_share_of_warm_up_has_a_limit_and_an_integer_has_none():
    assert rates(1.0, 100_000, warmup=0.05, cooldown=0)[999] == 1.0
    assert rates(1.0, 100_000, warmup=5000, cooldown=0)[2499] == 0.5


def test_penalties_rise_from_zero():
    factors = [schedules.penalty_factor(4, step, 10) for step in range(6)]
    assert factors == [0, 0.25, 0.5, 0.75, 1, 1]
    assert [schedules.penalty_factor(0, step, 10) for step in range(2)] == [1, 1]
    assert schedules.penalty_factor(1.0, 5, 10) == 0.5  # the whole run
    assert schedules.penalty_factor(1, 5, 10) == 1  # one step


def test_lengths_are_steps_or_shares():
    assert schedules.steps_of(3, 10) == 3
    assert schedules.steps_of(0.25, 10) == 2
    assert schedules.steps_of(1.0, 10) == 10


@pytest.mark.parametrize("count", [0, 1, 3, 10, 50])
def test_checkpoints_are_evenly_spaced_inside_the_run(count):
    steps = schedules.checkpoint_steps(CheckpointSettings(count=count), 23)
    assert len(steps) == min(count, 22)
    assert all(0 < step < 23 for step in steps)
    gaps = [b - a for a, b in zip((0, *steps), (*steps, 23), strict=True)]
    assert max(gaps) - min(gaps) <= 1
    assert math.isclose(sum(gaps), 23)


def test_log_spaced_checkpoints_are_each_as_many_times_later():
    wanted = CheckpointSettings(count=5, spacing="log")
    assert schedules.checkpoint_steps(wanted, 10**6) == (10, 100, 1000, 10**4, 10**5)
    few = schedules.checkpoint_steps(CheckpointSettings(count=50, spacing="log"), 23)
    assert few[:12] == tuple(range(1, 13))
    assert len(set(few)) == len(few) < 23
