"""Ends of a run before its last step: asked for from outside, or because nothing gets better.

Asked for from outside, by Ctrl-C, SIGTERM or a time limit, a run ends after the step it is in and
leaves a checkpoint, so that rerunning changes nothing about the result. These are facts of the
machine and the moment, in no fingerprint. An early stop is part of the settings and depends on
nothing but them: there the run is finished.
"""

import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from saestore.errors import ConfigError, nearest
from saestore_schemas.optimize import EarlyStopSettings
from saestore_schemas.train import EVALUATED


SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""What schedulers and people send to end a process."""


class Watch:
    """Whether a run was asked to stop.

    Attributes:
        signal: The signal that came, or None.
    """

    def __init__(self, limit_s: float | None) -> None:
        """Start the time.

        Args:
            limit_s: Seconds after which the run stops; None, never.
        """
        self.signal: signal.Signals | None = None
        self._limit_s = limit_s
        self._end = None if limit_s is None else time.monotonic() + limit_s

    @property
    def reason(self) -> str | None:
        """Why the run should stop now; None, it should not."""
        if self.signal is not None:
            return f"the process got {self.signal.name}"
        if self._end is not None and time.monotonic() >= self._end:
            return f"its time of {self._limit_s:g} s is over"
        return None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Note the first Ctrl-C or SIGTERM instead of ending at once; the second one ends at once.

        Signals reach the main thread only: in another one nothing changes.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # What was not set from Python cannot be set again from it.
        before = {each: signal.getsignal(each) or signal.SIG_DFL for each in SIGNALS}

        def note(number: int, frame: FrameType | None) -> None:
            del frame
            self.signal = signal.Signals(number)
            for each, handler in before.items():
                signal.signal(each, handler)

        for each in SIGNALS:
            signal.signal(each, note)
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


@dataclass
class EarlyStop:
    """Whether a metric has stopped to get better.

    Attributes:
        settings: Which metric, and how patiently.
        best: The best value so far; None, there was none.
        since: Logged values since then.
    """

    settings: EarlyStopSettings
    best: float | None = None
    since: int = 0

    @property
    def evaluated(self) -> bool:
        """Whether its metric comes from evaluations, not from the log."""
        return self.settings.metric.startswith(EVALUATED)

    def see(self, metrics: Mapping[str, Any]) -> bool:
        """Return whether the run is to end, after one more logged step.

        Args:
            metrics: What was logged.

        Raises:
            ConfigError: The metric is not among them.
        """
        name = self.settings.metric
        value = metrics.get(name)
        if not isinstance(value, float):
            known = [each for each, x in metrics.items() if isinstance(x, float)]
            close = nearest(name, known, n=1)
            raise ConfigError(
                field="early_stop.metric",
                found=name,
                expected="a metric that this run logs",
                hint=f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}",
            )
        sign = 1 if self.settings.goal == "largest" else -1
        better = not math.isnan(value) and (
            self.best is None or sign * (value - self.best) > self.settings.min_change
        )
        if better:
            self.best, self.since = value, 0
        else:
            self.since += 1
        return self.since >= self.settings.patience

    def state(self) -> dict[str, Any]:
        """Return what it has seen."""
        return {"best": self.best, "since": self.since}

    def load_state(self, values: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self.best, self.since = values["best"], int(values["since"])

    def fact(self, step: int) -> dict[str, Any]:
        """Return why the run ended, for its manifest."""
        return {"step": step, "metric": self.settings.metric, "best": self.best}
