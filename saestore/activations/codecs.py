"""How a float32 activation becomes stored bits, and back.

float32 is stored as it is. float16 rounds to nearest even and refuses to overflow: residual streams
hold values of 27 000 and more, and an infinity would poison every mean. bfloat16 keeps float32's
range; Zarr has no such type, so its bits lie in uint16 with an attribute that says so.

int8 is standardised. With s the standard deviation of each dimension and, for each row, the scale
c = max |x / s| / 127, it stores q = round(x / s / c); what is read is q * c * s, all in float32. Half
the bytes of bfloat16 for an FVU of about 6e-4 on layer 10 of SmolLM2. A row's error follows its
largest value, in deviations: do not use it where a few dimensions reach far beyond their deviation in
rows that matter.
"""

from dataclasses import dataclass
from typing import cast

import numpy as np
from jaxtyping import Bool, Float32, Int8, Int64, Shaped

from saestore.activations import halves
from saestore.compiled import compiled
from saestore.errors import OverflowRowError
from saestore_schemas.activations import StoreDtype


STORED: dict[StoreDtype, str] = {
    "float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "int8": "|i1",
}  # fmt: skip
"""Type of the elements on disk."""

_AT_ONCE = 1 << 15
"""int8 values rounded at once: their intermediate results stay in cache."""
LARGEST_INT8 = 127
"""Stored values lie within it, on both sides of 0."""
BFLOAT16_NAN = 0x7FC0
"""The bits of a bfloat16 NaN."""
_BITS = {"float32": np.uint32, "float16": np.uint16, "bfloat16": np.uint16}
_EXPONENT = {
    "float32": np.uint32(0x7F800000), "float16": np.uint16(0x7C00), "bfloat16": np.uint16(0x7F80),
}  # fmt: skip
_LARGEST = {"float32": np.finfo(np.float32).max, "float16": 65504.0, "bfloat16": 3.3895e38}


def encode(
    values: Float32[np.ndarray, "row d"],
    dtype: StoreDtype,
    *,
    hookpoint: str,
    first_row: int,
    out: Shaped[np.ndarray, "row d"] | None = None,
) -> Shaped[np.ndarray, "row d"]:
    """Return the stored form of some rows, rounded to nearest even; for int8 see `quantise`.

    Args:
        values: Activations.
        dtype: How they are stored: one of the floating-point types.
        hookpoint: Where they come from, for the error.
        first_row: Row of the store that the first of them becomes, for the error.
        out: Where the stored form goes; absent, in new memory. float32 is returned as it is.

    Raises:
        OverflowRowError: A value is NaN, infinite, or too large for the type.
    """
    values = np.ascontiguousarray(values)
    if dtype == "float32":
        out = values
    elif out is None:
        out = np.empty(values.shape, STORED[dtype])
    if dtype == "float32":
        fine = _all_finite(values.reshape(-1).view(np.uint32))
    else:
        fine = halves.narrow(values, out, cast("halves.Half", dtype))
    if not fine:
        bits = out.view(_BITS[dtype])
        bad: Bool[np.ndarray, "row d"] = (bits & _EXPONENT[dtype]) == _EXPONENT[dtype]
        _refuse(values, bad, dtype, hookpoint=hookpoint, first_row=first_row)
    return out


def decode(
    stored: Shaped[np.ndarray, "row d"],
    dtype: StoreDtype,
    *,
    out: Float32[np.ndarray, "row d"] | None = None,
) -> Float32[np.ndarray, "row d"]:
    """Return activations as float32, exactly the values that were stored."""
    if out is None:
        out = np.empty(stored.shape, np.float32)
    if dtype == "float32":
        np.copyto(out, stored)
        return out
    halves.widen(np.ascontiguousarray(stored), out, cast("halves.Half", dtype))
    return out


@compiled
def _all_finite(bits: Shaped[np.ndarray, " _"]) -> bool:
    strange = np.uint32(0)
    for at in range(len(bits)):
        strange |= (bits[at] & np.uint32(0x7F800000)) + np.uint32(0x00800000)
    return bool(strange < np.uint32(0x80000000))


@dataclass(frozen=True)
class Quantised:
    """Rows in int8.

    Attributes:
        stored: Their stored form.
        scales: Scale of each row; 1 for a row of zeros.
        clipped: How many values of each row lay beyond 127 after rounding, and are stored as 127.
            As the scale comes from the row's largest value, that takes a row so small that its
            scale is no normal float32.
    """

    stored: Int8[np.ndarray, "row d"]
    scales: Float32[np.ndarray, " row"]
    clipped: Int64[np.ndarray, " row"]


