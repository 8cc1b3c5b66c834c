"""The work on pairs on the CPU: torch, but selection by compiled loops."""

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor
from typing_extensions import override

from saestore.dictionaries import selection_loops
from saestore.dictionaries.backends.torch_backend import ByFeature, Chosen, Torch


PRODUCT_ROWS = 1024
"""MKL packs the encoder anew for each product: with 512 rows that is 15 % of a product's time."""

RANKED_ROWS = 128
"""Of so many rows, gate scores of 8192 features stay in the second cache, and two threads have work."""

GRADIENT_BYTES = 2 << 20
"""Of a gradient that is added to another: what the second cache holds."""

_INT32 = 2**31 - 1


class Loops(Torch):
    """Selection by compiled loops, where they know the type; rows in blocks that no thread decides."""

    name = "loops"
    product_rows = PRODUCT_ROWS
    ranked_rows = RANKED_ROWS
    gradient_bytes = GRADIENT_BYTES

    @override
    def largest(self, scores: Float[Tensor, "row d_sae"], k: int) -> Chosen:
        """Return at most k pairs of each row: its largest scores, positive ones only."""
        if _known(scores):
            return selection_loops.largest(scores, k)
        return super().largest(scores, k)

    @override
    def largest_in_all(self, scores: Float[Tensor, "row d_sae"], count: int) -> Chosen:
        """Return at most `count` pairs: the largest scores of all rows, positive ones only."""
        if _known(scores):
            return selection_loops.largest_in_all(scores, count)
        return super().largest_in_all(scores, count)

    @override
    def above(
        self, scores: Float[Tensor, "row d_sae"], limits: Float[Tensor, " d_sae"], *, most: int
    ) -> Chosen | None:
        """Return the pairs whose score exceeds their feature's limit; None when they are too many."""
        if _known(scores):
            return selection_loops.above(scores, limits, most=most)
        return super().above(scores, limits, most=most)

    @override
    def firings(self, activations: Float[Tensor, "row d_sae"]) -> Int64[Tensor, " d_sae"]:
        """Return on how many rows each feature is not zero."""
        if _known(activations):
            return selection_loops.firings(activations)
        return super().firings(activations)

    @override
    def by_feature(
        self, indices: Int64[Tensor, " firing"], offsets: Int64[Tensor, " _"], d_sae: int
    ) -> ByFeature:
        """Return pairs by feature, then row, in 32 bits: there are as many as all codes have."""
        if len(indices) > _INT32:
            return super().by_feature(indices, offsets, d_sae)
        return selection_loops.by_feature(indices, offsets, d_sae)

    @override
    def sums(
        self, values: Float[Tensor, " firing"], offsets: Int[Tensor, " _"]
    ) -> Float[Tensor, " _"]:
        """Return the sum of each stretch of values, in order."""
        return (
            selection_loops.sums(values, offsets)
            if _known(values)
            else super().sums(values, offsets)
        )


def _known(scores: Tensor) -> bool:
    return scores.dtype in {torch.float32, torch.float64}
