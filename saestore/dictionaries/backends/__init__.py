"""Who does the work on pairs of row and feature, by device. Nothing else asks for the device.

    loops     on the CPU: torch's bags, selection by compiled loops
    triton    on CUDA
    torch     everywhere else; and what the others are tested against
    cuda      on CUDA where triton is missing, which torch's builds for it bring

They return the same up to the order of sums. Which one worked is a fact about the machine: it stands
in a checkpoint beside the library versions, never in a fingerprint.
"""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch

from saestore.dictionaries.backends.loops_backend import Loops
from saestore.dictionaries.backends.torch_backend import Chosen, OnCuda, Torch
from saestore.errors import ConfigError, nearest


Backend = Torch
"""What each of them can do; `Torch` says what it means."""


def _triton() -> Torch:
    from saestore.dictionaries.backends.triton_backend import (  # noqa: PLC0415 - CUDA only
        Triton,
    )

    return Triton()


BACKENDS: dict[str, Callable[[], Backend]] = {
    "loops": Loops,
    "triton": _triton,
    "torch": Torch,
    "cuda": OnCuda,
}
"""Name to what makes it."""

_wanted: list[str] = []

wanted_share: float | None = None
"""Share of pairs among all entries above which products are dense; None, as is faster. For tests."""


def of(device: torch.device) -> Backend:
    """Return who works on a device."""
    return _made(_wanted[-1] if _wanted else _usual(device.type))


@cache
def _made(name: str) -> Backend:
    return BACKENDS[name]()


@cache
def _usual(kind: str) -> str:
    """Return the name of who works on a kind of device."""
    if kind == "cuda":
        return "triton" if importlib.util.find_spec("triton") else "cuda"
    return "loops" if kind == "cpu" else "torch"


def dense_share(device: torch.device, dtype: torch.dtype) -> float:
    """Return the share of pairs among all entries above which dense products are faster.

    Args:
        device: Where.
        dtype: Type in which products are computed.
    """
    return of(device).dense_share(dtype) if wanted_share is None else wanted_share


@contextmanager
def using(name: str) -> Iterator[None]:
    """Let one of them do all work meanwhile, in every thread; for tests, and to get around a fault.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in BACKENDS:
        close = nearest(name, tuple(BACKENDS))
        raise ConfigError(
            field="backend",
            found=name,
            expected=f"one of {', '.join(BACKENDS)}",
            hint=f"did you mean {close[0]}?" if close else "see saestore.dictionaries.backends",
        )
    _wanted.append(name)
    try:
        yield
    finally:
        _wanted.pop()


__all__ = ["BACKENDS", "Backend", "Chosen", "dense_share", "of", "using"]
