"""Learning rate and penalty weight over a run: pure functions of the step.

With T steps in all, s = 0 … T−1, warm-up w, cool-down q and end ratio r:

    constant      min(1, (s+1)/w, r + (1−r)(T−s)/q)
    linear        (s+1)/w, then r + (1−r)(T−s)/(T−w)
    cosine        (s+1)/w, then r + (1−r)(1 + cos πp)/2,  p = (s−w)/(T−w)
    exponential   (s+1)/w, then r^p
    penalty       min(1, s/w)

A length of 0 drops its term. Cosine and exponential end at r, too: libraries that ignore the end
ratio there, or add a linear fall to 0 behind a cosine, have other curves.
"""

import math

from saestore_schemas.optimize import CheckpointSettings, ScheduleSettings, Steps


COOLDOWN = 0.2
"""Share of all steps over which a constant learning rate falls when nobody says."""
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
        cooldown = COOLDOWN if settings.cooldown is None else settings.cooldown
        length = steps_of(cooldown, total)
        return end + (1 - end) * (total - step) / length if length else 1.0
    if step < warmup:
        return 1.0
    left = (total - step) / (total - warmup) if total > warmup else 0.0
    if settings.kind == "exponential":
        return float(end ** (1 - left))
    share = left if settings.kind == "linear" else (1 + math.cos(math.pi * (1 - left))) / 2
    return end + (1 - end) * share


def checkpoint_steps(settings: CheckpointSettings, total: int) -> tuple[int, ...]:
    """Return after which steps a checkpoint is written, never at the very end.

    Linear spacing: T i/(n+1) for i = 1 … n; log spacing: T^(i/(n+1)). Steps that coincide are one.
    """
    shares = [i / (settings.count + 1) for i in range(1, settings.count + 1)]
    if settings.spacing == "log":
        steps = {round(total**share) for share in shares}
    else:
        steps = {total * i // (settings.count + 1) for i in range(1, settings.count + 1)}
    return tuple(sorted(steps - {0, total}))
