"""Sums of float32 values and of their squares without rounding, so that no order and no split shows.

A float32 is a whole number of 2^-149, its square one of 2^-298. Both are added up as such, in limbs of 32
bits that int64 holds; carries are passed on after each batch. A sum is rounded once, when it is asked for.

The bound on a feature: 2^30 firings in one batch, 2^40 in all.

Source: the long accumulator of Kulisch, "Computer Arithmetic and Validity" (2008); Shewchuk's expansions
(1997) give the same numbers, in a memory that depends on the values.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

from saestore.compiled import compiled


_SUM, _SQUARE = 10, 19
"""Limbs: 277 and 554 bits of the largest value and its square, 40 bits of how many, a sign."""
_UNIT = 149
"""The last bit of a float32 is 2^-149."""


@dataclass(frozen=True)
class ExactSums:
    """What some features' values and their squares add up to.

    Attributes:
        sums: Limbs of the values' sum, lowest first.
        squares: Limbs of the squares' sum.
    """

    sums: Int64[np.ndarray, "feature 10"]
    squares: Int64[np.ndarray, "feature 19"]

    @classmethod
    def of(cls, features: int) -> "ExactSums":
        """Return those of nothing."""
        return cls(np.zeros((features, _SUM), np.int64), np.zeros((features, _SQUARE), np.int64))

    def add(
        self,
        values: Float32[np.ndarray, " firing"],
        offsets: Int64[np.ndarray, " _"],
        first: int = 0,
    ) -> None:
        """Add the values of consecutive features.

        Args:
            values: They, finite.
            offsets: Where each feature's end, from 0.
            first: The first feature.
        """
        stop = first + len(offsets) - 1
        bits = np.ascontiguousarray(values).view(np.uint32)
        _add_up(bits, offsets, self.sums[first:stop], self.squares[first:stop])

    def merge(self, other: "ExactSums") -> None:
        """Add what another has."""
        for own, more in ((self.sums, other.sums), (self.squares, other.squares)):
            np.add(own, more, out=own)
            _carry(own)

    def moments(
        self, counts: Int64[np.ndarray, " feature"]
    ) -> dict[str, Float64[np.ndarray, " feature"]]:
        """Return sums, mean and population standard deviation; 0 where nothing was added.

        Sums and the variance are rounded once, to nearest.

        Args:
            counts: How many values each feature has.
        """
        found = np.zeros((4, len(counts)))
        sums, squares = _whole(self.sums), _whole(self.squares)
        for feature in np.flatnonzero(counts).tolist():
            n, total, square = int(counts[feature]), _of(sums, feature), _of(squares, feature)
            spread = (n * square - total * total) / (n * n << 2 * _UNIT)
            exact = total / (1 << _UNIT)
            numbers = exact, square / (1 << 2 * _UNIT), exact / n, math.sqrt(spread)
            found[:, feature] = numbers
        return dict(zip(("sum", "sum_sq", "mean", "std"), found, strict=True))


def _whole(limbs: Int64[np.ndarray, "feature _"]) -> tuple[memoryview, int]:
    """Return limbs as bytes, and how many a feature has."""
    packed = (limbs & 0xFFFFFFFF).astype("<u4")
    return packed.data.cast("B"), 4 * limbs.shape[1]


def _of(whole: tuple[memoryview, int], feature: int) -> int:
    data, size = whole
    return int.from_bytes(data[feature * size : (feature + 1) * size], "little", signed=True)


@compiled
def _add_up(bits: np.ndarray, offsets: np.ndarray, sums: np.ndarray, squares: np.ndarray) -> None:
    low = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    for feature in range(len(offsets) - 1):
        if offsets[feature] == offsets[feature + 1]:
            continue
        own, square = sums[feature], squares[feature]
        for at in range(offsets[feature], offsets[feature + 1]):
            word = np.int64(bits[at])
            exponent = (word >> 23) & 255
            mantissa = np.uint64(word & 0x7FFFFF)
            if exponent > 0:
                mantissa |= np.uint64(1 << 23)
                exponent -= 1
            limb, shifted = exponent >> 5, mantissa << np.uint64(exponent & 31)
            if word >> 31:
                own[limb] -= np.int64(shifted & low)
                own[limb + 1] -= np.int64(shifted >> half)
            else:
                own[limb] += np.int64(shifted & low)
                own[limb + 1] += np.int64(shifted >> half)
            exponent *= 2
            limb, shift = exponent >> 5, np.uint64(exponent & 31)
            product = mantissa * mantissa
            under, over = (product & low) << shift, (product >> half) << shift
            square[limb] += np.int64(under & low)
            square[limb + 1] += np.int64(under >> half) + np.int64(over & low)
            square[limb + 2] += np.int64(over >> half)
    _carry(sums)
    _carry(squares)


@compiled
def _carry(limbs: np.ndarray) -> None:
    for feature in range(limbs.shape[0]):
        carried = np.int64(0)
        for limb in range(limbs.shape[1] - 1):
            there = limbs[feature, limb] + carried
            limbs[feature, limb] = there & 0xFFFFFFFF
            carried = there >> 32
        limbs[feature, limbs.shape[1] - 1] += carried
