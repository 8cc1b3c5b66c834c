"""p-anneal: λ · mean over rows of Σ_i (f_i n_i)^p, with p falling from 1 towards a count.

With S the start and T the steps of the run, p falls at the steps S + j (T − S)/U, j = 0 … U − 1, by
(1 − p_end)/U each time. At each fall

    λ ← λ · mean(Σ f^p) / mean(Σ f^p')          over the last steps' batches, p' the next exponent

so that the penalty does not jump. Where falls lie closer than the last steps reach, those steps are
compared at all exponents since; where a schedule has more falls than steps, p falls several times at
one. The sums of those steps are part of each checkpoint.

Source: Karvonen et al. 2024 (arXiv:2408.00113).
"""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saestore.train import schedules
from saestore.train.objectives.base import Pass, Penalty
from saestore.train.objectives.p_norm import power_sums
from saestore_schemas.objective import PAnnealSettings


class PAnneal(Penalty):
    """A power that falls.

    Attributes:
        falls: How often p has fallen.
        multiplier: What λ has been multiplied with at the falls.
    """

    def __init__(self, settings: PAnnealSettings, total_steps: int) -> None:
        super().__init__(settings, total_steps)
        self.settings = settings
        self.start = schedules.steps_of(settings.start, total_steps)
        self.falls = 0
        self.multiplier = 1.0
        self._queue: list[list[float]] = []  # of each of the last steps: falls to its sum

    def exponent(self, falls: int) -> float:
        """Return p after so many falls."""
        share = min(falls / self.settings.updates, 1.0)
        return 1 - (1 - self.settings.p_end) * share

    def falls_at(self, step: int) -> int:
        """Return how often p has fallen at a step, a fall at that step among them."""
        if step < self.start:
            return 0
        length = max(self.total_steps - self.start, 1)
        return min((step - self.start) * self.settings.updates // length + 1, self.settings.updates)

    @override
    def value(self, seen: Pass) -> Float[Tensor, ""]:
        """Return Σ (f n)^p, and remember it at each exponent that a fall may compare it at."""
        code = seen.output.code.penalised
        entries = code.scaled(seen.dictionary.column_norms())
        self._fall(self.falls_at(seen.step))
        found = power_sums(code, entries, self.exponent(self.falls)).mean()
        sums = [math.nan] * (self.settings.updates + 1)
        sums[self.falls] = float(found.detach())
        with torch.no_grad():
            for falls in self._coming(seen.step):
                sums[falls] = float(power_sums(code, entries, self.exponent(falls)).mean())
        self._queue.append(sums)
        del self._queue[: -self.settings.queue]
        return found

    def _coming(self, step: int) -> list[int]:
        """Return to how many falls p comes while a step stands in the queue."""
        last = min(step + self.settings.queue, self.total_steps - 1)
        there = {self.falls_at(each) for each in range(step + 1, last + 1)}
        return sorted(there - {self.falls})

    def _fall(self, falls: int) -> None:
        """Go to so many falls, and to the λ that keeps the penalty of the last steps.

        Of several falls at once, each keeps what the one before it left: the exponents between them
        cancel.
        """
        if falls == self.falls:
            return
        before = sum(sums[self.falls] for sums in self._queue)
        after = sum(sums[falls] for sums in self._queue)
        if before > 0 and after > 0:  # nothing fired: nothing to match
            self.multiplier *= before / after
        self.falls = falls

    @override
    def weight(self, step: int) -> float:
        """Return λ at a step, with what the falls so far have multiplied it with."""
        return super().weight(step) * self.multiplier

    def state(self) -> dict[str, Tensor]:
        """Return what it remembers."""
        return {
            "queue": torch.tensor(self._queue, dtype=torch.float64),
            "multiplier": torch.tensor([self.multiplier], dtype=torch.float64),
            "falls": torch.tensor([self.falls]),
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Remember that again."""
        self._queue = tensors["queue"].tolist()
        self.multiplier = float(tensors["multiplier"])
        self.falls = int(tensors["falls"])
