"""One optimiser step at a time, for every family. No file is touched here.

    normalise → forward → counters → loss → backward → project → clip → Adam → renormalise

The order is part of the law "resumed = uninterrupted"; so is `state`, which holds everything a
step reads and no step can compute again.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saestore.dictionaries import SparseDictionary
from saestore.errors import DivergedError
from saestore.train import losses, metrics, schedules
from saestore.train.counters import FiringCounters
from saestore_schemas.train import TrainSettings


LEARNING_RATE = 2e-4
"""At 2^14 features; scaled by one over the root of their number (arXiv:2406.04093, and
dictionary_learning after it)."""
LEARNING_RATE_WIDTH = 2**14


@dataclass(frozen=True)
class Schedule:
    """How long the run is.

    Attributes:
        steps: Optimiser steps in all.
        batch_rows: Rows of each.
        dead_after: Silent rows after which a feature is dead.
    """

    steps: int
    batch_rows: int
    dead_after: int


class Trainer:
    """A dictionary, its loss, its optimiser and its counters.

    Attributes:
        dictionary: What is trained, in place.
        step: Optimiser steps done.
        device: Where the weights are.
        counters: Firing counters.
    """

    def __init__(
        self,
        dictionary: SparseDictionary,
        settings: TrainSettings,
        schedule: Schedule,
        *,
        variance: float,
    ) -> None:
        """Prepare training from step 0.

        Args:
            dictionary: On its device.
            settings: The run's settings.
            schedule: How long the run is.
            variance: tr Cov of the normalised targets over the store.
        """
        self.dictionary = dictionary
        self.settings = settings
        self.schedule = schedule
        self.step = 0
        self.terms = losses.terms(
            settings.loss, dictionary, variance=variance, total_steps=schedule.steps
        )
        self._named = {
            name: parameter
            for name, parameter in dictionary.named_parameters()
            if parameter.requires_grad
        }
        self.device = next(iter(self._named.values())).device
        self.counters = FiringCounters(dictionary.d_sae, self.device)
        chosen = settings.optimizer
        self.lr = chosen.lr or LEARNING_RATE / math.sqrt(dictionary.d_sae / LEARNING_RATE_WIDTH)
        self.optimizer = torch.optim.Adam(
            self._named.values(),
            lr=self.lr,
            betas=chosen.betas,
            eps=chosen.eps,
            fused=self.device.type in {"cpu", "cuda"},
        )

    @property
    def rows(self) -> int:
        """Rows seen."""
        return self.step * self.schedule.batch_rows

    def advance(
        self, batch: Mapping[str, Float[Tensor, "row _"]], *, log: bool
    ) -> metrics.Metrics | None:
        """Take one step; return what it says about itself when it is to be logged.

        Args:
            batch: Rows of each hookpoint in raw units.
            log: Whether to measure.

        Raises:
            DivergedError: The loss or a gradient is NaN or infinite; the weights are untouched.
        """
        seen = self._forward(batch)
        parts = {term.name: term(seen) for term in self.terms}
        loss = torch.stack(list(parts.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.dictionary.project_gradient_()
        norm = self._clip()
        value = float(loss.detach())
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise DivergedError(
                step=self.step, loss=value if not math.isfinite(value) else norm, checkpoint=None
            )
        lr = self.lr * schedules.learning_rate_factor(
            self.settings.schedule, self.step, self.schedule.steps
        )
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.dictionary.renormalise_()
        self.step += 1
        if not log:
            return None
        return {
            "loss": value,
            **{f"loss_{name}": float(part.detach()) for name, part in parts.items()},
            **{f"weight_{t.name}": t.weight(seen.step) for t in self.terms[1:]},
            "lr": lr,
            "grad_norm": norm,
            **metrics.of_pass(seen),
            **metrics.of_counters(self.counters, self.schedule.dead_after),
            **metrics.of_weights(self.dictionary),
        }

    def _forward(self, batch: Mapping[str, Tensor]) -> losses.Pass:
        rows = self.dictionary.normalise(
            {hook: part.to(self.device) for hook, part in batch.items()}
        )
        inputs = {hook: rows[hook] for hook in self.dictionary.hookpoints_in}
        targets = {hook: rows[hook] for hook in self.dictionary.hookpoints_out}
        output = self.dictionary(inputs)
        self.counters.update(output.code.firings(), self.schedule.batch_rows)
        dead = self.counters.silent(self.schedule.dead_after).nonzero()[:, 0]
        return losses.Pass(self.dictionary, inputs, targets, output, dead, self.step)

    def _clip(self) -> float:
        """Scale all gradients together to the length allowed; return the length before."""
        gradients = [p.grad for p in self._named.values() if p.grad is not None]
        lengths = torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients])
        norm = float(torch.linalg.vector_norm(lengths))
        limit = self.settings.optimizer.clip_norm
        if limit is not None and norm > limit:
            torch._foreach_mul_(gradients, limit / norm)
        return norm

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return everything a step reads, beside the weights: tensors and plain values."""
        tensors = {
            "counters.rows_since_fired": self.counters.rows_since_fired,
            "counters.firings": self.counters.firings,
            "rng.torch": torch.get_rng_state(),
        }
        for name, parameter in self._named.items():
            moments = self.optimizer.state.get(parameter, {})
            tensors.update({f"adam.{name}.{key}": value for key, value in moments.items()})
        if self.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.device)
        return tensors, {"step": self.step, "counter_rows": self.counters.rows}

    def load_state(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Go on from where `state` was taken; the weights must be those of that moment."""
        self.step = int(values["step"])
        self.counters.rows = int(values["counter_rows"])
        self.counters.rows_since_fired.copy_(tensors["counters.rows_since_fired"])
        self.counters.firings.copy_(tensors["counters.firings"])
        torch.set_rng_state(tensors["rng.torch"])
        if "rng.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["rng.cuda"], self.counters.rows_since_fired.device)
        for name, parameter in self._named.items():
            prefix = f"adam.{name}."
            moments = {
                key.removeprefix(prefix): value
                for key, value in tensors.items()
                if key.startswith(prefix)
            }
            if moments:
                self.optimizer.state[parameter] = {
                    key: value.clone()
                    if key == "step" and not parameter.is_cuda
                    else value.to(parameter.device, copy=True)
                    for key, value in moments.items()
                }
