"""Learning rate and penalty weight over a run: pure functions of the step.

With T steps in all, s = 0 … T−1, warm-up w, cool-down q and end ratio r:

    constant   min(1, (s+1)/w, r + (1−r)(T−s)/q)
    linear     (s+1)/w, then r + (1−r)(T−s)/(T−w)
    cosine     (s+1)/w, then r + (1−r)(1 + cos πp)/2,  p = (s−w)/(T−w)
    penalty    min(1, s/w)

A length of 0 drops its term.
"""

import math

from saestore_schemas.train import ScheduleSettings, Steps


WARMUP_LIMIT = 1000
"""Longest learning-rate warm-up that a share may mean, in steps."""


def steps_of(length: Steps, total: int) -> int:
    """Return a length in steps: an integer as it is, a float as that share of all steps."""
    return length if isinstance(length, int) else math.floor(length * total)


def learning_rate_factor(settings: ScheduleSettings, step: int, total: int) -> float:
    """Return the factor of the learning rate at a step.

    Args:
        settings: Shape and lengths.
        step: From 0; `total` gives where the rate ends.
        total: Steps of the whole run.
    """
    warmup = steps_of(settings.warmup, total)
    if isinstance(settings.warmup, float):
        warmup = min(warmup, WARMUP_LIMIT)
    rise = (step + 1) / warmup if warmup else 1.0
    return min(1.0, rise, _fall(settings, step, total, warmup))


def penalty_factor(warmup: Steps, step: int, total: int) -> float:
    """Return the factor of a penalty's weight at a step: linear from 0."""
    length = steps_of(warmup, total)
    return min(1.0, step / length) if length else 1.0


def _fall(settings: ScheduleSettings, step: int, total: int, warmup: int) -> float:
    end = settings.end_ratio
    if settings.kind == "constant":
        length = steps_of(settings.cooldown, total)
        return end + (1 - end) * (total - step) / length if length else 1.0
    if step < warmup:
        return 1.0
    left = (total - step) / (total - warmup) if total > warmup else 0.0
    share = left if settings.kind == "linear" else (1 + math.cos(math.pi * (1 - left))) / 2
    return end + (1 - end) * share


def checkpoint_steps(count: int, total: int) -> tuple[int, ...]:
    """Return after which steps a checkpoint is written: evenly spaced, never at the very end."""
    return tuple(sorted({total * i // (count + 1) for i in range(1, count + 1)} - {0, total}))
