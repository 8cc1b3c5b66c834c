"""What a term of the objective sees, and what it gives back. None of them knows a family.

Everything is in normalised units, summed over output hookpoints, mean over rows.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from saestore.dictionaries import DictionaryOutput, SparseDictionary
from saestore.train import schedules
from saestore_schemas.objective import SparsitySettings


@dataclass(frozen=True)
class Pass:
    """One forward pass, as losses see it.

    Attributes:
        dictionary: What was run.
        inputs: Normalised rows.
        targets: Normalised rows that the reconstructions should equal.
        output: Code and reconstructions.
        dead: Features that have been silent too long, this batch counted.
        step: From 0.
        autocast: Narrow type in which products are wanted; None, that of their factors.
    """

    dictionary: SparseDictionary
    inputs: Mapping[str, Float[Tensor, "row _"]]
    targets: Mapping[str, Float[Tensor, "row _"]]
    output: DictionaryOutput
    dead: Int64[Tensor, " feature"]
    step: int
    autocast: torch.dtype | None = None

    def revived(
        self, features: Int64[Tensor, " feature"], k: int
    ) -> dict[str, Float[Tensor, "row _"]]:
        """Return what some features would write if the k strongest of a row fired; see there."""
        wanted = self.autocast is not None
        with torch.autocast(features.device.type, dtype=self.autocast, enabled=wanted):
            return self.dictionary.reconstruct_with(self.inputs, self.output, features, k)


@runtime_checkable
class LossTerm(Protocol):
    """One term of the loss. One that remembers earlier steps has `state` and `load_state` too."""

    name: str

    def __call__(self, seen: Pass) -> Float[Tensor, ""]:
        """Return the term, weighted."""
        ...

    def weight(self, step: int) -> float:
        """Return its weight at a step, for the log."""
        ...


class Penalty(ABC):
    """A sparsity penalty: its weight rises linearly to the settings' coefficient."""

    name = "sparsity"

    def __init__(self, settings: SparsitySettings, total_steps: int) -> None:
        self.total_steps = total_steps
        self._coefficient, self._warmup = settings.coefficient, settings.warmup

    def __call__(self, seen: Pass) -> Float[Tensor, ""]:
        """Return the term, weighted."""
        return self.value(seen) * self.weight(seen.step)

    @abstractmethod
    def value(self, seen: Pass) -> Float[Tensor, ""]:
        """Return the term without its weight."""

    def weight(self, step: int) -> float:
        """Return λ at a step."""
        factor = schedules.penalty_factor(self._warmup, step, self.total_steps)
        return self._coefficient * factor
