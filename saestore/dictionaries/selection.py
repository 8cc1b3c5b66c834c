"""Which pairs of row and feature a code keeps, and how they are put in order.

    largest          the k largest positive scores of each row
    largest_in_all   the n largest positive scores of all rows together
    above            what exceeds a threshold of its feature
    firings          on how many rows each feature is not zero
    by_feature       pairs by row, then feature, brought into order by feature, then row

Pairs come sorted by row, then feature. Equal scores go to the lowest row, then the lowest feature, so
that a code never depends on how a sort was done, or where: every backend finds the same pairs. NaN is
never chosen.
"""

from jaxtyping import Float, Int64
from torch import Tensor

from saestore.dictionaries import backends
from saestore.dictionaries.backends import Chosen
from saestore.dictionaries.backends.torch_backend import (
    ByFeature,
    exactly_largest,
    of_mask,
    starts_of,
)


def largest(scores: Float[Tensor, "row d_sae"], k: int) -> Chosen:
    """Return at most k pairs of each row: its largest scores, positive ones only."""
    return backends.of(scores.device).largest(scores, k)


def largest_in_all(scores: Float[Tensor, "row d_sae"], count: int) -> Chosen:
    """Return at most `count` pairs: the largest scores of all rows, positive ones only."""
    return backends.of(scores.device).largest_in_all(scores, count)


def above(
    scores: Float[Tensor, "row d_sae"], limits: Float[Tensor, " d_sae"], *, most: int
) -> Chosen | None:
    """Return the pairs whose score exceeds their feature's limit; None when they are more than `most`."""
    return backends.of(scores.device).above(scores, limits, most=most)


def of_indices(indices: Int64[Tensor, "row k"]) -> Chosen:
    """Return the pairs of k distinct features a row."""
    rows, k = indices.shape
    counts = indices.new_full((rows,), k)
    return starts_of(counts), indices.sort(dim=1).values.reshape(-1)


def firings(activations: Float[Tensor, "row d_sae"]) -> Int64[Tensor, " d_sae"]:
    """Return on how many rows each feature is not zero."""
    return backends.of(activations.device).firings(activations)


def by_feature(
    indices: Int64[Tensor, " firing"], offsets: Int64[Tensor, " _"], d_sae: int
) -> ByFeature:
    """Return pairs in order of feature, then row.

    Args:
        indices: Features, in order of row.
        offsets: Where each row's start; one more than there are rows.
        d_sae: Features of the dictionary.

    Returns:
        Places of the pairs, their rows, and where each feature's pairs start.
    """
    return backends.of(indices.device).by_feature(indices, offsets, d_sae)


__all__ = [
    "Chosen",
    "above",
    "by_feature",
    "exactly_largest",
    "firings",
    "largest",
    "largest_in_all",
    "of_indices",
    "of_mask",
]
