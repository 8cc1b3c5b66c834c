"""One optimiser step at a time, for every family. No file is touched here.

    normalise → forward → counters → loss → backward → project → clip → Adam → renormalise → round

The order is part of the law "resumed = uninterrupted"; so is `state`, which holds everything a
step reads and no step can compute again. A trainer draws from random numbers of its own, so that
several can take turns.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from saestore.dictionaries import SparseDictionary, contexts, gradients
from saestore.errors import DivergedError
from saestore.train import metrics, objectives, schedules
from saestore.train.counters import FiringCounters
from saestore.train.optimizer import LossScale, Optimizer
from saestore_schemas.train import TrainSettings


LEARNING_RATE = 2e-4
"""At 2^14 features; scaled by one over the root of their number (arXiv:2406.04093, and
dictionary_learning after it)."""
LEARNING_RATE_WIDTH = 2**14


@runtime_checkable
class Remembering(Protocol):
    """A loss term that a later step of depends on earlier ones: it is part of each checkpoint."""

    def state(self) -> dict[str, Tensor]:
        """Return what it remembers."""
        ...

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Remember that again."""
        ...


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
        variance: float | Mapping[str, float],
    ) -> None:
        """Prepare training from step 0.

        Args:
            dictionary: On its device.
            settings: The run's settings.
            schedule: How long the run is.
            variance: tr Cov of the normalised targets over the store, of each hookpoint, or of all
                together.
        """
        self.dictionary = dictionary
        self.settings = settings
        self.schedule = schedule
        self.step = 0
        self.terms = objectives.terms(
            settings.loss,
            dictionary,
            variance=variance,
            total_steps=schedule.steps,
            seed=settings.seed.loss,
        )
        self._k = objectives.k_schedule(settings.loss, dictionary, schedule.steps)
        self._named = {
            name: parameter
            for name, parameter in dictionary.named_parameters()
            if parameter.requires_grad
        }
        self.device = next(iter(self._named.values())).device
        chosen = settings.optimizer
        width = dictionary.config.d_sae / LEARNING_RATE_WIDTH  # of one layer
        lr = chosen.lr or LEARNING_RATE / math.sqrt(width)
        self.optimizer = Optimizer(
            self._named, chosen, lr=lr, thresholds=dictionary.threshold_names()
        )
        window = settings.log.density_window or 0
        self.counters = FiringCounters(
            dictionary.columns,
            self.device,
            -(-window // schedule.batch_rows),
            gates=dictionary.gates,
        )
        kinds = {settings.precision.autocast, settings.dictionary.dtype}
        self._scale = LossScale(used="float16" in kinds)
        self._rng = torch.Generator().manual_seed(settings.seed.init).get_state()
        self._device_rng: Tensor | None = None
        if self.device.type == "cuda":
            made = torch.Generator(self.device).manual_seed(settings.seed.init)
            self._device_rng = made.get_state()

    @property
    def lr(self) -> float:
        """Base learning rate."""
        return self.optimizer.lr

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
                Under float16, only when a smaller loss scale cannot help.
        """
        with self._own_random_numbers():
            with gradients.kept(self.optimizer.kept):
                parts, sums = self._gradients(batch, log=log)
            self.dictionary.project_gradient_(self.optimizer.weights)
            norm = self.optimizer.clip_()
            value = float(torch.stack(list(parts.values())).sum())
            skipped = math.isfinite(value) and not math.isfinite(norm) and not self._scale.exhausted
            if not skipped and not (math.isfinite(value) and math.isfinite(norm)):
                shown = value if not math.isfinite(value) else norm
                raise DivergedError(step=self.step, loss=shown, checkpoint=None)
            factor = schedules.learning_rate_factor(
                self.settings.schedule, self.step, self.schedule.steps
            )
            if skipped:
                self._scale.shrink()
            else:
                self.optimizer.step(factor)
                self._scale.grow()
                self.dictionary.renormalise_(self.optimizer.weights)
                self.optimizer.publish_()
            self.optimizer.zero_grad()  # their memory may serve another dictionary's next
        self.step += 1
        if sums is None:
            return None
        return {
            "loss": value,
            **{f"loss_{name}": float(part) for name, part in parts.items()},
            **{f"weight_{t.name}": t.weight(self.step - 1) for t in self.terms[1:]},
            "lr": self.lr * factor,
            "grad_norm": norm,
            **self._scale.metrics(),
            **sums.metrics(),
            **metrics.of_counters(self.counters, self.schedule.dead_after, self.dictionary.groups),
            **metrics.of_weights(self.dictionary),
        }

    def _gradients(
        self, batch: Mapping[str, Tensor], *, log: bool
    ) -> tuple[dict[str, Tensor], metrics.PassSums | None]:
        """Leave the gradients of a batch with the parameters; return the terms of its loss.

        Cut into parts, each part's means count by its share of the rows.
        """
        self.optimizer.zero_grad()
        rows = len(next(iter(batch.values())))
        each = -(-rows // self.settings.optimizer.accumulate)
        firings = torch.zeros_like(self.counters.firings)
        found: dict[str, Tensor] = {}
        sums = metrics.PassSums() if log else None
        for start in range(0, rows, each):
            part = batch if each >= rows else contexts.part(batch, start, start + each)
            seen = self._forward(part, firings, whole=each >= rows)
            share = min(each, rows - start) / rows
            terms = {term.name: term(seen) for term in self.terms}
            if sums is not None:
                sums.add(seen)
            del seen  # the backward pass needs less than that
            loss = torch.stack(list(terms.values())).sum()
            (loss * (share * self._scale.value)).backward()  # type: ignore[no-untyped-call]
            self.optimizer.collect_()
            for name, term in terms.items():
                found[name] = found.get(name, 0.0) + share * term.detach()
        if each < rows:
            self.counters.update(firings, rows)
        self.optimizer.unscale_(self._scale.value)
        return found, sums

    def _forward(
        self, batch: Mapping[str, Tensor], firings: Tensor, *, whole: bool
    ) -> objectives.Pass:
        """Return one forward pass, its firings added up.

        Of a whole batch the counters know before the losses ask who is dead. Parts are counted
        when all are through: losses that need the dead are refused with parts.
        """
        rows = self.dictionary.normalise(contexts.each(batch, lambda _, part: part.to(self.device)))
        inputs = contexts.only(rows, self.dictionary.hookpoints_in)
        targets = {hook: rows[hook] for hook in self.dictionary.hookpoints_out}
        if self._k is not None:
            self.dictionary.activation.keep_k(self._k.at(self.step))
        low = self.settings.precision.autocast
        dtype = None if low is None else getattr(torch, low)
        with torch.autocast(self.device.type, dtype=dtype, enabled=low is not None):
            output = self.dictionary(inputs)
        firings += output.code.firings()
        if whole:
            self.counters.update(firings, self.schedule.batch_rows)
        dead = self.counters.dead(self.schedule.dead_after)
        return objectives.Pass(self.dictionary, inputs, targets, output, dead, self.step, dtype)

    def release(self) -> None:
        """Forget what only a further step would read: there is none."""
        self.optimizer.release()

    @contextmanager
    def _own_random_numbers(self) -> Iterator[None]:
        """Let torch draw from this trainer's random numbers, and go on with others' afterwards."""
        theirs = torch.get_rng_state()
        torch.set_rng_state(self._rng)
        device_theirs = None
        if self._device_rng is not None:
            device_theirs = torch.cuda.get_rng_state(self.device)
            torch.cuda.set_rng_state(self._device_rng, self.device)
        try:
            yield
        finally:
            self._rng = torch.get_rng_state()
            torch.set_rng_state(theirs)
            if device_theirs is not None:
                self._device_rng = torch.cuda.get_rng_state(self.device)
                torch.cuda.set_rng_state(device_theirs, self.device)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return everything a step reads, beside the weights: tensors and plain values."""
        tensors = {
            "rng.torch": self._rng,
            **{f"counters.{name}": each for name, each in self.counters.tensors().items()},
            **{f"adam.{name}": each for name, each in self.optimizer.state().items()},
            **{f"master.{name}": each for name, each in self.optimizer.masters.items()},
            **{f"buffer.{name}": each for name, each in self.dictionary.named_buffers()},
        }
        if self._device_rng is not None:
            tensors["rng.cuda"] = self._device_rng
        for term in self.terms:
            if isinstance(term, Remembering):
                tensors |= {f"loss.{term.name}.{key}": t for key, t in term.state().items()}
        values = {
            "step": self.step,
            "counters": self.counters.values(),
            "loss_scale": [self._scale.value, self._scale.good],
        }
        return tensors, values

    def load_state(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Go on from where `state` was taken; the weights must be those of that moment."""
        self.step = int(values["step"])
        self.counters.rows = int(values["counters"]["rows"])
        self.counters.batches = int(values["counters"]["batches"])
        for name, each in self.counters.tensors().items():
            each.copy_(tensors[f"counters.{name}"])
        for name, buffer in self.dictionary.named_buffers():
            buffer.copy_(tensors[f"buffer.{name}"])
        self._scale.value, self._scale.good = values["loss_scale"]
        self._rng = tensors["rng.torch"]
        if "rng.cuda" in tensors:
            self._device_rng = tensors["rng.cuda"]
        self.optimizer.load_state(_below("adam.", tensors))
        self.optimizer.load_masters(_below("master.", tensors))
        for term in self.terms:
            if isinstance(term, Remembering):
                term.load_state(_below(f"loss.{term.name}.", tensors))


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): each for n, each in tensors.items() if n.startswith(prefix)}
