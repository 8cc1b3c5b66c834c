"""A firing's stored value: rounded once, before anything is counted."""

from typing import Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from saestore.errors import OverflowRowError


LARGEST = 65504.0
"""Largest finite float16."""
SMALLEST = 2.0**-24
"""Smallest positive float16."""

ARROW: dict[str, pa.DataType] = {"float32": pa.float32(), "float16": pa.float16()}
"""Arrow type of each `value_dtype`."""


def stored(
    values: Float32[np.ndarray, " firing"], dtype: Literal["float32", "float16"]
) -> Float32[np.ndarray, " firing"]:
    """Return values, none of them zero, as they will be read back.

    float16 rounds to nearest, relative error at most 2^-11 in the normal range; what would become
    zero becomes 2^-24 with its sign, so that no firing is lost.

    Raises:
        OverflowRowError: A value is NaN or infinite, or above 65504 in float16.
    """
    if not np.isfinite(values).all():
        raise OverflowRowError(
            "a feature's value is NaN or infinite",
            found="a value that is not finite",
            expected="finite values",
            hint="verify the activation store and the dictionary: `saestore verify NAME`",
        )
    if dtype == "float32":
        return values
    largest = float(np.abs(values).max(initial=0))
    if largest > LARGEST:
        raise OverflowRowError(
            f"a feature's value is {largest:g}; float16 ends at {LARGEST:g}",
            found=largest,
            expected=f"at most {LARGEST:g}",
            hint='set value_dtype = "float32"',
        )
    rounded = values.astype(np.float16).astype(np.float32)
    return np.where(rounded == 0, np.copysign(np.float32(SMALLEST), values), rounded)
