"""The verb: stream rows, take steps, write a dictionary; or resume one bit for bit."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from saestore import devices, dictionaries
from saestore.activations import ActivationStream, MixedStream
from saestore.dictionaries import SparseDictionary
from saestore.errors import ConfigError, DivergedError
from saestore.lake import Lake, Ref, Storage, layout, lock, manifest as manifests
from saestore.progress import Progress, Silent
from saestore.train import checkpoints, losses, schedules
from saestore.train.checkpoints import Checkpoint
from saestore.train.metrics import Metrics, MetricsTable
from saestore.train.rows import MixedSource, TrainingRows
from saestore.train.trainer import Schedule, Trainer
from saestore_schemas.dictionary import TrainRecord
from saestore_schemas.manifest import ArrayInfo
from saestore_schemas.train import TrainSettings


Evaluate = Callable[[SparseDictionary, int], Mapping[str, float]]
"""Measures a dictionary after a step; its numbers go into the metrics under `evaluate/`."""


def run(
    settings: TrainSettings,
    lake: Lake,
    *,
    device: str = "auto",
    progress: Progress | None = None,
    evaluate: Evaluate | None = None,
) -> SparseDictionary:
    """Train a dictionary and write it; a finished one is returned as it is.

    Interrupted at any step and run again, it ends with the same bytes as an uninterrupted run on
    the same machine.

    Args:
        settings: What to train on which rows.
        lake: Where the stores lie and the dictionary is written.
        device: Torch device; `auto` takes the best there is.
        progress: Where to report.
        evaluate: Called with the dictionary and the step at every checkpoint and at the end; its
            numbers go into the metrics.

    Raises:
        ArtefactNotFoundError: No such activation store.
        ArtefactExistsError: The name is taken by a dictionary with other settings.
        ArtefactBusyError: Another process is training it.
        ConfigError: The settings contradict the stores, or the stores each other.
        HookpointNotFoundError: A store has no such hookpoint.
        DivergedError: The loss became NaN or infinite.
    """
    ref = Ref("dictionary", f"{settings.series}/{settings.name}")
    rows = TrainingRows.open(settings.activations, lake, hookpoints=_hookpoints(settings))
    described = manifests.Run.of(ref, settings, rows.parents)
    artefact = lake.artefact(ref)
    if artefact.exists(layout.MANIFEST):
        manifests.begin(artefact, described)
    else:
        # Planned before anything is written: settings that cannot work must not take the name.
        training = _Training.planned(
            settings, rows, artefact, described, device=devices.resolve(device)
        )
        training.evaluate = evaluate
        with lock.writing(artefact, name=ref.name):
            if manifests.begin(artefact, described) is None:
                training.resume()
                training.finish(progress or Silent())
    return dictionaries.load(lake, ref.name)


def schedule_of(settings: TrainSettings, rows_per_epoch: int) -> Schedule:
    """Return how long a run is: whole batches only.

    Args:
        settings: The run's settings.
        rows_per_epoch: Rows that one pass over the training rows yields.

    Raises:
        ConfigError: The budget is smaller than one batch.
    """
    batch, budget = settings.activations.batch_rows, settings.budget
    rows = budget.rows or int((budget.epochs or 0) * rows_per_epoch)
    if rows < batch:
        raise ConfigError(
            field="budget.rows" if budget.rows else "budget.epochs",
            found=budget.rows or budget.epochs,
            expected=f"at least one batch: activations.batch_rows is {batch} and there are "
            f"{rows_per_epoch} training rows",
            hint="use smaller batches, more epochs, or generate more tokens",
        )
    steps = rows // batch
    return Schedule(steps, batch, losses.dead_after_rows(settings.loss, steps * batch))


@dataclass
class _Clock:
    """Where the time goes; no part of the metrics, which must not depend on it."""

    started: float
    rows: int = 0
    waited: float = 0.0

    def facts(self) -> dict[str, float]:
        elapsed = time.perf_counter() - self.started
        return {
            "rows_per_s": self.rows / elapsed if elapsed else 0.0,
            "seconds": elapsed,
            "seconds_waiting_for_rows": self.waited,
        }


@dataclass
class _Training:
    """One run under way."""

    settings: TrainSettings
    rows: TrainingRows
    artefact: Storage
    run: manifests.Run
    stream: ActivationStream | MixedStream
    trainer: Trainer
    table: MetricsTable
    last: Metrics
    evaluate: Evaluate | None = None

    @classmethod
    def planned(
        cls,
        settings: TrainSettings,
        rows: TrainingRows,
        artefact: Storage,
        described: manifests.Run,
        *,
        device: torch.device,
    ) -> "_Training":
        """Return the run at its start; nothing is written or resumed yet."""
        hooks = _hookpoints(settings)
        stream = rows.stream(hooks, seed=settings.seed.data)
        moments = {hook: rows.moments(hook) for hook in hooks}
        dictionary = dictionaries.build(
            settings.dictionary,
            widths=rows.widths,
            moments=moments,
            init=settings.init,
            seed=settings.seed.init,
        )
        schedule = schedule_of(settings, stream.rows_per_epoch)
        variance = sum(
            dictionary.scales[hook].record.a ** 2 * float(moments[hook].m2.sum())
            / moments[hook].count
            for hook in dictionary.hookpoints_out
        )  # fmt: skip
        trainer = Trainer(dictionary.to(device), settings, schedule, variance=variance)
        return cls(settings, rows, artefact, described, stream, trainer, MetricsTable(), Metrics())

    def resume(self) -> None:
        """Go to where the newest whole checkpoint left the run, if there is one."""
        found = checkpoints.newest(self.artefact, fingerprint=self.run.fingerprint)
        if found is None:
            return
        ours, theirs = self.trainer.dictionary.parameters(), found.dictionary.parameters()
        for mine, saved in zip(ours, theirs, strict=True):
            mine.data.copy_(saved)
        self.trainer.load_state(found.tensors, found.values["trainer"])
        self.stream.load_state_dict(found.values["stream"])
        self.table = MetricsTable.from_bytes(found.metrics)
        self.last = found.values["last"]

    def finish(self, progress: Progress) -> None:
        """Take all steps that are left and write the artefact."""
        schedule, trainer = self.trainer.schedule, self.trainer
        total = schedule.steps * schedule.batch_rows
        sources = self.rows.sources(self.stream)
        progress.note(
            f"{trainer.dictionary.d_sae} features, {schedule.steps} steps of "
            f"{schedule.batch_rows} rows; mixing window {self.stream.window_rows} rows, "
            f"{self.stream.mixing:.2f} rows of the same context per row and batch, variance of a "
            f"document's features times {self.stream.inflation:.2f}"
            + (f"; rows of {', '.join(map(str, sources))}" if sources else "")
        )
        clock = _Clock(time.perf_counter())
        label = f"training {self.run.ref.name}"
        with progress.task(label, total=total, unit="row", done=trainer.rows) as task:
            batches = iter(self.stream)
            pauses = schedules.checkpoint_steps(self.settings.checkpoints, schedule.steps)
            while trainer.step < schedule.steps:
                waiting = time.perf_counter()
                batch = next(batches)
                clock.waited += time.perf_counter() - waiting
                self._step(batch)
                clock.rows += schedule.batch_rows
                if trainer.step in pauses:
                    self._measure()
                    self._checkpoint()
                task.advance(schedule.batch_rows, **_shown(self.last))
        self._measure()
        self._write(clock)

    def _step(self, batch: Mapping[str, torch.Tensor]) -> None:
        done = self.trainer.step + 1
        log = done == 1 or done % self.settings.log.every == 0
        try:
            found = self.trainer.advance(batch, log=log or done == self.trainer.schedule.steps)
        except DivergedError as error:
            names = self.artefact.names(layout.CHECKPOINTS)
            where = f"{layout.CHECKPOINTS}/{names[-1]}" if names else None
            path = self.artefact.join(where) if where else None
            raise DivergedError(
                step=error.step, loss=float(error.found), checkpoint=path
            ) from error
        if found is not None:
            self.last = found
            self.table.add(self.trainer.step, self.trainer.rows, found)

    def _measure(self) -> None:
        if self.evaluate is not None:
            scores = self.evaluate(self.trainer.dictionary, self.trainer.step)
            named = {f"evaluate/{name}": float(value) for name, value in scores.items()}
            self.table.add(self.trainer.step, self.trainer.rows, named)

    def _checkpoint(self) -> None:
        tensors, values = self.trainer.state()
        state = Checkpoint(
            dictionary=self.trainer.dictionary,
            tensors=tensors,
            values={
                "trainer": values,
                "stream": self.stream.state_dict(),
                "last": _known(self.last),
                "environment": checkpoints.environment(self.trainer.device),
            },
            metrics=self.table.to_bytes(),
        )
        step = self.trainer.step
        checkpoints.write(self.artefact, step, state, fingerprint=self.run.fingerprint)
        if self.settings.checkpoints.keep == "latest":
            checkpoints.keep_latest(self.artefact, step)

    def _write(self, clock: _Clock) -> None:
        trainer = self.trainer
        config = trainer.dictionary.config.model_copy(
            update={
                "model": self.rows.model(),
                "parents": self.run.parents,
                "train": TrainRecord(
                    fingerprint=self.run.fingerprint,
                    rows=trainer.rows,
                    steps=trainer.step,
                    settings=self.run.settings,
                ),
            }
        )
        dictionary = trainer.dictionary.to("cpu").with_config(config)
        dictionaries.save(dictionary, self.artefact)
        self.artefact.write(layout.METRICS, self.table.to_bytes())
        if self.settings.checkpoints.keep == "latest":
            checkpoints.retire(self.artefact)
        arrays = {
            name: ArrayInfo(shape=tuple(tensor.shape), dtype=str(tensor.dtype).rsplit(".")[-1])
            for name, tensor in dictionary.tensors().items()
        }
        manifests.finish(
            self.artefact,
            self.run,
            arrays=arrays,
            counts={"rows": trainer.rows, "steps": trainer.step, "d_sae": dictionary.d_sae},
            facts={
                **_known(self.last),
                "dead_after_rows": trainer.schedule.dead_after,
                "learning_rate": trainer.lr,
                "mixing": self.stream.mixing,
                "inflation": self.stream.inflation,
                "window_rows": self.stream.window_rows,
                **_mixed(self.rows.sources(self.stream)),
                **clock.facts(),
            },
        )


_FACTS = ("loss", "ev_batch", "l0_mean", "dead", "dead_1e5", "dead_1e6", "dead_1e7")
"""Metrics of the last step that stand in the manifest."""


def _known(last: Metrics) -> dict[str, float | None]:
    """Return the manifest's facts among metrics; undefined ones are null."""
    return {
        name: None if math.isnan(value) else value
        for name in _FACTS
        if isinstance(value := last.get(name), float)
    }


def _mixed(sources: Sequence[MixedSource]) -> dict[str, Any]:
    """Return the manifest's fact about the sources of a mix."""
    return {"sources": [dict(each._asdict()) for each in sources]} if sources else {}


def _shown(last: Metrics) -> dict[str, float | str]:
    names = {"loss": "loss", "l0_mean": "L0", "ev_batch": "EV", "dead": "dead"}
    return {
        shown: value for name, shown in names.items() if isinstance(value := last.get(name), float)
    }


def _hookpoints(settings: TrainSettings) -> tuple[str, ...]:
    return (settings.dictionary.hookpoint,)
