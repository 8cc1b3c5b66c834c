"""The pairing of two sets that makes the sum of a score largest, each used at most once.

Shortest augmenting paths with potentials, one row after the other: rows squared times columns
steps. All pairs are known, so the answer is exact; ties may be paired either way.

Source: Kuhn 1955; in the form of Jonker and Volgenant 1987 (Computing 38, 325-340).
"""

import numpy as np
from jaxtyping import Float64, Int64

from saestore.compiled import compiled


def best_pairs(
    score: Float64[np.ndarray, "feature _"],
) -> tuple[Int64[np.ndarray, " pair"], Int64[np.ndarray, " pair"]]:
    """Return the rows, ascending, and columns of min(rows, columns) pairs with the largest sum."""
    if score.shape[0] > score.shape[1]:
        columns, rows = best_pairs(score.T)
        order = np.argsort(rows)
        return rows[order], columns[order]
    rows = np.arange(len(score))
    return rows, _columns(np.ascontiguousarray(-score, dtype=np.float64))


@compiled
def _columns(  # noqa: C901 - compiled loops call no others
    cost: Float64[np.ndarray, "feature _"],
) -> Int64[np.ndarray, " feature"]:
    """Return the column of each row at the smallest total cost; there are no more rows than columns."""
    n, m = cost.shape
    row_price, column_price = np.zeros(n), np.zeros(m)
    row_of = np.full(m, -1)
    column_of = np.full(n, -1)
    for first in range(n):
        distance = np.full(m, np.inf)
        before = np.full(m, -1)  # the row from which a column is reached best
        done = np.zeros(m, np.bool_)
        row, reached = first, 0.0
        while True:
            nearest, least = -1, np.inf
            for column in range(m):
                if done[column]:
                    continue
                through = reached + cost[row, column] - row_price[row] - column_price[column]
                if through < distance[column]:
                    distance[column] = through
                    before[column] = row
                if distance[column] < least:
                    nearest, least = column, distance[column]
            done[nearest] = True
            reached = least
            row = row_of[nearest]
            if row < 0:
                break
        row_price[first] += reached
        for column in range(m):
            if done[column]:
                change = reached - distance[column]
                if row_of[column] >= 0:
                    row_price[row_of[column]] += change
                column_price[column] -= change
        column = nearest
        while True:
            row = before[column]
            row_of[column] = row
            column_of[row], column = column, column_of[row]
            if row == first:
                break
    return column_of
