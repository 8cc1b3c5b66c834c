"""Tensors in other tools' files, read a range of their first axis at a time.

Nothing is mapped and nothing is loaded whole: a range of a row-major tensor is one stretch of its
file. A file's size is compared with what its header promises, because a writer that was killed
leaves a whole header and half the numbers.

Source: the safetensors format (8 bytes length, JSON header, numbers) and NumPy's `.npy` format.
"""

import ast
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Shaped

from saestore.errors import ConfigError


BFLOAT16 = "bfloat16"
"""The one type numpy has not: its bits are uint16."""

_SAFETENSORS = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": BFLOAT16,
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
"""Type names of safetensors; what is not here (float8, say) has no numpy form."""
_LONGEST_HEADER = 100_000_000
"""Bytes; safetensors' own limit."""
_NPY_MAGIC = b"\x93NUMPY"
_TWO_BYTES = np.dtype("V2")
_EXPONENTS = {
    "float64": 0x7FF0000000000000, "float32": 0x7F800000, "float16": 0x7C00, BFLOAT16: 0x7F80,
}  # fmt: skip
"""Bits of the exponent."""
_AT_ONCE = 1 << 15


@runtime_checkable
class Tensor(Protocol):
    """A tensor that is read in ranges.

    Attributes:
        shape: Lengths of its axes.
        dtype: Type of its numbers, `bfloat16` among them.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of its axes."""
        ...

    @property
    def dtype(self) -> str:
        """Type of its numbers."""
        ...

    def read(self, start: int, stop: int) -> Shaped[np.ndarray, "..."]:
        """Return a range of the first axis; bfloat16 as uint16."""
        ...

    def merged(self, axes: int) -> "Tensor":
        """Return the tensor with its first axes as one."""
        ...


@dataclass(frozen=True)
class InFile:
    """A row-major tensor at a place in a file.

    Attributes:
        path: The file.
        offset: Where its numbers begin.
        shape: Lengths of its axes.
        dtype: Type of its numbers.
        order: Byte order of the file, `<` or `>`.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: str
    order: Literal["<", ">"] = "<"

    @property
    def stored(self) -> np.dtype[np.generic]:
        """Type of the elements in the file."""
        return np.dtype("uint16" if self.dtype == BFLOAT16 else self.dtype).newbyteorder(self.order)

    def read(self, start: int, stop: int) -> Shaped[np.ndarray, "..."]:
        """Return a range of the first axis; bfloat16 as uint16.

        Raises:
            ConfigError: The file ends before it.
        """
        width = math.prod(self.shape[1:])
        values = np.empty((stop - start, *self.shape[1:]), self.stored)
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.offset + start * width * self.stored.itemsize)
            room = values.reshape(-1).view(np.uint8).data
            got = 1
            while room and got:
                got = file.readinto(room) or 0
                room = room[got:]
        if room:
            raise torn(self.path, f"ends {len(room)} bytes before row {stop} does")
        return values.astype(self.stored.newbyteorder("="), copy=False)

    def merged(self, axes: int) -> "InFile":
        """Return the tensor with its first axes as one."""
        return replace(self, shape=(math.prod(self.shape[:axes]), *self.shape[axes:]))


def torn(path: Path, problem: str, *, field: str = "source.path") -> ConfigError:
    """Return the error of a file that is not whole."""
    return ConfigError(
        file=str(path),
        field=field,
        problem=f"is not whole: it {problem}",
        expected="the size that its header promises",
        hint="a writer that is stopped leaves such a file: write it again, or leave it out",
    )


def safetensors(path: Path) -> dict[str, InFile]:
    """Return the tensors of a safetensors file by name; its numbers are not read.

    Raises:
        ConfigError: It is not such a file, or not whole.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= _LONGEST_HEADER:  # noqa: PLR2004 - bytes of the length, of `{}`
            raise _not_one(path, "safetensors", "its first 8 bytes are no header length")
        if size < 8 + length:
            raise torn(path, f"has {size} bytes, and its header alone {8 + length}")
        try:
            header = json.loads(file.read(length))
            entries = {k: v for k, v in header.items() if k != "__metadata__"}
            ends = [int(entry["data_offsets"][1]) for entry in entries.values()]
            found = {name: _tensor(path, 8 + length, entry) for name, entry in entries.items()}
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise _not_one(path, "safetensors", f"its header cannot be read ({error})") from error
    whole = 8 + length + max(ends, default=0)
    if size != whole:
        raise torn(path, f"has {size} bytes, and its header promises {whole}")
    return found


