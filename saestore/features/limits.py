"""How much of the machine a question may take: machine facts, never part of an answer."""

import math
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import duckdb

from saestore.errors import ConfigError


T = TypeVar("T")

_AT_ONCE = 64
"""Most questions that are answered at once in a process; further ones wait."""
_PAUSE = 0.1
"""Seconds until Ctrl-C is heard, at most."""


@dataclass(frozen=True)
class Limits:
    """What a connection may use.

    Attributes:
        memory_mib: MiB of memory; what takes more is written to a temporary folder, or fails. Absent,
            half of the machine's.
        spill_mib: MiB of that folder, at most; 0 writes nothing.
        threads: CPU threads; absent, all.
        seconds: Time of one question; absent, no end.
    """

    memory_mib: int | None = None
    spill_mib: int = 65_536
    threads: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is no limit.

        Raises:
            ConfigError: A limit is not above 0; `spill_mib` may be 0.
        """
        for name, least in (("memory_mib", 1), ("spill_mib", 0), ("threads", 1)):
            found = getattr(self, name)
            if found is not None and found < least:
                raise ConfigError(field=name, found=found, expected=f"{least} or more")
        if self.seconds is not None and not self.seconds > 0:
            raise ConfigError(field="seconds", found=self.seconds, expected="more than 0")

    def settings(self) -> list[str]:
        """Return what DuckDB is told."""
        # Made when it is needed, removed with the connection. DuckDB's own choice stands in the
        # working folder, and SQL may read whatever stands there.
        folder = Path(tempfile.gettempdir()) / f"saestore-sql-{uuid4().hex}"
        quoted = str(folder).replace("'", "''") if self.spill_mib else ""
        memory = "50%" if self.memory_mib is None else f"{self.memory_mib}MiB"
        threads = [] if self.threads is None else [f"threads = {self.threads}"]
        return [
            f"memory_limit = '{memory}'",
            f"max_temp_directory_size = '{self.spill_mib}MiB'",
            f"temp_directory = '{quoted}'",
            *threads,
        ]


def within(connection: duckdb.DuckDBPyConnection, seconds: float | None, ask: Callable[[], T]) -> T:
    """Return what is asked of a connection, unless its time is up or Ctrl-C comes.

    It is asked in another thread, while this one waits for whatever comes first: DuckDB looks for
    signals between its tasks only, and one of them can take hours. Threads are kept: the engine's
    allocator makes the first question of each a millisecond slower.

    Args:
        connection: What is asked.
        seconds: Its time; None, no end.
        ask: The question.

    Raises:
        TimeoutError: Its time is up, and the connection takes the next question.
        KeyboardInterrupt: Ctrl-C; likewise.
    """
    asked = _threads().submit(ask)
    try:
        ended = _ended(asked, seconds)
    except KeyboardInterrupt:
        _stop(connection, asked)
        raise
    if not ended:
        _stop(connection, asked)
        raise TimeoutError
    return asked.result()


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="saestore-sql")


# a forked process has none of them
os.register_at_fork(after_in_child=_threads.cache_clear)


def _ended(asked: "Future[Any]", seconds: float | None) -> bool:
    """Wait for the end, at most so long, and return whether it came.

    With pauses: once Polars is imported a signal no longer ends a wait, so that Python would hear of Ctrl-C
    only behind it.
    """
    until = math.inf if seconds is None else time.monotonic() + seconds
    while not asked.done() and (left := until - time.monotonic()) > 0:
        wait([asked], min(left, _PAUSE))
    return asked.done()


def _stop(connection: duckdb.DuckDBPyConnection, asked: "Future[Any]") -> None:
    """Interrupt until it has ended: an interrupt that comes before the engine runs is forgotten."""
    while not (asked.cancel() or asked.done()):
        connection.interrupt()
        wait([asked], 0.05)
