"""Which pairs of row and feature a code keeps, and how they are put in order.

    largest          the k largest positive scores of each row
    largest_in_all   the n largest positive scores of all rows together
    above            what exceeds a threshold of its feature
    by_feature       pairs by row, then feature, brought into order by feature, then row

Pairs come sorted by row, then feature. Equal scores go to the lowest row, then the lowest feature, so
that a code never depends on how a sort was done. NaN is never chosen.

On the CPU these are compiled loops (`selection_loops`); what stands here runs everywhere, and is what
they are tested against.
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import pad

from saestore.dictionaries import selection_loops


Chosen = tuple[Int64[Tensor, " _"], Int64[Tensor, " firing"]]
"""Where each row's pairs start, one more than there are rows; and the pairs' features."""


def largest(scores: Float[Tensor, "row d_sae"], k: int) -> Chosen:
    """Return at most k pairs of each row: its largest scores, positive ones only."""
    if selection_loops.usable(scores) and k <= selection_loops.LARGEST_K:
        return selection_loops.largest(scores, k)
    if k == scores.shape[1]:
        return of_mask(scores > 0)
    # One more than asked for: only rows whose k-th and next score are equal have a choice.
    top = torch.topk(scores, k + 1, dim=1)
    indices, values = top.indices[:, :k], top.values[:, :k]
    tied = (top.values[:, k] == values[:, k - 1]) & (values[:, k - 1] > 0)
    if tied.any():
        indices, values = indices.clone(), values.clone()
        indices[tied], values[tied] = exactly_largest(scores[tied], k)
    indices, order = indices.sort(dim=1)
    positive = values.gather(1, order) > 0
    return _starts(positive.sum(dim=1)), indices[positive]


def exactly_largest(
    scores: Float[Tensor, "row d_sae"], k: int
) -> tuple[Int64[Tensor, "row k"], Float[Tensor, "row k"]]:
    """Return the k largest scores of each row by a full stable sort: the definition, and slow."""
    values, indices = torch.sort(scores, dim=1, descending=True, stable=True)
    return indices[:, :k].contiguous(), values[:, :k]


def largest_in_all(scores: Float[Tensor, "row d_sae"], count: int) -> Chosen:
    """Return at most `count` pairs: the largest scores of all rows, positive ones only."""
    if selection_loops.usable(scores):
        return selection_loops.largest_in_all(scores, count)
    flat = scores.reshape(-1)
    if count >= flat.numel():
        return of_mask(scores > 0)
    if count == 0:
        return of_mask(torch.zeros_like(scores, dtype=torch.bool))
    limit = torch.topk(flat, count, sorted=False).values.min()
    if limit <= 0:
        return of_mask(scores > 0)
    kept = scores > limit
    tied = (scores == limit).reshape(-1).nonzero()[:, 0]
    kept.view(-1)[tied[: count - int(kept.sum())]] = True
    return of_mask(kept)


def above(
    scores: Float[Tensor, "row d_sae"], limits: Float[Tensor, " d_sae"], *, most: int
) -> Chosen | None:
    """Return the pairs whose score exceeds their feature's limit; None when they are more than `most`."""
    if selection_loops.usable(scores):
        return selection_loops.above(scores, limits, most=most)
    mask = scores > limits
    return of_mask(mask) if int(mask.sum()) <= most else None


def of_mask(mask: Bool[Tensor, "row d_sae"]) -> Chosen:
    """Return the pairs where a mask is true."""
    rows, indices = mask.nonzero(as_tuple=True)
    return _starts(torch.bincount(rows, minlength=len(mask))), indices


def of_indices(indices: Int64[Tensor, "row k"]) -> Chosen:
    """Return the pairs of k distinct features a row."""
    rows, k = indices.shape
    offsets = torch.arange(0, rows * k + 1, k, device=indices.device)
    return offsets, indices.sort(dim=1).values.reshape(-1)


def by_feature(
    indices: Int64[Tensor, " firing"], rows: Int64[Tensor, " firing"], d_sae: int
) -> tuple[Int64[Tensor, " firing"], Int64[Tensor, " firing"], Int64[Tensor, " _"]]:
    """Return pairs in order of feature, then row.

    Args:
        indices: Features, in order of row.
        rows: Their rows.
        d_sae: Features of the dictionary.

    Returns:
        Places of the pairs, their rows, and where each feature's pairs start.
    """
    if indices.device.type == "cpu":
        return selection_loops.by_feature(indices, rows, d_sae)
    order = torch.sort(indices, stable=True).indices
    return order, rows[order], _starts(torch.bincount(indices, minlength=d_sae))


def _starts(counts: Int64[Tensor, " _"]) -> Int64[Tensor, " _"]:
    return pad(counts.cumsum(0), (1, 0))
