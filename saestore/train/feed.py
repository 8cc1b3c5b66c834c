"""Batches on their way to the device that learns from them.

On the CPU they are there. To a GPU the next one is read, copied and widened by a thread and a stream of
their own while the device computes with the last: rows cross in the type they are stored in, which
halves what crosses of float16 and leaves the widening, which is exact, to the device. Two sets of
memory take turns, pinned on the host and kept on the device.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from saestore.dictionaries import ContextRows, contexts, precision
from saestore.train.rows import Stream


Batch = Mapping[str, Float[Tensor, "row _"]]


@runtime_checkable
class Feed(Protocol):
    """What a pass takes its batches from."""

    def __next__(self) -> Batch:
        """Return the next batch; valid until the next is asked for."""
        ...

    def state_dict(self) -> Mapping[str, Any]:
        """Return the position behind the batch returned last."""
        ...


@contextmanager
def fed(stream: Stream, device: torch.device) -> Iterator[Feed]:
    """Hand on a stream's batches, to a GPU ahead of time.

    Args:
        stream: Where they come from.
        device: Which device learns from them.
    """
    if device.type != "cuda":
        yield stream
        return
    with ThreadPoolExecutor(1, thread_name_prefix="saestore-feed") as thread:
        yield ToDevice(stream, device, thread)


class ToDevice:
    """Batches of a stream on a GPU, one ahead of what is asked for."""

    def __init__(self, stream: Stream, device: torch.device, thread: ThreadPoolExecutor) -> None:
        self._stream = stream
        self._device = device
        self._thread = thread
        self._computing = torch.cuda.current_stream(device)
        self._copying: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call] # torch leaves it untyped
        self._state: Mapping[str, Any] = stream.state_dict()
        self._sets = [_Memory(), _Memory()]
        self._copied: list[torch.cuda.Event | None] = [None, None]
        self._turn = 0
        self._coming: Future[tuple[Batch, Mapping[str, Any], torch.cuda.Event]] | None = None

    def __next__(self) -> Batch:
        """Return the next batch; valid until the next is asked for.

        Raises:
            DamagedArtefactError: A chunk does not match its crc32c.
        """
        coming = self._coming or self._ahead()
        batch, self._state, there = coming.result()
        there.wait(self._computing)
        self._coming = self._ahead()
        return batch

    def state_dict(self) -> Mapping[str, Any]:
        """Return the position behind the batch returned last, not behind the one ahead."""
        return self._state

    def _ahead(self) -> Future[tuple[Batch, Mapping[str, Any], torch.cuda.Event]]:
        """Have the next batch fetched into the memory of the one before the last."""
        spent = torch.cuda.Event()  # type: ignore[no-untyped-call] # likewise
        spent.record(self._computing)  # all that reads that one is queued by now
        self._turn = 1 - self._turn
        return self._thread.submit(self._fetched, self._turn, spent)

    def _fetched(
        self, turn: int, spent: torch.cuda.Event
    ) -> tuple[Batch, Mapping[str, Any], torch.cuda.Event]:
        batch = next(self._stream)
        state = self._stream.state_dict()
        before = self._copied[turn]
        if before is not None:
            before.synchronize()  # the pinned memory is being read until then
        memory = self._sets[turn]
        with torch.cuda.device(self._device), torch.cuda.stream(self._copying):
            spent.wait(self._copying)
            placed = contexts.each(
                batch, lambda hook, rows: memory.placed(hook, rows, self._device)
            )
            if isinstance(placed, ContextRows):
                layout = placed.contexts
                for each in (layout.offsets, layout.documents, layout.wanted):
                    each.record_stream(self._computing)
            there = torch.cuda.Event()  # type: ignore[no-untyped-call] # likewise
            there.record(self._copying)
        self._copied[turn] = there
        return placed, state, there


class _Memory:
    """Kept memory for the rows of a batch, on the host, on the device, and there in a wide type."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], Tensor] = {}

    def placed(self, hook: str, rows: Tensor, device: torch.device) -> Tensor:
        """Return rows on the device in a type that is computed with; valid until the next call."""
        host = self._take("host", hook, rows, rows.dtype, torch.device("cpu")).copy_(rows)
        there = self._take("there", hook, rows, rows.dtype, device)
        there.copy_(host, non_blocking=True)
        wide = precision.wide(rows.dtype)
        if wide == rows.dtype:
            return there
        return self._take("wide", hook, rows, wide, device).copy_(there)

    def _take(
        self, name: str, hook: str, like: Tensor, dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        kept = self._kept.get((name, hook))
        if kept is None or kept.dtype != dtype or kept.numel() < like.numel():
            pinned = device.type == "cpu"
            kept = torch.empty(like.numel(), dtype=dtype, device=device, pin_memory=pinned)
            self._kept[name, hook] = kept
        return kept[: like.numel()].view(like.shape)
