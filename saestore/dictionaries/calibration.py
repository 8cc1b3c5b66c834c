"""The threshold at which k features fire on a row on average: exact, in two passes, in little memory.

On N rows let v_1 >= v_2 >= … be all positive gate scores, and K = ⌊k N⌋. Any θ with
v_(K+1) <= θ < v_K makes exactly K of them exceed it. Positive float32 numbers order as their bits do:
a histogram over the upper half of the bits finds the bins of v_K and v_(K+1), one over the lower half
within these bins finds the values. θ is their midpoint. Fewer than K positive scores: θ = 0, and L0
falls short. Equal scores around K cannot be cut apart: the nearer count is taken.

The running mean that BatchTopK keeps in training estimates the smallest score of a batch, an extreme
value, and lags behind; it is kept beside for comparison.

Source: the exact quantile is ours; the threshold at inference, Bussmann et al. 2024 (arXiv:2412.06410).
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int32, Int64, UInt32
from torch import Tensor

from saestore.compiled import compiled
from saestore.dictionaries.activation_functions.batchtopk import in_all


HALF_BITS = 16
HALF = 1 << HALF_BITS
"""Bins of one histogram: half of a float32's bits."""


@dataclass(frozen=True)
class Calibrated:
    """A threshold and what it does.

    Attributes:
        threshold: What gate scores must exceed.
        rows: Rows it was found on.
        l0: Features that fire on one of them on average.
        wanted: The k that was asked for.
    """

    threshold: float
    rows: int
    l0: float
    wanted: float


class Calibration:
    """Finds a threshold in `PASSES` passes over the same gate scores, in any order.

    >>> import torch
    >>> calibration = Calibration(1.5)
    >>> for _ in range(Calibration.PASSES):
    ...     calibration.add(torch.tensor([[1.0, -2, 3, -4], [-5, 6, -7, 8]]))
    ...     calibration.end_pass()
    >>> calibration.found()
    Calibrated(threshold=2.0, rows=2, l0=1.5, wanted=1.5)
    """

    PASSES = 2

    def __init__(self, k: float) -> None:
        self.k = k
        self.rows = 0
        self._upper: Int64[np.ndarray, " bin"] = np.zeros(HALF, dtype=np.int64)
        self._lower: dict[int, Int64[np.ndarray, " bin"]] = {}
        self._passes = 0

    @property
    def wanted(self) -> int:
        """Scores that should exceed the threshold."""
        return in_all(self.k, self.rows)

    def add(self, scores: Float[Tensor, "row d_sae"]) -> None:
        """Count gate scores of some rows; as float32."""
        bits = scores.detach().to(torch.float32).contiguous().view(torch.int32).view(-1)
        if self._passes == 0:
            self.rows += len(scores)
            self._upper += counted(bits)
        elif self._passes == 1:
            for upper in self._lower:
                self._lower[upper] += counted(bits, upper)

    def end_pass(self) -> None:
        """Say that all rows were added once."""
        self._passes += 1
        if self._passes == 1:
            total, wanted = int(self._upper.sum()), self.wanted
            for rank in {wanted, wanted + 1}:
                if 1 <= rank <= total:
                    found, _ = _at_rank(self._upper, rank)
                    self._lower[found] = np.zeros(HALF, dtype=np.int64)

    def found(self) -> Calibrated:
        """Return the threshold.

        Raises:
            RuntimeError: Fewer passes were made than it takes.
        """
        if self._passes < self.PASSES:
            msg = f"{self._passes} of {self.PASSES} passes over the scores were made"
            raise RuntimeError(msg)
        total, wanted = int(self._upper.sum()), self.wanted
        threshold, fired = 0.0, total
        if wanted == 0 and total:
            threshold, fired = self._value(1), 0
        elif wanted < total or (wanted == total and total):
            threshold, fired = self._between(wanted, total)
        return Calibrated(threshold, self.rows, fired / max(self.rows, 1), self.k)

    def _between(self, wanted: int, total: int) -> tuple[float, int]:
        """Return a threshold under the score of a rank and not under the next, and what exceeds it."""
        last = self._value(wanted)
        following = self._value(wanted + 1) if wanted < total else 0.0
        if last == following:
            return self._beside(last, wanted)
        middle = float(np.float32((last + following) / 2))
        # Of neighbouring numbers the midpoint may be rounded up to the greater one.
        return (middle if middle < last else following), wanted

    def _beside(self, tied: float, wanted: int) -> tuple[float, int]:
        """Return the threshold at equal scores whose count comes nearer to what is wanted."""
        bits = int(np.float32(tied).view(np.uint32))
        upper, lower = bits >> 16, bits & (HALF - 1)
        above = int(self._upper[upper + 1 :].sum() + self._lower[upper][lower + 1 :].sum())
        with_ties = above + int(self._lower[upper][lower])
        if wanted - above <= with_ties - wanted:
            return tied, above
        return float(np.nextafter(np.float32(tied), np.float32(0))), with_ties

    def _value(self, rank: int) -> float:
        """Return the score of a rank, the largest being 1."""
        upper, before = _at_rank(self._upper, rank)
        lower, _ = _at_rank(self._lower[upper], rank - before)
        return float(np.uint32(upper << 16 | lower).view(np.float32))


def _at_rank(counts: Int64[np.ndarray, " bin"], rank: int) -> tuple[int, int]:
    """Return the bin that holds a rank, counted from the last bin, and how many are in later ones."""
    later = np.cumsum(counts[::-1])
    place = int(np.searchsorted(later, rank))
    return len(counts) - 1 - place, int(later[place] - counts[::-1][place])


def counted(bits: Int32[Tensor, " _"], upper: int | None = None) -> Int64[np.ndarray, " bin"]:
    """Return how often each half occurs among numbers, counted where they are.

    Args:
        bits: The numbers, as they lie in memory.
        upper: None, for upper halves of positive numbers; else for lower halves of those with this
            upper half.
    """
    if bits.device.type != "cpu":
        return by_torch(bits, upper)
    counts, numbers = np.zeros(HALF, dtype=np.int64), bits.numpy().view(np.uint32)
    if upper is None:
        _count_upper(numbers, counts)
    else:
        _count_lower(numbers, upper, counts)
    return counts


def by_torch(bits: Int32[Tensor, " _"], upper: int | None) -> Int64[np.ndarray, " bin"]:
    """Return the same on any device."""
    if upper is None:
        halves = bits[bits > 0] >> HALF_BITS
    else:
        halves = bits[bits >> HALF_BITS == upper] & (HALF - 1)
    return torch.bincount(halves, minlength=HALF).cpu().numpy()


@compiled
def _count_upper(bits: UInt32[np.ndarray, " _"], counts: Int64[np.ndarray, " bin"]) -> None:
    for i in range(len(bits)):
        each = bits[i]
        if 0 < each < 0x80000000:  # noqa: PLR2004 - the sign bit: positive numbers only
            counts[each >> 16] += 1


@compiled
def _count_lower(
    bits: UInt32[np.ndarray, " _"], upper: int, counts: Int64[np.ndarray, " bin"]
) -> None:
    for i in range(len(bits)):
        each = bits[i]
        if each >> 16 == upper:
            counts[each & 0xFFFF] += 1
