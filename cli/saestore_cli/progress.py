"""Progress on stderr: bars on a terminal, plain lines everywhere else."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress as Bars, ProgressColumn, Task as Bar, TextColumn
from rich.table import Column
from rich.text import Text
from typing_extensions import override

from saestore.numbers import count, value
from saestore.progress import Progress, Task
from saestore_cli.numbers import amount, duration, rate


_EVERY_S = 30.0
"""Seconds between two lines about one task when nothing can be redrawn."""


def reporter(*, draw: bool, stream: TextIO | None = None) -> Progress:
    """Return bars when they are wanted and stderr is a terminal; else one-line notes.

    Args:
        draw: False (`--no-progress`) leaves only notes.
        stream: Where; absent, stderr.
    """
    stream = stream or sys.stderr
    console = Console(file=stream, highlight=False)
    if draw and console.is_terminal and not console.is_dumb_terminal:
        return Drawn(console)
    return Lines(stream, every_s=_EVERY_S if draw else None)


class Drawn:
    """Bars with rate, time left and live values."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Bars | None = None
        self._open = 0

    @contextmanager
    def task(self, label: str, *, total: int | None, unit: str, done: int = 0) -> Iterator[Task]:
        """Draw one bar; bars opened inside another stand below it."""
        bars = self._start()
        number = bars.add_task(label, total=total, completed=done, unit=unit, values="")
        try:
            yield _DrawnTask(bars, number)
        finally:
            bars.stop_task(number)
            self._stop()

    def note(self, message: str) -> None:
        """Print one line above the bars."""
        self._console.print(message, markup=False, soft_wrap=True)

    def _start(self) -> Bars:
        self._open += 1
        if self._bars is None:
            self._bars = Bars(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=8, style="dim", complete_style="green"),
                _Done(),
                _Rate(table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
                console=self._console,
                expand=True,
                refresh_per_second=5,
            )
            self._bars.start()
        return self._bars

    def _stop(self) -> None:
        self._open -= 1
        if self._open == 0 and self._bars is not None:
            self._bars.stop()
            self._bars = None


class _DrawnTask:
    def __init__(self, bars: Bars, number: object) -> None:
        self._bars = bars
        self._number = number

    def advance(self, n: int, **values: float | str) -> None:
        number = self._bars.task_ids[self._bars.task_ids.index(self._number)]  # type: ignore[arg-type]
        if values:
            self._bars.update(number, advance=n, values=_shown(values))
        else:
            self._bars.update(number, advance=n)


class _Done(ProgressColumn):
    """How much is done: per cent, or a count where the total is unknown."""

    @override
    def render(self, task: Bar) -> Text:
        if task.total is None:
            return Text(amount(task.completed, task.fields["unit"]))
        return Text(f"{_share(task.completed, task.total):.0%}".rjust(4))


class _Rate(ProgressColumn):
    """Rate, time left (or taken) and the values a verb reports."""

    @override
    def render(self, task: Bar) -> Text:
        parts = []
        speed = task.finished_speed or task.speed
        if speed:
            parts.append(rate(speed, task.fields["unit"]))
        if task.finished or task.stop_time is not None:
            parts.append(f"took {duration(task.elapsed or 0)}")
        elif task.time_remaining is not None:
            parts.append(f"{duration(task.time_remaining)} left")
        if task.fields["values"]:
            parts.append(task.fields["values"])
        return Text("  ".join(parts))


class Lines:
    """One plain line when a task ends, and now and then before; no control characters."""

    def __init__(self, stream: TextIO, *, every_s: float | None) -> None:
        self._stream = stream
        self._every_s = every_s

    @contextmanager
    def task(self, label: str, *, total: int | None, unit: str, done: int = 0) -> Iterator[Task]:
        """Write lines about one task."""
        task = _LineTask(self, label, total, unit, done)
        if done and self._every_s is not None:
            self.note(f"{label}: resuming after {amount(done, unit)}")
        try:
            yield task
        finally:
            if self._every_s is not None:
                self.note(task.line(ended=True))

    def note(self, message: str) -> None:
        """Write one line."""
        self._stream.write(message.rstrip("\n") + "\n")
        self._stream.flush()

    def due(self, last: float) -> bool:
        """Return whether it is time for another line."""
        return self._every_s is not None and time.monotonic() - last >= self._every_s


class _LineTask:
    def __init__(self, lines: Lines, label: str, total: int | None, unit: str, done: int) -> None:
        self._lines, self._label, self._total, self._unit = lines, label, total, unit
        self._before = self._done = done
        self._values: dict[str, float | str] = {}
        self._start = self._last = time.monotonic()

    def advance(self, n: int, **values: float | str) -> None:
        self._done += n
        self._values = values or self._values
        if self._lines.due(self._last):
            self._last = time.monotonic()
            self._lines.note(self.line(ended=False))

    def line(self, *, ended: bool) -> str:
        took = time.monotonic() - self._start
        speed = (self._done - self._before) / took if took > 0 else 0.0
        text = f"{self._label}: "
        if self._total is not None and (not ended or self._done < self._total):
            done = amount if self._unit == "B" else (lambda n, _: count(n))
            text += f"{_share(self._done, self._total):.0%} ({done(self._done, self._unit)} of "
            text += f"{amount(self._total, self._unit)})"
        else:
            text += amount(self._done, self._unit)
        if self._done > self._before:
            text += f", {rate(speed, self._unit)}"
        if ended:
            text += f", took {duration(took)}"
        elif self._total is not None and speed > 0:
            text += f", {duration((self._total - self._done) / speed)} left"
        return text + (f"; {_shown(self._values)}" if self._values else "")


def _share(done: float, total: float) -> float:
    return min(done / total, 1.0) if total else 1.0


def _shown(values: dict[str, float | str]) -> str:
    return "  ".join(f"{name.replace('_', ' ')} {value(x)}" for name, x in values.items())
