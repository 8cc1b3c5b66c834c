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
    for firing in range(first, stop):
        vector = vectors[feature[firing]]
        for target in range(len(targets)):
            given = targets[target, row[firing]]
            # Four sums, which do not wait for each other.
            a, b, c, d = 0.0, 0.0, 0.0, 0.0
            for at in range(0, width - 3, 4):
                a += np.float64(vector[at]) * np.float64(given[at])
                b += np.float64(vector[at + 1]) * np.float64(given[at + 1])
                c += np.float64(vector[at + 2]) * np.float64(given[at + 2])
                d += np.float64(vector[at + 3]) * np.float64(given[at + 3])
            for at in range(width - width % 4, width):
                a += np.float64(vector[at]) * np.float64(given[at])
            found[target, firing] = (a + b) + (c + d)
