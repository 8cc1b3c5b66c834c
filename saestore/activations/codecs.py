"""How a float32 activation becomes stored bits, and back.

float32 is stored as it is. float16 rounds to nearest even and refuses to overflow: residual streams
hold values of 27 000 and more, and an infinity would poison every mean. bfloat16 keeps float32's
range; Zarr has no such type, so its bits lie in uint16 with an attribute that says so.
"""

import numpy as np
from jaxtyping import Bool, Float32, Shaped

from saestore.errors import OverflowRowError
from saestore_schemas.activations import StoreDtype


STORED: dict[StoreDtype, str] = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}
"""Type of the elements on disk."""

_AT_ONCE = 1 << 17
"""Values rounded at once: their intermediate results stay in cache."""
BFLOAT16_NAN = 0x7FC0
"""The bits of a bfloat16 NaN."""
_LARGEST = {"float32": np.finfo(np.float32).max, "float16": 65504.0, "bfloat16": 3.3895e38}


def encode(
    values: Float32[np.ndarray, "row d"], dtype: StoreDtype, *, hookpoint: str, first_row: int
) -> Shaped[np.ndarray, "row d"]:
    """Return the stored form of some rows, rounded to nearest even.

    Args:
        values: Activations.
        dtype: How they are stored.
        hookpoint: Where they come from, for the error.
        first_row: Row of the store that the first of them becomes, for the error.

    Raises:
        OverflowRowError: A value is NaN, infinite, or too large for the type.
    """
    stored = values if dtype == "float32" else np.empty(values.shape, STORED[dtype])
    rows = max(_AT_ONCE // max(values.shape[1], 1), 1)
    for start in range(0, len(values), rows):
        piece = values[start : start + rows]
        bad = _round(piece, stored[start : start + rows], dtype)
        if bad.any():
            _refuse(piece, bad, dtype, hookpoint=hookpoint, first_row=first_row + start)
    return stored


def _round(
    values: Float32[np.ndarray, "row d"], out: Shaped[np.ndarray, "row d"], dtype: StoreDtype
) -> Bool[np.ndarray, "row d"]:
    """Write the stored form into `out`; return which values have none."""
    if dtype == "bfloat16":
        bits = np.ascontiguousarray(values).view(np.uint32)
        rounded = (bits >> 16) & 1
        rounded += 0x7FFF
        rounded += bits
        rounded >>= 16
        np.copyto(out, rounded, casting="unsafe")
        # All exponent bits set is infinity or NaN; rounding can lead there, and a NaN out of it.
        fits: Bool[np.ndarray, "row d"] = ((rounded & 0x7F80) != 0x7F80) & np.isfinite(values)  # noqa: PLR2004 - as said
        return ~fits
    if dtype == "float16":
        with np.errstate(over="ignore"):
            np.copyto(out, values, casting="same_kind")
    finite: Bool[np.ndarray, "row d"] = np.isfinite(out)
    return ~finite


def decode(
    stored: Shaped[np.ndarray, "row d"],
    dtype: StoreDtype,
    *,
    out: Float32[np.ndarray, "row d"] | None = None,
) -> Float32[np.ndarray, "row d"]:
    """Return activations as float32, exactly the values that were stored."""
    if out is None:
        out = np.empty(stored.shape, np.float32)
    if dtype == "bfloat16":
        bits = out.view(np.uint32)
        np.copyto(bits, stored)
        np.left_shift(bits, 16, out=bits)
    else:
        np.copyto(out, stored)
    return out


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
    if np.isfinite(value):
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
