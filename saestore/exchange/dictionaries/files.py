"""Other tools' files: JSON, safetensors, `.pt` and `.npz`, read without running anything.

What is missing, misshapen, left over or not finite is an error that names it. Weights become
float32: exactly, from half precision.
"""

import difflib
import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from saestore.errors import ConfigError, nearest
from saestore.exchange import weights_only
from saestore.exchange.place import listed
from saestore.exchange.tensors import torn


_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

_MISSING = object()


class Config:
    """A JSON object of another tool; every value that is read from it is checked.

    Attributes:
        path: The file.
        values: What it holds.
    """

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self.path = path
        self.values = dict(values)

    @classmethod
    def read(cls, path: Path) -> "Config":
        """Return what a file holds.

        Raises:
            ConfigError: It is not a JSON object.
        """
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, UnicodeDecodeError) as error:
            raise torn(path, f"is no JSON ({error})", field="path") from error
        if not isinstance(found, dict):
            raise ConfigError(
                file=str(path), field="path", problem="is no JSON object", expected="an object"
            )
        return cls(path, found)

    def section(self, name: str) -> "Config":
        """Return an object inside this one; empty where there is none."""
        found = self.values.get(name)
        return Config(self.path, found if isinstance(found, dict) else {})

    def get(self, name: str, *kinds: type, default: Any = _MISSING) -> Any:
        """Return a value of one of these types.

        Args:
            name: Its key.
            kinds: Types it may have; an integer passes for a float.
            default: What an absent or null value means; without one the key must be there.

        Raises:
            ConfigError: It is absent, or something else.
        """
        value = self.values.get(name)
        if value is None and default is not _MISSING:
            return default
        if value is None:
            close = nearest(name, list(self.values))
            raise ConfigError(
                file=str(self.path),
                field=name,
                problem="is not there",
                expected=" or ".join(kind.__name__ for kind in kinds),
                hint=f"it holds {', '.join(close)}"
                if close
                else "another tool's file, or a torn one",
            )
        if float in kinds and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise ConfigError(
                file=str(self.path),
                field=name,
                found=value,
                expected=" or ".join(kind.__name__ for kind in kinds),
            )
        return value

    def unknown(self, known: Iterable[str]) -> tuple[str, ...]:
        """Return a reason for each key that this release does not know."""
        strange = sorted(self.values.keys() - set(known))
        return tuple(
            f"{self.path.name} says {name} = {json.dumps(self.values[name])}, which this release "
            "does not know"
            for name in strange
        )


