"""Gradients of weights, added up where they are kept.

Autograd makes a tensor as large as the weights for every product that uses them, and adds those that
meet. Within `kept`, sparse products add theirs, some features at a time, to memory that stays from
step to step and becomes the parameter's `.grad`; autograd gets none from them. What other products
give is added by autograd, as ever. Until backward begins, the forward pass may use that memory.
"""

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn


ALIGNED = 16
"""Gradients begin at multiples of so many numbers: whole lines of a cache."""

_MEMORY: weakref.WeakValueDictionary[tuple[object, ...], Tensor] = weakref.WeakValueDictionary()
"""All that is kept anywhere: dictionaries that take turns, as in a sweep, share it."""

Part = Callable[[int, int], Tensor]
"""Returns the gradient of a range of features."""


@dataclass(frozen=True, eq=False)
class Place:
    """Where the gradient of some weights is kept."""

    weights: nn.Parameter
    memory: Callable[[], Tensor]

    def add(self, part: Part, features: int) -> None:
        """Add a gradient, so many features at a time."""
        whole = self.weights.grad
        first = whole is None
        if whole is None:
            whole = self.weights.grad = self.memory()
        for start in range(0, len(self.weights), features):
            stop = min(start + features, len(self.weights))
            if first:
                whole[start:stop] = part(start, stop)
            else:
                whole[start:stop] += part(start, stop)


class Kept:
    """One stretch of memory for the gradients of some parameters, taken when it is first needed.

    Between two backward passes it holds nothing: `spare` lends it to a forward pass.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters = list(parameters)
        self._starts: dict[int, int] = {}
        self._length = 0
        for each in self._parameters:
            self._starts[id(each)] = self._length
            self._length += -(-each.numel() // ALIGNED) * ALIGNED
        self._memory: Tensor | None = None

    def place(self, weights: Tensor) -> Place | None:
        """Return where the gradient of these weights is kept, if it is."""
        if id(weights) not in self._starts or not isinstance(weights, nn.Parameter):
            return None
        if not self._serves(weights):
            return None
        return Place(weights, partial(self._of, weights))

    def spare(self, rows: int, width: int, like: Tensor) -> Float[Tensor, "row _"] | None:
        """Return memory that is overwritten by the next backward pass; None, where there is none."""
        used = any(each.grad is not None for each in self._parameters)
        if used or rows * width > self._length or not self._serves(like):
            return None
        return self._taken()[: rows * width].view(rows, width)

    def release(self) -> None:
        """Forget the memory."""
        self._memory = None

    def _serves(self, like: Tensor) -> bool:
        first = self._parameters[0]
        return (like.dtype, like.device) == (first.dtype, first.device)

    def _of(self, weights: Tensor) -> Tensor:
        start = self._starts[id(weights)]
        return self._taken()[start : start + weights.numel()].view_as(weights)

    def _taken(self) -> Tensor:
        if self._memory is None:
            first = self._parameters[0]
            key = (threading.get_ident(), self._length, first.dtype, first.device)
            found = _MEMORY.get(key)
            if found is None:
                found = torch.empty(self._length, dtype=first.dtype, device=first.device)
                _MEMORY[key] = found
            self._memory = found
        return self._memory


_current: ContextVar[Kept | None] = ContextVar("kept", default=None)


@contextmanager
def kept(memory: Kept) -> Iterator[None]:
    """Let products that are computed meanwhile keep their gradients of weights there."""
    before = _current.set(memory)
    try:
        yield
    finally:
        _current.reset(before)


def place_of(weights: Tensor) -> Place | None:
    """Return where the gradient of these weights is kept; None, where autograd wants it."""
    memory = _current.get()
    return None if memory is None else memory.place(weights)


def spare(rows: int, width: int, like: Tensor) -> Float[Tensor, "row _"] | None:
    """Return memory that no gradient is in yet, for what is over before the first; None without."""
    memory = _current.get()
    return None if memory is None else memory.spare(rows, width, like)
