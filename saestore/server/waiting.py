"""Work that takes long, a few at a time: what waits in vain is told to come back, and the rest is served."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
from anyio import CapacityLimiter, to_thread

from saestore.server.problems import refused


T = TypeVar("T")


class Turns:
    """Runs work in threads of its own, so many at once."""

    def __init__(self, at_once: int, wait_s: float, what: str) -> None:
        """Run nothing yet.

        Args:
            at_once: How many at once.
            wait_s: Seconds to wait for one's turn.
            what: What they are, in a message.
        """
        self._at_once = at_once
        self._wait_s = wait_s
        self._what = what
        self._turns = anyio.Semaphore(at_once)
        self._threads = CapacityLimiter(at_once)

    async def take(self, work: Callable[[], T]) -> T:
        """Return what some work returns, when its turn has come.

        Raises:
            Refused: Its turn did not come.
        """
        async with self.turn():
            return await to_thread.run_sync(work, limiter=self._threads)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, and have it while the block runs.

        Raises:
            Refused: It did not come.
        """
        try:
            with anyio.fail_after(self._wait_s):
                await self._turns.acquire()
        except TimeoutError as error:
            raise refused(
                503,
                f"{self._at_once} {self._what} are being answered, for {self._wait_s:g} s and longer",
                hint="come back in a few seconds",
                headers={"Retry-After": "5"},
            ) from error
        try:
            yield
        finally:
            self._turns.release()
