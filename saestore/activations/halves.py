"""float32 to and from the two halves of its size, as fast as the machine can.

numpy converts float16 in software, at a few hundred MB/s, and knows no bfloat16. torch uses the
processor's instructions, twenty times faster, so it is taken where the program has loaded it already:
whoever computes or trains has. Both round to nearest even; neither is loaded for this.
"""

import sys
from types import ModuleType
from typing import Literal

import numpy as np
from jaxtyping import Float32, Shaped


Half = Literal["float16", "bfloat16"]
"""The types; bfloat16 is held as its bits in uint16."""


def _torch() -> ModuleType | None:
    return sys.modules.get("torch")


def narrow(
    values: Float32[np.ndarray, "row d"], out: Shaped[np.ndarray, "row d"], half: Half
) -> None:
    """Write values into `out`, rounded; what is too large becomes infinity."""
    torch = _torch()
    if torch is not None and values.flags.writeable:
        bits = torch.from_numpy(out)
        target = bits if half == "float16" else bits.view(torch.bfloat16)
        target.copy_(torch.from_numpy(values))
    elif half == "float16":
        with np.errstate(over="ignore"):
            np.copyto(out, values, casting="same_kind")
    else:
        wide = np.ascontiguousarray(values).view(np.uint32)
        rounded = (wide >> 16) & 1
        rounded += 0x7FFF
        rounded += wide
        rounded >>= 16
        # Rounding can lead a NaN to any number.
        np.copyto(rounded, 0x7FC0, where=(wide & 0x7FFFFFFF) > 0x7F800000)  # noqa: PLR2004 - infinity
        np.copyto(out, rounded, casting="unsafe")


def widen(
    stored: Shaped[np.ndarray, "row d"], out: Float32[np.ndarray, "row d"], half: Half
) -> None:
    """Write what is stored into `out`, exactly."""
    torch = _torch()
    if torch is not None and stored.flags.writeable:
        bits = torch.from_numpy(stored)
        torch.from_numpy(out).copy_(bits if half == "float16" else bits.view(torch.bfloat16))
    elif half == "bfloat16":
        wide = out.view(np.uint32)
        np.copyto(wide, stored)
        np.left_shift(wide, 16, out=wide)
    else:
        np.copyto(out, stored)
