"""k over a run: from an initial number down to the activation function's own, rounded up.

    k(step) = max(k, ⌈k₀ − (k₀ − k) φ(p)⌉),   p = (step − hold) / steps between 0 and 1
    φ = p, or (1 − e^(−r p)) / (1 − e^(−r))

A pure function of the step. More features fire while it falls, so fewer die early.
"""

import math

from saestore.train import schedules
from saestore_schemas.objective import KScheduleSettings


class KSchedule:
    """k at each step."""

    def __init__(self, settings: KScheduleSettings, k: float, total_steps: int) -> None:
        """Take settings.

        Args:
            settings: Where k starts and how it falls.
            k: Where it ends.
            total_steps: Steps of the whole run.
        """
        self.settings = settings
        self.k = k
        self.hold = schedules.steps_of(settings.hold, total_steps)
        self.steps = schedules.steps_of(settings.steps, total_steps)

    def at(self, step: int) -> float:
        """Return k at a step, from 0."""
        passed = step - self.hold
        if passed >= self.steps:
            return self.k
        share = max(passed, 0) / self.steps
        if self.settings.kind == "exponential":
            rate = self.settings.rate
            share = (1 - math.exp(-rate * share)) / (1 - math.exp(-rate))
        initial = self.settings.initial
        return max(self.k, float(math.ceil(initial - (initial - self.k) * share)))
