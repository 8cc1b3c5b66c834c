"""Threads beside the forward pass: one reads and tokenises what comes, one writes what was computed.

Both are bounded: when writing is slower than computing, computing waits, and memory does not grow;
what waits to be written is counted in bytes, because a batch may be of any size. An error in a thread
reaches the caller at its next call, and an error or Ctrl-C of the caller stops the threads: what still
waits is dropped, and leaving the block waits for the call that is under way.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar

from typing_extensions import override


T = TypeVar("T")

_WAITING_BYTES = 256 << 20
"""Bytes that may wait to be written, the batch that is being written included; one batch always may."""
_AHEAD = 8
"""Forward batches tokenised ahead."""


class _Beside:
    """A thread that ends with a block, whatever ends the block."""

    def __init__(self, name: str) -> None:
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._stopped = False
        """Nothing is begun any more."""
        self._ended = False
        """Nothing is added any more."""
        self._done = False
        """The thread does nothing any more."""

    def _run(self) -> None:
        try:
            self._work()
        finally:
            with self._changed:
                self._done = True
                self._changed.notify_all()

    def _join(self) -> None:
        # Thread.join, interrupted by Ctrl-C, takes a running thread for an ended one (Python 3.11).
        with self._changed:
            self._changed.wait_for(lambda: self._done)
        self._thread.join()

    def _stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _work(self) -> None:
        raise NotImplementedError


class Background(_Beside):
    """Calls a function in order in a thread of its own; leaving the block waits for the last call."""

    def __init__(self, call: Callable[..., Any], *, limit: int = _WAITING_BYTES) -> None:
        """Wait to be entered.

        Args:
            call: What to call.
            limit: Bytes that may wait.
        """
        super().__init__("saestore-writer")
        self._call = call
        self._limit = limit
        self._waiting: deque[tuple[int, tuple[Any, ...]]] = deque()
        self._held = 0

    def __enter__(self) -> "Background":
        """Start the thread."""
        self._thread.start()
        return self

    def __call__(self, *args: Any, size: int) -> None:
        """Queue one call; wait if too much is waiting.

        Args:
            args: Of the call.
            size: Bytes that its arguments hold.

        Raises:
            BaseException: What an earlier call raised; nothing is called after it.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopped or not self._held or self._held + size <= self._limit
            )
            if self._error is not None:
                raise self._error
            self._waiting.append((size, args))
            self._held += size
            self._changed.notify_all()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for what is queued; with an error in the block, or Ctrl-C meanwhile, drop it."""
        try:
            with self._changed:
                self._ended = True
                self._stopped = self._stopped or error is not None
                self._changed.notify_all()
            self._join()
        except BaseException:
            self._stop()
            self._join()
            raise
        if error is None and self._error is not None:
            raise self._error

    @override
    def _work(self) -> None:
        while (item := self._next()) is not None:
            size, args = item
            try:
                self._call(*args)
            except BaseException as error:  # noqa: BLE001 - handed to the caller, which raises it
                self._error = error
                self._stop()
            del item, args  # what was written must not be held until the next call
            with self._changed:
                self._held -= size
                self._changed.notify_all()

    def _next(self) -> tuple[int, tuple[Any, ...]] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._ended or self._waiting)
            if self._stopped or not self._waiting:
                self._waiting.clear()
                return None
            return self._waiting.popleft()


class Ahead(_Beside, Generic[T]):
    """What an iterable yields, in order, some items of it made ahead in a thread of its own."""

    def __init__(self, source: Iterable[T], *, limit: int = _AHEAD) -> None:
        """Wait to be entered.

        Args:
            source: What to iterate over, in the thread only.
            limit: Items made ahead.
        """
        super().__init__("saestore-reader")
        self._source = source
        self._limit = limit
        self._made: deque[T] = deque()

    def __enter__(self) -> "Ahead[T]":
        """Start the thread."""
        self._thread.start()
        return self

    def __iter__(self) -> Iterator[T]:
        """Yield every item once.

        Raises:
            BaseException: What the source raised, after the items before it.
        """
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._made or self._ended)
                if not self._made:
                    break
                item = self._made.popleft()
                self._changed.notify_all()
            yield item
        if self._error is not None:
            raise self._error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop reading."""
        self._stop()
        self._join()

    @override
    def _work(self) -> None:
        try:
            for item in self._source:
                with self._changed:
                    self._changed.wait_for(lambda: self._stopped or len(self._made) < self._limit)
                    if self._stopped:
                        break
                    self._made.append(item)
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - handed to the caller, which raises it
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()
