"""One pass over the rows, for one dictionary or for several that learn from the same batches.

Each takes the steps it would take alone. One that is further than the others, because it was
interrupted behind a later checkpoint, lets the batches pass that it has seen. One that is through
is written at once; one that diverges ends alone.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from saestore.errors import DivergedError, StoppedError
from saestore.numbers import value
from saestore.progress import Progress
from saestore.train import feed as feeds
from saestore.train.metrics import Metrics
from saestore.train.rows import Stream
from saestore.train.stops import Watch
from saestore.train.timings import Clock
from saestore.train.training import Training


@dataclass(frozen=True)
class Failure:
    """A dictionary whose training could not go on.

    Attributes:
        training: Which.
        error: Why.
    """

    training: Training
    error: DivergedError


def train(
    trainings: Sequence[Training],
    stream: Stream,
    watch: Watch,
    progress: Progress,
    *,
    label: str,
    alone: bool = True,
) -> list[Failure]:
    """Take all steps that are left, write every artefact, and return what diverged.

    Args:
        trainings: What learns; all from this stream, and none of them over.
        stream: At the step of the one that is least far.
        watch: Whether to stop.
        progress: Where to report.
        label: What to call the pass there.
        alone: Whether divergence is an error; else the others go on without what diverged.

    Raises:
        ConfigError: `early_stop` names no metric of a run.
        DivergedError: A dictionary that is trained alone did.
        KeyboardInterrupt: Ctrl-C, after a checkpoint of each was written.
        StoppedError: The time is up or the process is to end, likewise.
    """
    active, clock = _Active(trainings, progress, alone=alone), Clock()
    here = min(each.trainer.step for each in trainings)
    batch_rows = trainings[0].trainer.schedule.batch_rows
    last = max(each.trainer.schedule.steps for each in trainings)
    with (
        _closing(trainings),
        watch.listening(),
        feeds.fed(stream, trainings[0].trainer.device) as feed,
        progress.task(label, total=last * batch_rows, unit="row", done=here * batch_rows) as task,
    ):
        for each in trainings:
            each.begin(clock)
        while active.left:
            waiting = time.perf_counter()
            batch = next(feed)
            clock.waited += time.perf_counter() - waiting
            clock.rows += batch_rows
            moving = active.at(here)
            for each in moving:
                active.attempt(each, partial(each.take, batch, feed))
            well = [each.last for each in trainings if not active.failed(each)]
            task.advance(batch_rows, **_shown(well))
            here += 1
            for each in active.at(here):
                if each.over:
                    active.attempt(each, partial(each.finish, stream, clock))
                    active.drop(each)
            if active.left and watch.reason is not None:
                _stop(active.at(here), feed, watch, label)
    return active.failures


class _Active:
    """What is still learning.

    Attributes:
        left: Which.
        failures: What diverged.
    """

    def __init__(self, trainings: Sequence[Training], progress: Progress, *, alone: bool) -> None:
        self.left = list(trainings)
        self.failures: list[Failure] = []
        self._alone = alone
        self._progress = progress

    def at(self, step: int) -> list[Training]:
        """Return those that have taken so many steps."""
        return [each for each in self.left if each.trainer.step == step]

    def failed(self, training: Training) -> bool:
        """Return whether it diverged: its last numbers say nothing of the others."""
        return any(failure.training is training for failure in self.failures)

    def attempt(self, training: Training, work: Callable[[], None]) -> None:
        """Do something that ends the training if it diverges there.

        Raises:
            DivergedError: It does, and is trained alone.
        """
        try:
            work()
        except DivergedError as error:
            if self._alone:
                raise
            self._progress.note(f"{training.run.ref.name}: {error}; {error.hint}")
            self.failures.append(Failure(training, error))
            self.drop(training)

    def drop(self, training: Training) -> None:
        """Go on without it."""
        self.left = [each for each in self.left if each is not training]


def _stop(moving: Sequence[Training], feed: feeds.Feed, watch: Watch, label: str) -> None:
    """Leave checkpoints of those that learnt from the last batch, and end the run.

    Raises:
        KeyboardInterrupt: It was Ctrl-C.
        StoppedError: It was something else.
    """
    reason = watch.reason or ""
    done = [each.stop(feed) for each in moving]
    if watch.signal is not None and watch.signal.name == "SIGINT":
        raise KeyboardInterrupt
    raise StoppedError(name=label, reason=reason, done=", ".join(dict.fromkeys(done)) or "no step")


@contextmanager
def _closing(trainings: Sequence[Training]) -> Iterator[None]:
    """End reports elsewhere when the pass fails."""
    try:
        yield
    except BaseException:
        for each in trainings:
            each.close(finished=False)
        raise


def _shown(last: Sequence[Metrics]) -> dict[str, float | str]:
    """Return what stands beside the bar: numbers of one dictionary, or the span of several."""
    names = {"loss": "loss", "l0_mean": "L0", "ev_batch": "EV", "dead": "dead"}
    shown: dict[str, float | str] = {}
    for name, short in names.items():
        values = [x for metrics in last if isinstance(x := metrics.get(name), float)]
        if len(values) == 1:
            shown[short] = values[0]
        elif values:
            ends = dict.fromkeys((value(min(values)), value(max(values))))
            shown[short] = "–".join(ends)
    return shown
