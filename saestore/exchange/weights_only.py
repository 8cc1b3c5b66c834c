"""The one place that reads `.pt` files: tensors and plain values, never code.

A `.pt` file is a pickle, and a pickle runs what it says. PyTorch's weights-only loader builds
tensors, numbers, strings, lists and dictionaries and refuses everything else; a file that needs
more is refused here too.
"""

import math
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped

from saestore.errors import ConfigError
from saestore.exchange.tensors import BFLOAT16, torn


@dataclass(frozen=True)
class InMemory:
    """A tensor of a `.pt` file, mapped from it.

    Attributes:
        values: The tensor.
    """

    values: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of its axes."""
        return tuple(self.values.shape)

    @property
    def dtype(self) -> str:
        """Type of its numbers."""
        return str(self.values.dtype).removeprefix("torch.")

    def read(self, start: int, stop: int) -> Shaped[np.ndarray, "..."]:
        """Return a range of the first axis; bfloat16 as uint16."""
        part = self.values[start:stop].contiguous()
        if self.dtype == BFLOAT16:
            return part.view(torch.int16).numpy().view(np.uint16)
        return part.numpy()

    def merged(self, axes: int) -> "InMemory":
        """Return the tensor with its first axes as one."""
        shape = self.shape
        return InMemory(self.values.reshape(math.prod(shape[:axes]), *shape[axes:]))


def load(path: Path) -> dict[str, Any]:
    """Return what a `.pt` file holds by name: tensors as `InMemory`, plain values as they are.

    Raises:
        ConfigError: It is not whole, it is no dictionary, or it needs code to be run.
    """
    return {
        name: InMemory(value) if isinstance(value, torch.Tensor) else value
        for name, value in values(path).items()
    }


def values(path: Path, *, field: str = "source.path") -> dict[str, Any]:
    """Return what a `.pt` file holds by name, tensors on the CPU.

    Args:
        path: The file.
        field: Setting that named it, for errors.

    Raises:
        ConfigError: It is not whole, it is no dictionary, or it needs code to be run.
    """
    try:
        # Weights only: the rule against torch.load is about its other mode.
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=_zipped(path))  # noqa: TID251
    except pickle.UnpicklingError as error:
        raise ConfigError(
            file=str(path),
            field=field,
            problem="holds more than tensors and plain values, and reading it would run code",
            expected="a .pt file that torch.load(weights_only=True) reads",
            hint="load it where you trust it, and save its tensors as safetensors",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, zipfile.BadZipFile) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise torn(path, f"cannot be read ({first})", field=field) from error
    if not isinstance(found, dict):
        raise ConfigError(
            file=str(path),
            field=field,
            problem=f"holds a {type(found).__name__}",
            expected="a dictionary of tensors",
            hint="name the folder that the other tool wrote",
        )
    return {
        str(name): value.detach() if isinstance(value, torch.Tensor) else value
        for name, value in found.items()
    }


def _zipped(path: Path) -> bool:
    """Return whether the file is of the kind that can be mapped: all that PyTorch 1.6 on writes."""
    return zipfile.is_zipfile(path)
