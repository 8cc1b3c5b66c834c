"""The complete firings of consecutive features, sorted: what a collector is given.

Most activation functions fire above zero. Of those that keep signs everything that is ranked or put into
bins is the strength of a firing, its distance from zero; sums and products are of the values.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float32, Int64, UInt16, UInt32

from saestore.analyze import segments
from saestore.analyze.segment_loops import parted


@dataclass(frozen=True)
class Peaks:
    """The contexts where each feature fires, with its largest value there.

    Attributes:
        offsets: Where each feature's pairs end, from 0.
        context: Ascending inside each feature.
        start: First firing of the pair.
        stop: One past its last firing.
        strength: Largest strength in the context.
        position: First position with it.
    """

    offsets: Int64[np.ndarray, " _"]
    context: UInt32[np.ndarray, " pair"]
    start: Int64[np.ndarray, " pair"]
    stop: Int64[np.ndarray, " pair"]
    strength: Float32[np.ndarray, " pair"]
    position: UInt16[np.ndarray, " pair"]


@dataclass(frozen=True)
class FeatureBlock:
    """Every firing of features `first` to `first + n - 1`, by (feature, context, position).

    Attributes:
        first: First feature.
        offsets: n + 1 ends of the features' runs, from 0.
        context: Context of each firing.
        position: Its position.
        value: Its stored value, as float32 whatever the stored type.
    """

    first: int
    offsets: Int64[np.ndarray, " _"]
    context: UInt32[np.ndarray, " firing"]
    position: UInt16[np.ndarray, " firing"]
    value: Float32[np.ndarray, " firing"]

    @property
    def n(self) -> int:
        """How many features."""
        return len(self.offsets) - 1

    @cached_property
    def features(self) -> UInt32[np.ndarray, " feature"]:
        """The features' numbers."""
        return np.arange(self.first, self.first + self.n, dtype=np.uint32)

    @cached_property
    def counts(self) -> Int64[np.ndarray, " feature"]:
        """Firings of each feature."""
        return np.diff(self.offsets)

    @cached_property
    def strength(self) -> Float32[np.ndarray, " firing"]:
        """How far each value is from zero."""
        signed = self.value.min(initial=0) < 0
        return np.abs(self.value) if signed else self.value

    @cached_property
    def maxima(self) -> Float32[np.ndarray, " feature"]:
        """Largest strength of each feature; 0 if it never fires."""
        return segments.maxima(self.strength, self.offsets)

    @cached_property
    def peaks(self) -> Peaks:
        """The contexts where each feature fires."""
        offsets, parts = parted(self.context, self.position, self.strength, self.offsets)
        context, start, stop, strength, position = parts
        return Peaks(offsets, context, start, stop, strength, position)

    def select(self, first: int, n: int) -> "FeatureBlock":
        """Return the block of `n` of its features, starting at feature `first`."""
        low = first - self.first
        a, b = int(self.offsets[low]), int(self.offsets[low + n])
        return FeatureBlock(
            first=first,
            offsets=self.offsets[low : low + n + 1] - a,
            context=self.context[a:b],
            position=self.position[a:b],
            value=self.value[a:b],
        )
