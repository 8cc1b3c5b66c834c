"""float32 to and from the two halves of its size, as fast as memory.

numpy converts float16 in software, at a few hundred MB/s, and knows no bfloat16. Both round to
nearest even.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float32, Shaped, UInt16

from saestore.compiled import compiled, float16_bits, float32_of, knows_float16


Half = Literal["float16", "bfloat16"]
"""The types; bfloat16 is held as its bits in uint16."""


def narrow(
    values: Float32[np.ndarray, "row d"], out: Shaped[np.ndarray, "row d"], half: Half
) -> bool:
    """Write values into `out`, rounded; return whether all are finite afterwards.

    Args:
        values: Contiguous.
        out: Contiguous, of the same shape.
        half: Its type. What is too large for it becomes infinity.
    """
    flat, bits = _flat(values), _flat(out).view(np.uint16)
    if half == "bfloat16":
        return _to_bfloat16(flat.view(np.uint32), bits)
    if knows_float16():
        return _to_float16(flat, bits)
    with np.errstate(over="ignore"):
        np.copyto(out, values, casting="same_kind")
    return bool(np.isfinite(out).all())


def widen(
    stored: Shaped[np.ndarray, "row d"], out: Float32[np.ndarray, "row d"], half: Half
) -> None:
    """Write what is stored into `out`, exactly; both contiguous."""
    bits, flat = _flat(stored).view(np.uint16), _flat(out)
    if half == "bfloat16":
        _of_bfloat16(bits, flat.view(np.uint32))
    elif knows_float16():
        _of_float16(bits, flat)
    else:
        np.copyto(out, stored)


def _flat(rows: Shaped[np.ndarray, "row d"]) -> Shaped[np.ndarray, " _"]:
    if not rows.flags.c_contiguous:
        raise ValueError("rows must be contiguous")
    return rows.reshape(-1)


@compiled
def _to_float16(values: Float32[np.ndarray, " _"], out: UInt16[np.ndarray, " _"]) -> bool:
    strange = np.uint16(0)
    for at in range(len(values)):
        bits = float16_bits(values[at])
        out[at] = bits
        # All exponent bits set is infinity or NaN: one more carries into the sign's place.
        strange |= (bits & np.uint16(0x7C00)) + np.uint16(0x0400)
    return bool(strange < np.uint16(0x8000))


@compiled
def _of_float16(bits: UInt16[np.ndarray, " _"], out: Float32[np.ndarray, " _"]) -> None:
    for at in range(len(bits)):
        out[at] = float32_of(bits[at])


@compiled
def _to_bfloat16(values: Shaped[np.ndarray, " _"], out: UInt16[np.ndarray, " _"]) -> bool:
    strange = np.uint32(0)
    for at in range(len(values)):
        wide = values[at]
        half = wide >> np.uint32(16)
        bits = (wide + np.uint32(0x7FFF) + (half & np.uint32(1))) >> np.uint32(16)
        # Rounding can lead a NaN to any number.
        if (wide & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000):
            bits = np.uint32(0x7FC0)
        out[at] = np.uint16(bits)
        strange |= (bits & np.uint32(0x7F80)) + np.uint32(0x80)
    return bool(strange < np.uint32(0x8000))


@compiled
def _of_bfloat16(bits: UInt16[np.ndarray, " _"], out: Shaped[np.ndarray, " _"]) -> None:
    for at in range(len(bits)):
        out[at] = np.uint32(bits[at]) << np.uint32(16)
