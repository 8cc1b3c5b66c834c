"""One dictionary under way: steps, logs, checkpoints, and the artefact in the end."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from saestore import dictionaries
from saestore.dictionaries import SparseDictionary
from saestore.errors import DivergedError
from saestore.lake import Storage, checkpoint, layout, manifest as manifests
from saestore.train import checkpoints, schedules
from saestore.train.checkpoints import Checkpoint
from saestore.train.feed import Feed
from saestore.train.metrics import Metrics, MetricsTable
from saestore.train.rows import MixedSource, Stream, TrainingRows
from saestore.train.stops import EarlyStop
from saestore.train.timings import Clock, Laps
from saestore.train.trainer import Trainer
from saestore.train.wandb_log import WandbLog
from saestore_schemas.dictionary import TrainRecord
from saestore_schemas.train import EVALUATED, TrainSettings


Evaluate = Callable[[SparseDictionary, int], Mapping[str, float]]
"""Measures a dictionary after a step; its numbers go into the metrics under `evaluate/`."""

Calibrate = Callable[[SparseDictionary, TrainSettings], SparseDictionary]
"""Returns a trained dictionary with the threshold its inference needs, found on its rows."""


@dataclass(eq=False)
class Training:
    """One run under way.

    Attributes:
        settings: What was asked for.
        rows: Where its rows come from.
        artefact: Where it is written.
        run: Its name, settings and parents.
        trainer: Weights and everything a step changes.
        pauses: After which steps a checkpoint is due.
        evaluate: Measures it while it trains, and in the end.
        calibrate: Finds the threshold of inference in the end, for activation functions that look at
            a whole batch while training.
        table: Metrics so far.
        timings: Rates and memory so far.
        last: What was logged last.
        position: State of the stream at its newest checkpoint; None at the start.
        early: Whether to end before the last step.
        stopped: Whether it did.
    """

    settings: TrainSettings
    rows: TrainingRows
    artefact: Storage
    run: manifests.Run
    trainer: Trainer
    pauses: tuple[int, ...]
    evaluate: Evaluate | None = None
    calibrate: Calibrate | None = None
    table: MetricsTable = field(default_factory=MetricsTable)
    timings: MetricsTable = field(default_factory=MetricsTable)
    last: Metrics = field(default_factory=dict)
    position: Mapping[str, Any] | None = None
    early: EarlyStop | None = None
    stopped: bool = False
    _laps: Laps | None = None
    _wandb: WandbLog | None = None

    @property
    def over(self) -> bool:
        """Whether there is no step left to take."""
        return self.stopped or self.trainer.step >= self.trainer.schedule.steps

    def resume(self) -> dict[str, tuple[Any, Any]]:
        """Go to where the newest whole checkpoint left the run, if there is one.

        Returns:
            What bit-exactness depends on and differs from then: name to (then, now).
        """
        found = checkpoints.newest(self.artefact, fingerprint=self.run.fingerprint)
        if found is None:
            return {}
        ours, theirs = self.trainer.dictionary.parameters(), found.dictionary.parameters()
        for mine, saved in zip(ours, theirs, strict=True):
            mine.data.copy_(saved)
        self.trainer.load_state(found.tensors, found.values["trainer"])
        self.position = found.values["stream"]
        self.table = MetricsTable.from_bytes(found.metrics)
        self.timings = MetricsTable.from_bytes(found.timings)
        self.last = found.values["last"]
        if self.early is not None:
            self.early.load_state(found.values["early_stop"])
        then, now = found.values["environment"], checkpoints.environment(self.trainer.device)
        return {name: (then[name], now[name]) for name in now if then[name] != now[name]}

    def begin(self, clock: Clock) -> None:
        """Prepare for the first step of this process."""
        self._laps = Laps(clock, rows=clock.rows, waited=clock.waited)
        if self.settings.log.wandb is not None:
            self._wandb = WandbLog(self.settings.log.wandb, self.run)

    def take(self, batch: Mapping[str, torch.Tensor], feed: Feed) -> None:
        """Take one step, with the log and the checkpoint that are due after it.

        Args:
            batch: Rows of each hookpoint.
            feed: Where they come from, behind this batch.

        Raises:
            ConfigError: `early_stop` names no metric of this run.
            DivergedError: The loss, a gradient or a weight is NaN or infinite.
        """
        trainer, every = self.trainer, self.settings.log.every
        done = trainer.step + 1
        log = done == 1 or done % every == 0 or done == trainer.schedule.steps
        try:
            found = trainer.advance(batch, log=log)
        except DivergedError as error:
            raise self._diverged(float(error.found)) from error
        if found is not None:
            self._log(found)
        if self._evaluation_due and not self.over:
            self._measure(trainer.dictionary)
        if trainer.step in self.pauses and not self.over:
            self.checkpoint(feed)

    @property
    def _evaluation_due(self) -> bool:
        """Whether to evaluate after the last step; at checkpoints, where settings do not say."""
        wanted, trainer = self.settings.evaluate_every, self.trainer
        if wanted is None:
            return trainer.step in self.pauses
        return trainer.step % max(schedules.steps_of(wanted.steps, trainer.schedule.steps), 1) == 0

    def _log(self, found: Metrics) -> None:
        step, rows = self.trainer.step, self.trainer.rows
        self.last = found
        self.table.add(step, rows, found)
        laps = {} if self._laps is None else self._laps.lap(self.trainer.device)
        self.timings.add(step, rows, laps)
        if self._wandb is not None:
            self._wandb.log(step, rows, {**found, **laps})
        self._watch(found, evaluated=False)

    def _watch(self, found: Mapping[str, Any], *, evaluated: bool) -> None:
        """End the run if the metric that it watches is among these and has stopped to get better."""
        if self.early is not None and self.early.evaluated == evaluated:
            self.stopped = self.early.see(found)

    def _measure(self, dictionary: SparseDictionary) -> None:
        """Evaluate the dictionary as it is, if that is wanted."""
        if self.evaluate is not None:
            scores = self.evaluate(dictionary, self.trainer.step)
            named = {f"{EVALUATED}{name}": float(value) for name, value in scores.items()}
            # The finished dictionary's stand for what an early stop saw at the same step.
            self.table.replace(self.trainer.step, self.trainer.rows, named)
            if self._wandb is not None:
                self._wandb.log(self.trainer.step, self.trainer.rows, named)
            if not self.over:
                self._watch(named, evaluated=True)

    def checkpoint(self, feed: Feed) -> None:
        """Write a state from which the run goes on bit for bit.

        Raises:
            DivergedError: A weight is NaN or infinite.
        """
        step = self.trainer.step
        self._check_finite()
        tensors, values = self.trainer.state()
        self.position = feed.state_dict()
        state = Checkpoint(
            dictionary=self.trainer.dictionary,
            tensors=tensors,
            values={
                "trainer": values,
                "stream": self.position,
                "last": known(self.last),
                "early_stop": None if self.early is None else self.early.state(),
                "environment": checkpoints.environment(self.trainer.device),
            },
            metrics=self.table.to_bytes(),
            timings=self.timings.to_bytes(),
        )
        checkpoints.write(self.artefact, step, state, fingerprint=self.run.fingerprint)
        keep = self.settings.checkpoints.keep
        checkpoints.prune(self.artefact, keep, regular=self.pauses, newest=step)

    def stop(self, feed: Feed) -> str:
        """Leave a checkpoint where the run is; return how far that is."""
        step, schedule = self.trainer.step, self.trainer.schedule
        if step not in checkpoint.steps(self.artefact):
            self.checkpoint(feed)
        return f"step {step} of {schedule.steps}"

    def close(self, *, finished: bool) -> None:
        """End what reports elsewhere."""
        if self._wandb is not None:
            self._wandb.close(finished=finished)

    def finish(self, stream: Stream, clock: Clock) -> None:
        """Write the artefact.

        Raises:
            DivergedError: A weight is NaN or infinite.
        """
        self._check_finite()
        trainer, dictionary = self.trainer, self.trainer.dictionary
        trainer.release()
        if self.calibrate is not None and dictionary.config.semantics.inference.kind == "threshold":
            dictionary = self.calibrate(dictionary, self.settings)
        self._measure(dictionary)
        config = dictionary.config.model_copy(
            update={
                "model": self.rows.model(),
                "heads": self.rows.heads(),
                "parents": self.run.parents,
                "train": TrainRecord(
                    fingerprint=self.run.fingerprint,
                    rows=trainer.rows,
                    steps=trainer.step,
                    settings=self.run.settings,
                ),
            }
        )
        dictionary = dictionary.to("cpu").with_config(config)
        dictionaries.save(dictionary, self.artefact)
        self.artefact.write(layout.METRICS, self.table.to_bytes())
        self.artefact.write(layout.TIMINGS, self.timings.to_bytes())
        keep = self.settings.checkpoints.keep
        if keep == "latest":
            checkpoints.retire(self.artefact)
        else:
            checkpoints.prune(self.artefact, keep, regular=self.pauses, newest=None)
        early = {} if self.early is None or not self.stopped else self.early.fact(trainer.step)
        manifests.finish(
            self.artefact,
            self.run,
            arrays=dictionaries.arrays(dictionary),
            counts={"rows": trainer.rows, "steps": trainer.step, "d_sae": dictionary.d_sae},
            facts={
                **known(self.last),
                "dead_after_rows": trainer.schedule.dead_after,
                "learning_rate": trainer.lr,
                "mixing": stream.mixing,
                "inflation": stream.inflation,
                "window_rows": stream.window_rows,
                **({"stopped_early": early} if early else {}),
                **_mixed(self.rows.sources(stream)),
                **clock.facts(),
            },
        )
        self.close(finished=True)

    def _check_finite(self) -> None:
        """Refuse to keep weights that are not numbers: a checkpoint is a good one.

        Raises:
            DivergedError: A weight is NaN or infinite.
        """
        for parameter in self.trainer.dictionary.parameters():
            if not torch.isfinite(parameter).all():
                raise self._diverged(math.nan)

    def _diverged(self, loss: float) -> DivergedError:
        found = checkpoint.steps(self.artefact)
        path = self.artefact.join(layout.checkpoint_folder(found[-1])) if found else None
        return DivergedError(step=self.trainer.step, loss=loss, checkpoint=path)


_FACTS = ("loss", "ev_batch", "l0_mean", "dead", "dead_1e5", "dead_1e6", "dead_1e7")
"""Metrics of the last step that stand in the manifest."""


def known(last: Metrics) -> dict[str, float | None]:
    """Return the manifest's facts among metrics; undefined ones are null."""
    return {
        name: None if math.isnan(value) else value
        for name in _FACTS
        if isinstance(value := last.get(name), float)
    }


def pauses(settings: TrainSettings, steps: int) -> tuple[int, ...]:
    """Return after which steps checkpoints are due."""
    return schedules.checkpoint_steps(settings.checkpoints, steps)


def _mixed(sources: Sequence[MixedSource]) -> dict[str, Any]:
    """Return the manifest's fact about the sources of a mix."""
    return {"sources": [dict(each._asdict()) for each in sources]} if sources else {}
