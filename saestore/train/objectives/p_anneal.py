"""p-anneal: λ · mean over rows of Σ_i (f_i n_i)^p, with p falling from 1 towards a count.

With S the start and T the steps of the run, p falls at the steps S + j (T − S)/U, j = 0 … U − 1, by
(1 − p_end)/U each time. At each fall

    λ ← λ · mean(Σ f^p) / mean(Σ f^p')          over the last steps' batches, p' the next exponent

so that the penalty does not jump. The sums of those steps are part of each checkpoint.

Source: Karvonen et al. 2024 (arXiv:2408.00113).
"""

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
        self._queue: list[tuple[float, float]] = []

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
        """Return Σ (f n)^p, and remember it at this exponent and at the next."""
        code = seen.output.code.penalised
        entries = code.scaled(seen.dictionary.decoder_norms())
        while self.falls < self.falls_at(seen.step):
            self._fall()
        found = power_sums(code, entries, self.exponent(self.falls)).mean()
        with torch.no_grad():
            following = power_sums(code, entries, self.exponent(self.falls + 1)).mean()
        self._queue.append((float(found.detach()), float(following)))
        del self._queue[: -self.settings.queue]
        return found

    def _fall(self) -> None:
        """Take the next exponent, and the λ that keeps the penalty of the last steps."""
        before = sum(now for now, _ in self._queue)
        after = sum(following for _, following in self._queue)
        if before > 0 and after > 0:  # nothing fired: nothing to match
            self.multiplier *= before / after
        # Of a second fall at once, the sums would be those of another exponent.
        self._queue.clear()
        self.falls += 1

    @override
    def weight(self, step: int) -> float:
        """Return λ at a step, with what the falls so far have multiplied it with."""
        return super().weight(step) * self.multiplier

    def state(self) -> dict[str, Tensor]:
        """Return what it remembers."""
        return {
            "queue": torch.tensor([*self._queue, (0.0, 0.0)], dtype=torch.float64)[:-1],
            "multiplier": torch.tensor([self.multiplier], dtype=torch.float64),
            "falls": torch.tensor([self.falls]),
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Remember that again."""
        self._queue = [(float(a), float(b)) for a, b in tensors["queue"].tolist()]
        self.multiplier = float(tensors["multiplier"])
        self.falls = int(tensors["falls"])