def quantise(
    values: Float32[np.ndarray, "row d"],
    deviations: Float32[np.ndarray, " d"],
    *,
    hookpoint: str,
    first_row: int,
    out: Int8[np.ndarray, "row d"] | None = None,
) -> Quantised:
    """Return some rows in int8, rounded to nearest even.

    Args:
        values: Activations.
        deviations: Standard deviation of each dimension, above 0.
        hookpoint: Where they come from, for the error.
        first_row: Row of the store that the first of them becomes, for the error.
        out: Where the stored form goes; absent, in new memory.

    Raises:
        OverflowRowError: A value is NaN or infinite, or so many deviations that float32 cannot
            say how many, or so near float32's largest that rounding leads beyond it.
    """
    stored = np.empty(values.shape, np.int8) if out is None else out
    widest = deviations.max(initial=np.float32(0))
    scales = np.empty(len(values), np.float32)
    clipped = np.empty(len(values), np.int64)
    rows = max(_AT_ONCE // max(values.shape[1], 1), 1)
    for start in range(0, len(values), rows):
        here = slice(start, start + rows)
        with np.errstate(over="ignore", invalid="ignore"):
            wide = values[here] / deviations
        bad = ~np.isfinite(wide)
        if bad.any():
            _refuse(values[here], bad, "int8", hookpoint=hookpoint, first_row=first_row + start)
        scale = np.abs(wide).max(axis=1, initial=0.0) / np.float32(LARGEST_INT8)
        scale[scale == 0] = 1
        wide /= scale[:, None]
        np.rint(wide, out=wide)
        clipped[here] = np.count_nonzero(np.abs(wide) > LARGEST_INT8, axis=1)
        np.clip(wide, -LARGEST_INT8, LARGEST_INT8, out=wide)
        np.copyto(stored[here], wide, casting="unsafe")
        scales[here] = scale
        with np.errstate(over="ignore"):
            # Rounding keeps order: if this is finite, so is all that is read back.
            largest = scale.max(initial=np.float32(0)) * np.float32(LARGEST_INT8) * widest
        if not np.isfinite(largest):
            _refuse_infinite(
                values[here], stored[here], scale, deviations, hookpoint, first_row + start
            )
    return Quantised(stored, scales, clipped)


def dequantise(
    stored: Int8[np.ndarray, "row d"],
    scales: Float32[np.ndarray, " row"],
    deviations: Float32[np.ndarray, " d"],
    *,
    out: Float32[np.ndarray, "row d"] | None = None,
) -> Float32[np.ndarray, "row d"]:
    """Return what int8 rows stand for: stored * scale * deviation, in float32 and that order."""
    if out is None:
        out = np.empty(stored.shape, np.float32)
    rows = max(_AT_ONCE // max(stored.shape[1], 1), 1)
    for start in range(0, len(stored), rows):
        piece = out[start : start + rows]
        np.copyto(piece, stored[start : start + rows])
        piece *= scales[start : start + rows, None]
        piece *= deviations
    return out


def _refuse_infinite(
    values: Float32[np.ndarray, "row d"],
    stored: Int8[np.ndarray, "row d"],
    scales: Float32[np.ndarray, " row"],
    deviations: Float32[np.ndarray, " d"],
    hookpoint: str,
    first_row: int,
) -> None:
    """Check that some rows in int8 stand for finite values: rounding up may lead to infinity."""
    with np.errstate(over="ignore"):
        bad = ~np.isfinite(dequantise(stored, scales, deviations))
    if bad.any():
        _refuse(values, bad, "int8", hookpoint=hookpoint, first_row=first_row)


def refuse_strange(
    values: Float32[np.ndarray, "row d"], dtype: StoreDtype, *, hookpoint: str, first_row: int
) -> None:
    """Check that there is neither NaN nor infinity among some rows.

    Raises:
        OverflowRowError: There is.
    """
    strange = ~np.isfinite(values)
    if strange.any():
        _refuse(values, strange, dtype, hookpoint=hookpoint, first_row=first_row)


def _refuse(
    values: Float32[np.ndarray, "row d"],
    bad: Shaped[np.ndarray, "row d"],
    dtype: StoreDtype,
    *,
    hookpoint: str,
    first_row: int,
) -> None:
    row, column = (int(index) for index in np.argwhere(bad)[0])
    value = float(values[row, column])
    if np.isfinite(value) and dtype == "int8":
        message = (
            f"{int(bad.sum())} values of {hookpoint} do not fit int8: first {value:g} at row "
            f"{first_row + row}, dimension {column}; in standard deviations, or rounded to the "
            "steps of its row, it exceeds float32"
        )
        hint = 'store it with dtype = "bfloat16" or "float32"'
    elif np.isfinite(value):
        message = (
            f"{int(bad.sum())} values of {hookpoint} do not fit {dtype}: first {value:g} at row "
            f"{first_row + row}, dimension {column}; the largest is {_LARGEST[dtype]:g}"
        )
        hint = 'store it with dtype = "bfloat16" or "float32"'
    else:
        message = (
            f"the language model gave {value} at {hookpoint}, row {first_row + row}, "
            f"dimension {column}"
        )
        hint = 'compute in more precision: lm.dtype = "float32"'
    raise OverflowRowError(message, found=value, expected=f"finite values of {dtype}", hint=hint)
