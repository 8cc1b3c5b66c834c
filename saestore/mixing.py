"""Hashes of numbers: the one source of randomness where a draw must be the same in any order.

Source: Steele, Lea and Flood 2014, Fast splittable pseudorandom number generators (the finaliser).
"""

import numpy as np
from jaxtyping import UInt64


MASK = (1 << 64) - 1
"""The bits of a hash."""


def splitmix64(x: UInt64[np.ndarray, " *row"]) -> UInt64[np.ndarray, " *row"]:
    """Return 64 well-mixed bits of each number."""
    z = x + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def mixed(*numbers: int) -> int:
    """Return 64 well-mixed bits of some numbers together, in their order."""
    found = 0
    for each in numbers:
        found = int(splitmix64(np.array([found ^ (each & MASK)], dtype=np.uint64))[0])
    return found
