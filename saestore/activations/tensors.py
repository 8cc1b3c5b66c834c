"""Rows in stored form as tensors of the type a consumer wants."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from saestore.activations import codecs
from saestore.activations.layout import ArraySpec
from saestore.activations.memory import pages
from saestore.activations.store import ActivationStore
from saestore.errors import ConfigError
from saestore.lake import layout


Form = Literal["float32", "stored"]
"""What a batch holds: float32, or the stored type (float16, bfloat16) without conversion."""

Held = Mapping[str, Shaped[np.ndarray, "row ..."]]
"""Stored rows of each array, by path."""


class Tensors:
    """What is read for some hookpoints, and how it becomes tensors.

    Attributes:
        paths: The array of each hookpoint.
        arrays: All arrays to read, by path.
    """

    def __init__(self, store: ActivationStore, hookpoints: Sequence[str], form: Form) -> None:
        """Look up the arrays.

        Raises:
            HookpointNotFoundError: The store lacks one of the hookpoints.
            ConfigError: The stored form means nothing by itself.
        """
        self._store = store
        self._form = form
        self.paths = {name: store.array_of(name) for name in hookpoints}
        self._dtypes = {name: store.hookpoints[name].dtype for name in hookpoints}
        quantised = [name for name, dtype in self._dtypes.items() if dtype == "int8"]
        if quantised and form == "stored":
            raise ConfigError(
                field="dtype",
                found=form,
                expected="'float32': int8 rows mean nothing without their scales",
            )
        self._scales = {name: layout.scale_array(name) for name in quantised}
        read = (*self.paths.values(), *self._scales.values())
        self.arrays: dict[str, ArraySpec] = {path: store.arrays[path] for path in read}

    @property
    def row_bytes(self) -> int:
        """Stored bytes of one row."""
        return sum(array.grid.row_bytes for array in self.arrays.values())

    @property
    def converts(self) -> bool:
        """Whether the wanted type is another than the stored one."""
        return self._form == "float32" and set(self._dtypes.values()) != {"float32"}

    def stored(self, rows: int) -> dict[str, Shaped[np.ndarray, "row ..."]]:
        """Return memory for so many rows in stored form."""
        return {p: pages((rows, *a.tail), a.stored) for p, a in self.arrays.items()}

    def outputs(self, rows: int) -> dict[str, Tensor]:
        """Return memory for so many rows of each hookpoint in the wanted type.

        It is pinned where there is a GPU: copied to it without a stop on the way.
        """
        pinned = torch.cuda.is_available()
        return {
            name: torch.empty(
                rows, self._store.hookpoints[name].width, dtype=self._type(name), pin_memory=pinned
            )
            for name in self.paths
        }

    def _type(self, name: str) -> torch.dtype:
        if self._form == "float32":
            return torch.float32
        dtype: torch.dtype = getattr(torch, self._dtypes[name])
        return dtype

    def view(self, name: str, held: Held) -> Tensor:
        """Return a hookpoint's stored rows as a tensor where they lie."""
        bits = torch.from_numpy(held[self.paths[name]])
        return bits.view(torch.bfloat16) if self._dtypes[name] == "bfloat16" else bits

    def into(self, name: str, held: Held, out: Tensor) -> Tensor:
        """Write a hookpoint's rows into memory of the wanted type, and return it."""
        if name in self._scales:
            scales, deviations = held[self._scales[name]], self._store.deviations(name)
            codecs.dequantise(held[self.paths[name]], scales, deviations, out=out.numpy())
            return out
        return out.copy_(self.view(name, held))
