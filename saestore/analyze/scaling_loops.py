"""Inner products of the decoder vector of each firing with rows, as a compiled loop on the CPU.

Gathering vectors and rows first writes and reads both once more: some hundred kilobytes for a firing
row. Here they are multiplied where they lie, in float64, each product in one order whatever the threads.
"""

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from saestore.compiled import compiled
from saestore.dictionaries.selection_loops import on_threads


_AT_ONCE = 1 << 22
"""Numbers gathered at once where there is no loop: 32 MiB in float64."""
_SUMS = 32
"""Sums of one product, which do not wait for each other: four of a vector's eight."""


def products(
    vectors: Float[Tensor, "feature d"],
    targets: Float[Tensor, "_ row d"],
    feature: Int64[Tensor, " firing"],
    row: Int64[Tensor, " firing"],
) -> Float64[Tensor, "_ firing"]:
    """Return the product of each firing's vector with its row of every target.

    Args:
        vectors: One of each feature.
        targets: Rows, of the type of the vectors.
        feature: Feature of each firing.
        row: Its row.
    """
    found = torch.zeros(len(targets), len(row), dtype=torch.float64, device=vectors.device)
    if vectors.is_cuda:
        gather(vectors, targets, feature, row, found)
    else:
        arrays = (vectors.contiguous(), targets.contiguous(), feature, row, found)
        on_threads(_multiply, len(row), *(each.numpy() for each in arrays))
    return found


def gather(
    vectors: Float[Tensor, "feature d"],
    targets: Float[Tensor, "_ row d"],
    feature: Int64[Tensor, " firing"],
    row: Int64[Tensor, " firing"],
    found: Float64[Tensor, "_ firing"],
) -> None:
    """Write the products into memory, by tensor operations."""
    step = max(_AT_ONCE // vectors.shape[1], 1)
    for start in range(0, len(row), step):
        part = slice(start, start + step)
        taken = vectors[feature[part]].double()
        for target, out in zip(targets, found, strict=True):
            out[part] = torch.linalg.vecdot(taken, target[row[part]].double())


@compiled
def _multiply(  # noqa: PLR0917 - arrays of one loop
    first: int,
    stop: int,
    vectors: Float[np.ndarray, "feature d"],
    targets: Float[np.ndarray, "_ row d"],
    feature: Int64[np.ndarray, " firing"],
    row: Int64[np.ndarray, " firing"],
    found: Float64[np.ndarray, "_ firing"],
) -> None:
    width = vectors.shape[1]
    whole = width - width % _SUMS
    sums = np.zeros(_SUMS)
    for firing in range(first, stop):
        vector = vectors[feature[firing]]
        for target in range(len(targets)):
            given = targets[target, row[firing]]
            sums[:] = 0
            for at in range(0, whole, _SUMS):
                for which in range(_SUMS):
                    sums[which] += np.float64(vector[at + which]) * np.float64(given[at + which])
            total = 0.0
            for which in range(_SUMS):
                total += sums[which]
            for at in range(whole, width):
                total += np.float64(vector[at]) * np.float64(given[at])
            found[target, firing] = total
