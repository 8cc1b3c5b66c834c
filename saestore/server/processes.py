"""Questions in SQL, answered in processes of their own.

The engine interrupts a question between two steps; some functions of text make one enormous step, for
hours. Such a question ends with its process, and one that takes too much memory fails alone.
"""

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import pyarrow as pa
from anyio import BrokenWorkerProcess, CapacityLimiter, to_process

from saestore import apart
from saestore.errors import QueryError
from saestore.features.sandbox import late
from saestore.lake import Lake
from saestore.server import memory, tables
from saestore.server.tables import Bounds, Question
from saestore_schemas.server import ServerSettings
from saestore_schemas.wire import TableAnswer


GRACE_S = 5.0
"""Seconds beyond its time after which a question's process is ended. Opening the lake's tables counts too."""
_LOG = logging.getLogger("saestore.server")
_ROOM_MIB = 1024
"""MiB that a process may take beyond what its question may: for the engine, and the answer."""


class SqlProcesses:
    """Answers questions in SQL, each in a process that no other uses meanwhile.

    A process is started when a question needs one, answers many, and ends with the event loop.
    """

    def __init__(self, lake: Lake, settings: ServerSettings) -> None:
        """Start nothing yet.

        Args:
            lake: What is asked about.
            settings: What a question may take, and how many there are at once.
        """
        self._lake = lake
        self._bounds = Bounds.of(settings)
        self._memory = settings.sql_memory_mib + _ROOM_MIB
        self._limiter = CapacityLimiter(settings.sql_at_once)
        self._preparing: asyncio.Task[None] | None = None

    def prepare(self) -> None:
        """Have a process ready before the first question comes: it takes a second or two to start.

        Nobody waits for it: a connection takes the next request when all of the one before is done.
        """
        if self._pending is None:
            self._preparing = asyncio.get_running_loop().create_task(self._prepared())

    @property
    def _pending(self) -> "asyncio.Task[None] | None":
        """What makes a process ready, if it still does and for this event loop: processes end with theirs."""
        task = self._preparing
        here = asyncio.get_running_loop()
        return None if task is None or task.done() or task.get_loop() is not here else task

    async def _prepared(self) -> None:
        if not self._limiter.available_tokens:
            return
        try:
            await self._run(begin, self._memory)
        except BrokenWorkerProcess as error:
            _LOG.warning("no process for questions in SQL could be started: %s", error)

    async def answer(self, question: Question) -> TableAnswer:
        """Return the answer to a question.

        Raises:
            QueryError: It was refused, its time is up, or its process was ended.
            SaestoreError: The lake cannot be read.
        """
        if (preparing := self._pending) is not None:  # it is ready before another one would be
            await asyncio.wait([preparing])
        began = time.monotonic()
        try:
            found: TableAnswer = await self._run(
                answer, self._lake, self._bounds, self._memory, question
            )
        except BrokenWorkerProcess as error:
            limits = self._bounds.limits
            if time.monotonic() - began >= _seconds(self._bounds):
                raise late(question.text, limits) from error
            raise QueryError(
                "the process that should answer it ended" + (f": {error}" if str(error) else ""),
                found=question.text,
                expected="an answer",
                hint="ask for fewer columns or rows, as the system may have run out of memory; a program "
                'that calls serve() does so below `if __name__ == "__main__":`',
            ) from error
        return found

    async def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        name = f"{function.__module__}:{function.__name__}"
        return await to_process.run_sync(
            apart.call, name, *arguments, cancellable=True, limiter=self._limiter
        )


def answer(lake: Lake, bounds: Bounds, mib: int, question: Question) -> TableAnswer:
    """Answer a question in this process, which the system ends if it takes too long."""
    begin(mib)
    signal.setitimer(signal.ITIMER_REAL, _seconds(bounds))
    try:
        return tables.answered(lake, bounds, question)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@cache
def begin(mib: int) -> None:
    """Make this process one that answers questions: the server ends it, and may have answers to finish."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    # no handler, which would wait for the engine: the system itself ends the process
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    # Arrow's allocator reserves a GiB of addresses at once and uses little of it: that does not count
    pa.allocate_buffer(1 << 20)
    memory.hold(mib)


def _seconds(bounds: Bounds) -> float:
    return (bounds.limits.seconds or 0.0) + GRACE_S
