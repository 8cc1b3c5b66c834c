"""Activations as plain arrays: `.npy` files, and raw numbers as `numpy.memmap` writes them.

numpy has no bfloat16. Whoever saves it saves its bits, as uint16 or as two bytes without a type, so
the type must be said; the bits are reinterpreted and never converted as integers.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from saestore.corpus.files import Found
from saestore.errors import ConfigError
from saestore.exchange import place, spelling, tensors
from saestore.exchange.source import About, Part, Rows, contexts_of
from saestore.exchange.tensors import BFLOAT16, InFile
from saestore_schemas.exchange import NpyActivations


SUFFIXES = (".npy", ".bin", ".dat", ".raw", ".memmap", ".mmap")
"""Files of a folder that may be hookpoints."""


class Arrays:
    """One array for each hookpoint, and the tokens that belong to all of them.

    Attributes:
        about: What they hold.
    """

    def __init__(self, settings: NpyActivations, wanted: Sequence[str]) -> None:
        """Read the headers.

        Raises:
            ConfigError: A file is no such array, not whole, or does not fit the others.
            HookpointNotFoundError: The folder has no such file.
        """
        root = place.existing(settings.path)
        known = _candidates(root, settings)
        names = spelling.chosen(wanted, tuple(known), where=str(root))
        found = {ours: _activations(known[theirs], settings) for ours, theirs in names.items()}
        beside = {
            name: tensors.npy(place.existing(path, field=f"source.{name}"))
            for name, path in (("tokens", settings.tokens), ("mask", settings.mask))
            if path is not None
        }
        shapes = {ours: each.shape[:-1] for ours, each in found.items()}
        if len(set(shapes.values())) != 1:
            first, other = (
                next(iter(shapes)),
                next(name for name in shapes if shapes[name] != next(iter(shapes.values()))),
            )
            raise ConfigError(
                field="hookpoints",
                problem=f"{first} has {list(shapes[first])} rows and {other} {list(shapes[other])}",
                expected="the same rows at every hookpoint",
                hint="import them one by one",
            )
        activations = next(iter(found.values()))
        said = [
            contexts_of(activations.shape, None if each is None else each.shape, where=str(root))
            for each in (None, *beside.values())
        ]
        spoken = next((each for each in said if each is not None), None)
        rows = int(np.prod(activations.shape[:-1]))
        self._length = spoken[1] if spoken else 1
        self._hooks = {ours: each.merged(len(each.shape) - 1) for ours, each in found.items()}
        self._beside = {name: each.merged(len(each.shape)) for name, each in beside.items()}
        self.about = About(
            origin=root.name,
            files=tuple(
                Found(each.path, each.path.name) for each in (*found.values(), *beside.values())
            ),
            widths={ours: each.shape[-1] for ours, each in found.items()},
            theirs=names,
            dtype=place.one_dtype({each.dtype for each in found.values()}, where=str(root)),
            parts=(Part(root.stem, rows // self._length, self._length),),
            flat=spoken is None,
            has_tokens="tokens" in beside,
        )

    def read(self, part: int, start: int, stop: int) -> Rows:
        """Return contexts start to stop; rows, where there are no contexts."""
        del part
        here = start * self._length, stop * self._length
        mask = self._beside["mask"].read(*here) != 0 if "mask" in self._beside else None
        return Rows(
            hooks={ours: each.read(*here) for ours, each in self._hooks.items()},
            lengths=np.full(stop - start, self._length, np.int64),
            tokens=self._beside["tokens"].read(*here) if "tokens" in self._beside else None,
            mask=mask,
        )


def _candidates(root: Path, settings: NpyActivations) -> dict[str, Path]:
    """Return the files that may be hookpoints, by file name without its ending."""
    if root.is_file():
        return {root.stem if root.suffix in SUFFIXES else root.name: root}
    others = {
        Path(path).expanduser().resolve() for path in (settings.tokens, settings.mask) if path
    }
    found = {
        each.stem: each
        for each in sorted(root.iterdir())
        if each.suffix in SUFFIXES and each.resolve() not in others
    }
    if not found:
        raise ConfigError(
            field="source.path",
            problem=f"{root} holds no arrays",
            expected=f"files ending in {', '.join(SUFFIXES)}",
            hint=f"it holds {place.listed(root)}",
        )
    return found


def _activations(path: Path, settings: NpyActivations) -> InFile:
    with path.open("rb") as file:
        plain = file.read(6) != b"\x93NUMPY"
    if plain and path.suffix != ".npy":
        if settings.shape is None or settings.dtype is None:
            raise ConfigError(
                file=str(path),
                field="source.shape" if settings.shape is None else "source.dtype",
                problem="holds numbers and nothing that says how they lie",
                expected="its shape and the type of its numbers",
                hint="for example --shape=-1,768 --source-dtype float16",
            )
        return tensors.raw(path, settings.shape, settings.dtype)
    found = tensors.npy(path)
    if settings.shape is not None:
        raise ConfigError(
            file=str(path),
            field="source.shape",
            problem="says its own shape",
            expected="no shape beside a .npy",
            hint="leave --shape out",
        )
    if settings.dtype == BFLOAT16 and found.stored.itemsize == 2 and found.dtype != "float16":  # noqa: PLR2004 - bytes of it
        return replace(found, dtype=BFLOAT16)
    if found.dtype == "uint16":
        raise ConfigError(
            file=str(path),
            field="source.dtype",
            problem=f"holds {found.dtype}, which are no activations as they stand",
            expected="the type whose bits they are",
            hint="if they are the bits of bfloat16, say so: --source-dtype bfloat16",
        )
    if settings.dtype not in {None, found.dtype}:
        raise ConfigError(
            file=str(path),
            field="source.dtype",
            problem=f"holds {found.dtype}, not {settings.dtype}",
            expected="the type that its header says",
            hint="leave --source-dtype out; --dtype says how to store them",
        )
    return found
