"""How long work reports: the library calls this protocol, the terminal draws it, tests record it."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, runtime_checkable


@runtime_checkable
class Task(Protocol):
    """One bar."""

    def advance(self, n: int, **values: int | float | str) -> None:
        """Add `n` units of work; `values` (loss, L0, …) are shown beside the rate."""
        ...


@runtime_checkable
class Progress(Protocol):
    """Where verbs report what they do."""

    def task(
        self, label: str, *, total: int | None, unit: str, done: int = 0
    ) -> AbstractContextManager[Task]:
        """Open a bar over `total` units, of which `done` were finished by an earlier run."""
        ...

    def note(self, message: str) -> None:
        """Say one line that stays on screen."""
        ...


class _SilentTask:
    def advance(self, n: int, **values: int | float | str) -> None:
        pass


class Silent:
    """Reports nothing: the default of every verb."""

    @contextmanager
    def task(
        self,
        label: str,  # noqa: ARG002 - the protocol's arguments, unused here
        *,
        total: int | None,  # noqa: ARG002
        unit: str,  # noqa: ARG002
        done: int = 0,  # noqa: ARG002
    ) -> Iterator[Task]:
        """Open nothing."""
        yield _SilentTask()

    def note(self, message: str) -> None:
        """Say nothing."""


class Recorder:
    """Keeps what was reported, for programs and tests.

    Attributes:
        tasks: (label, total, unit, done, advanced) of every task.
        notes: Every note.
    """

    def __init__(self) -> None:
        self.tasks: list[dict[str, object]] = []
        self.notes: list[str] = []

    @contextmanager
    def task(self, label: str, *, total: int | None, unit: str, done: int = 0) -> Iterator[Task]:
        """Record a task."""
        entry: dict[str, object] = {
            "label": label, "total": total, "unit": unit, "done": done, "advanced": 0,
        }  # fmt: skip
        self.tasks.append(entry)
        yield _RecordedTask(entry)

    def note(self, message: str) -> None:
        """Record a note."""
        self.notes.append(message)


class _RecordedTask:
    def __init__(self, entry: dict[str, object]) -> None:
        self._entry = entry

    def advance(self, n: int, **values: int | float | str) -> None:
        self._entry["advanced"] = int(str(self._entry["advanced"])) + n
        self._entry["values"] = values
