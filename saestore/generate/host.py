"""From the device to the host, beside the computation.

On a GPU the copy runs on a stream of its own, which waits for the event that the forward pass left
behind: the next pass does not wait for the copy, nor the copy for the next pass. It ends in pinned
memory that is kept, one buffer for each hookpoint, because the device can write only there without
the help of a second copy. On a CPU there is nothing to copy.
"""

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from saestore_schemas.activations import StoreDtype


@runtime_checkable
class Event(Protocol):
    """What a stream can wait for."""

    def wait(self, stream: "torch.cuda.Stream") -> None:
        """Make a stream wait for what was queued before the event."""
        ...


class ToHost:
    """Copies captured activations to the host, in the thread that writes them."""

    def __init__(self, device: torch.device, dtype: StoreDtype) -> None:
        """Choose how to copy.

        Args:
            device: Where the model computes.
            dtype: How activations are stored: bfloat16 is rounded on the device, which halves what
                is copied. float16 is not: the message about a value that does not fit names it.
        """
        self._dtype = torch.bfloat16 if dtype == "bfloat16" else None
        self._cuda = device.type == "cuda"
        self._stream: torch.cuda.Stream | None = None
        self._pinned: dict[str, Tensor] = {}

    def ready(self) -> Event | None:
        """Return what a copy of the tensors computed so far must wait for; call it after a pass."""
        if not self._cuda:
            return None
        event = torch.cuda.Event()  # type: ignore[no-untyped-call] # torch leaves it untyped
        event.record()
        return event

    def __call__(
        self,
        values: Float[Tensor, "batch position d"],
        ready: Event | None,
        *,
        kept: str,
        exact: bool = False,
    ) -> Float32[np.ndarray, "batch position d"]:
        """Return the values on the host; returns when they are there.

        They are valid until the next call with the same `kept`.

        Args:
            values: On the device.
            ready: What `ready` returned after the pass that computed them.
            kept: Name of the buffer that may be used again.
            exact: Do not round them to the store's type: they are no activations.
        """
        if ready is None:
            return values.cpu().float().numpy()
        if self._stream is None:
            self._stream = torch.cuda.Stream(values.device)  # type: ignore[no-untyped-call] # likewise
        with torch.cuda.stream(self._stream):
            ready.wait(self._stream)
            narrow = values if exact or self._dtype is None else values.to(self._dtype)
            host = self._buffer(kept, narrow)
            host.copy_(narrow, non_blocking=True)
            self._stream.synchronize()
        return host.float().numpy()

    def _buffer(self, name: str, like: Tensor) -> Tensor:
        """Return pinned memory for a tensor."""
        there = self._pinned.get(name)
        if there is None or there.dtype != like.dtype or there.numel() < like.numel():
            there = torch.empty(like.numel(), dtype=like.dtype, pin_memory=True)
            self._pinned[name] = there
        return there[: like.numel()].view(like.shape)