class Weights:
    """The tensors of one file, taken by name.

    Attributes:
        path: The file.
        notes: What was done to their types.
    """

    def __init__(
        self, path: Path, tensors: Mapping[str, Tensor], extras: Mapping[str, Any]
    ) -> None:
        self.path = path
        self.notes: tuple[str, ...] = ()
        self._tensors = dict(tensors)
        self._extras = dict(extras)
        self._taken: set[str] = set()
        kinds = {each.dtype for each in self._tensors.values() if each.is_floating_point()}
        narrow = sorted(
            str(kind).rsplit(".")[-1] for kind in kinds & {torch.float16, torch.bfloat16}
        )
        if narrow:
            self.notes = (f"weights are {' and '.join(narrow)}, widened to float32 exactly",)

    @classmethod
    def safetensors(cls, path: Path) -> "Weights":
        """Return the tensors of a safetensors file.

        Raises:
            ConfigError: It is not whole.
        """
        try:
            return cls(path, safetensors.torch.load_file(path), {})
        except safetensors.SafetensorError as error:
            raise torn(path, f"is no whole safetensors file ({error})", field="path") from error

    @classmethod
    def pt(cls, path: Path, *, inside: str | None = None) -> "Weights":
        """Return the tensors of a `.pt` file; what is no tensor is an extra.

        Args:
            path: The file.
            inside: Key of the dictionary that holds them, where there is one around it.

        Raises:
            ConfigError: It is not whole, or needs code to be run.
        """
        found = weights_only.values(path, field="path")
        if inside is not None and isinstance(found.get(inside), dict):
            found = found[inside]
        tensors = {name: each for name, each in found.items() if isinstance(each, Tensor)}
        return cls(path, tensors, {n: each for n, each in found.items() if n not in tensors})

    @classmethod
    def npz(cls, path: Path) -> "Weights":
        """Return the arrays of a `.npz` file.

        Raises:
            ConfigError: It is not whole, or needs code to be run.
        """
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
                arrays = {name: torch.from_numpy(np.array(data[name])) for name in data.files}
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, TypeError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise torn(path, f"is no whole .npz of numbers ({first})", field="path") from error
        return cls(path, arrays, {})

    def __contains__(self, name: str) -> bool:
        """Return whether there is such a tensor."""
        return name in self._tensors

    def shape(self, name: str, *, axes: int = 2) -> tuple[int, ...]:
        """Return the shape of a tensor with so many axes.

        Raises:
            ConfigError: It is not there, or has more or fewer.
        """
        tensor = self._tensors.get(name)
        if tensor is None:
            raise self._absent(name)
        if tensor.ndim != axes:
            raise self._misshapen(name, tensor, f"{axes} axes")
        return tuple(map(int, tensor.shape))

    def take(self, name: str, *shape: int) -> Tensor:
        """Return a tensor in float32.

        Raises:
            ConfigError: It is missing, misshapen, no floating-point numbers, or not finite.
        """
        tensor = self.raw(name)
        if tuple(tensor.shape) != shape:
            raise self._misshapen(name, tensor, str(list(shape)))
        if tensor.dtype not in _FLOATS:
            raise ConfigError(
                file=str(self.path),
                field=name,
                found=str(tensor.dtype),
                expected="float16, bfloat16, float32 or float64",
                hint="quantised weights have to be converted back first",
            )
        if not torch.isfinite(tensor).all():
            raise ConfigError(
                file=str(self.path),
                field=name,
                problem="holds NaN or infinity",
                expected="finite weights",
                hint="a run that diverged, or a damaged file",
            )
        return tensor.float().contiguous()

    def raw(self, name: str) -> Tensor:
        """Return a tensor as it is.

        Raises:
            ConfigError: It is not there.
        """
        if name not in self._tensors:
            raise self._absent(name)
        self._taken.add(name)
        return self._tensors[name]

    def number(self, name: str) -> float | None:
        """Return a number that stands in the file as a tensor or as itself; None if it does not."""
        value = self._tensors.get(name, self._extras.get(name))
        self._taken.add(name)
        if isinstance(value, Tensor):
            return float(value) if value.numel() == 1 else None
        return float(value) if isinstance(value, (int, float)) else None

    def other(self, name: str) -> Any:
        """Return a value that is no tensor; None where there is none."""
        self._taken.add(name)
        return self._extras.get(name)

    def done(self, *ignored: str) -> None:
        """Refuse what was not taken: it would change what is computed, and nobody knows how.

        Args:
            ignored: Names that do not matter; `x.*` for all that begin so.

        Raises:
            ConfigError: Something is left.
        """
        prefixes = tuple(name[:-1] for name in ignored if name.endswith("*"))
        left = sorted(
            name
            for name in {*self._tensors, *self._extras} - self._taken - set(ignored)
            if not (prefixes and name.startswith(prefixes))
        )
        if left:
            close = difflib.get_close_matches(left[0], sorted(self._taken), n=1)
            others = f", nor {', '.join(left[1:8])}" if len(left) > 1 else ""
            raise ConfigError(
                file=str(self.path),
                field=left[0],
                problem=f"is not known{others}",
                expected=f"only {', '.join(sorted(self._taken))}",
                hint=f"did you mean {close[0]}?"
                if close
                else "another kind of dictionary than its config says",
            )

    def _absent(self, name: str) -> ConfigError:
        close = nearest(name, sorted(self._tensors))
        return ConfigError(
            file=str(self.path),
            field=name,
            problem="is not there",
            expected="this tensor",
            hint=f"it holds {', '.join(close or sorted(self._tensors)[:8])}",
        )

    def _misshapen(self, name: str, tensor: Tensor, expected: str) -> ConfigError:
        return ConfigError(
            file=str(self.path),
            field=name,
            problem=f"has shape {list(tensor.shape)}",
            expected=expected,
            hint="tensors of different dictionaries, or another kind than its config says",
        )


def one_of(folder: Path, *names: str, tool: str) -> Path:
    """Return the first of these files that a folder holds.

    Raises:
        ConfigError: It holds none, or is a file.
    """
    if folder.is_file():
        raise ConfigError(
            field="path",
            found=str(folder),
            problem=f"{folder} is a file",
            expected=f"the folder that {tool} wrote",
            hint=f"name its folder: {folder.parent}",
        )
    for name in names:
        if (folder / name).is_file():
            return folder / name
    inside = sorted(
        each.name for each in folder.iterdir() if each.is_dir() and (each / names[0]).is_file()
    )
    hint = f"{folder} holds {listed(folder)}"
    if inside:
        hint = f"it lies one folder deeper: {', '.join(str(folder / n) for n in inside[:4])}"
    raise ConfigError(
        field="path",
        found=str(folder),
        problem=f"{folder} has no {' or '.join(names)}",
        expected=f"what {tool} wrote",
        hint=hint,
    )