def _tensor(path: Path, base: int, entry: Mapping[str, object]) -> InFile:
    offsets, shape, code = entry["data_offsets"], entry["shape"], entry["dtype"]
    if not isinstance(offsets, list) or not isinstance(shape, list):
        raise TypeError("data_offsets and shape are no lists")
    dtype = _SAFETENSORS.get(str(code), str(code))
    return InFile(path, base + int(offsets[0]), tuple(int(n) for n in shape), dtype)


def npy(path: Path) -> InFile:
    """Return the array of a `.npy` file; its numbers are not read.

    Raises:
        ConfigError: It is not such a file, not whole, holds objects, or is in Fortran's order.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        if head[:6] != _NPY_MAGIC:
            raise _not_one(path, "npy", "it does not begin with numpy's magic string")
        width = 2 if head[6] == 1 else 4
        length = int.from_bytes(file.read(width), "little")
        try:
            facts = ast.literal_eval(file.read(length).decode())
            kind, shape = np.dtype(facts["descr"]), tuple(int(n) for n in facts["shape"])
        except (ValueError, SyntaxError, KeyError, TypeError) as error:
            raise _not_one(path, "npy", f"its header cannot be read ({error})") from error
    if facts.get("fortran_order") and len(shape) > 1:
        raise ConfigError(
            file=str(path),
            field="source.path",
            problem="is in Fortran's order, in which a row lies scattered over the file",
            expected="C order",
            hint="save it again with np.save(path, np.ascontiguousarray(array))",
        )
    if kind == _TWO_BYTES:
        kind = np.dtype("<u2")  # what numpy makes of a bfloat16 array
    if kind.hasobject or kind.kind not in "fiub" or not shape:
        raise _not_one(path, "npy", f"it holds {kind} of shape {shape}")
    order: Literal["<", ">"] = ">" if kind.byteorder == ">" else "<"
    found = InFile(path, 8 + width + length, shape, kind.newbyteorder("=").name, order)
    whole = found.offset + math.prod(shape) * kind.itemsize
    if size != whole:
        raise torn(path, f"has {size} bytes, and its header promises {whole}")
    return found


def raw(path: Path, shape: tuple[int, ...], dtype: str) -> InFile:
    """Return the array of a file that holds nothing but numbers, as `numpy.memmap` writes it.

    Args:
        path: The file.
        shape: Its shape; one length may be -1.
        dtype: Type of the numbers.

    Raises:
        ConfigError: The file's size is not that of such an array.
    """
    size, item = path.stat().st_size, 2 if dtype == BFLOAT16 else np.dtype(dtype).itemsize
    known = math.prod(n for n in shape if n != -1) * item
    if shape.count(-1) == 1 and known > 0 and size % known == 0:
        shape = tuple(size // known if n == -1 else n for n in shape)
    if min(shape) < 0 or math.prod(shape) * item != size:
        raise ConfigError(
            file=str(path),
            field="source.shape",
            problem=f"{list(shape)} of {dtype} does not fill its {size} bytes",
            expected="a shape whose product times the size of a number is the file's size",
            hint="check shape and dtype; the first length may be -1",
        )
    return InFile(path, 0, shape, dtype)


def as_float32(values: Shaped[np.ndarray, "..."], dtype: str) -> Float32[np.ndarray, "..."]:
    """Return numbers of a file as float32; bfloat16's bits are reinterpreted, never cast."""
    if dtype == BFLOAT16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):  # what does not fit becomes infinite and is refused as such
        return values.astype(np.float32)


def all_finite(values: Shaped[np.ndarray, "..."], dtype: str) -> bool:
    """Return whether no number is infinite or NaN: whether none has all its exponent's bits set."""
    flat = np.ascontiguousarray(values).reshape(-1)
    kind = np.dtype(f"u{flat.itemsize}")
    exponent = kind.type(_EXPONENTS[dtype])
    bits = flat.view(kind)
    room = np.empty(min(len(bits), _AT_ONCE), kind)
    for start in range(0, len(bits), _AT_ONCE):  # in pieces that stay in cache
        piece = bits[start : start + _AT_ONCE]
        if np.bitwise_and(piece, exponent, out=room[: len(piece)]).max() == exponent:
            return False
    return True


def finite(values: Shaped[np.ndarray, "..."], dtype: str) -> Bool[np.ndarray, "..."]:
    """Return which numbers are neither infinite nor NaN."""
    if dtype == BFLOAT16:
        exponent = np.uint16(0x7F80)
        return np.asarray((values & exponent) != exponent)
    return np.asarray(np.isfinite(values))


def _not_one(path: Path, kind: str, problem: str) -> ConfigError:
    return ConfigError(
        file=str(path),
        field="source.path",
        problem=f"is no {kind} file: {problem}",
        expected=f"a {kind} file",
        hint="name the file or folder that the other tool wrote",
    )
