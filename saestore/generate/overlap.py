"""One thread that writes while the next forward pass computes.

Its queue is bounded: when writing is slower than computing, computing waits, and memory does not
grow. An error in the thread reaches the caller at its next call.
"""

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any


_WAITING = 4
"""Batches that may wait to be written."""


class Background:
    """Calls a function in order in a thread of its own; leaving the block waits for the last call."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call
        self._queue: queue.Queue[tuple[tuple[Any, ...], dict[str, Any]] | None] = queue.Queue(
            maxsize=_WAITING
        )
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="saestore-writer", daemon=True)

    def __enter__(self) -> "Background":
        """Start the thread."""
        self._thread.start()
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Queue one call; wait if too many are waiting.

        Raises:
            BaseException: What an earlier call raised; nothing is called after it.
        """
        self._raise()
        self._queue.put((args, kwargs))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for what is queued; with an error in the block, drop it instead."""
        if error is not None:
            self._error = self._error or error
        self._queue.put(None)
        self._thread.join()
        if error is None:
            self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is not None:
                continue  # drain, so that the caller's put never blocks for ever
            try:
                self._call(*item[0], **item[1])
            except BaseException as error:  # noqa: BLE001 - handed to the caller, which raises it
                self._error = error
