"""Correlations of the features of one dictionary with those of another on the same rows.

    r = (sum a b - sum a sum b / N) / (sqrt(sum (a - mean)^2) sqrt(sum (b - mean)^2))

over all N rows, zeros included; phi is the same of whether they fire, from whole numbers. Products are
added up for one feature of the first dictionary at a time with all of the second, over the rows where both
fire, so memory is a line of the table of all pairs. The price is the pairs of firings on one row:
N L0_a L0_b, and d_sae_a d_sae_b for the comparison.

A feature that never changes has no correlation; the best of equals is the smaller feature.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from saestore.analyze.between.rows import Codes
from saestore.compiled import compiled
from saestore.dictionaries.selection_loops import on_threads


METHODS = ("pearson", "phi")
_A_THREAD = 16
"""Features that are worth a thread."""


@dataclass(frozen=True)
class Best:
    """The best partner of each feature.

    Attributes:
        other: Which; -1, it has none.
        score: The score; NaN without.
    """

    other: Int64[np.ndarray, " feature"]
    score: Float64[np.ndarray, " feature"]

    @classmethod
    def none(cls, n: int) -> "Best":
        """Return what stands before anything is known."""
        return cls(np.full(n, -1), np.full(n, np.nan))


@dataclass(frozen=True)
class Correlated:
    """What correlates best, of both sides, by one method.

    Attributes:
        forth: Best partner of each feature of the first dictionary.
        back: Of each of the second.
        all: Every pair, where that was asked for; NaN where there is no correlation.
    """

    forth: Best
    back: Best
    all: Float64[np.ndarray, "feature _"] | None


def correlate(
    one: Codes, other: Codes, rows: Int64[np.ndarray, " row"], *, whole: bool
) -> dict[str, Correlated]:
    """Return the best partners by each method.

    Args:
        one: Firings of the first dictionary.
        other: Firings of the second on the same rows.
        rows: Where each row of the second stands: its own number, or another's to permute them.
        whole: Return every pair's score too.
    """
    n, m = len(one.counts), len(other.counts)
    ends, feature, value = other.by_row(rows)
    sums = (*one.moments(), *other.moments())
    counts = one.counts, other.counts
    found = {
        method: Correlated(Best.none(n), Best.none(m), np.full((n, m), np.nan) if whole else None)
        for method in METHODS
    }
    none = np.zeros((0, 0))

    def work(first: int, stop: int) -> None:
        for method, each in found.items():
            back = Best.none(m)
            backs[method].append((first, back))
            _line_by_line(
                (first, stop, one.n_rows, method == "phi"),
                (one.ends, one.row, one.value),
                (ends, feature, value),
                (*sums, *counts),
                (each.forth.other, each.forth.score, back.other, back.score),
                none if each.all is None else each.all,
            )

    backs: dict[str, list[tuple[int, Best]]] = {method: [] for method in METHODS}
    on_threads(work, n, least=_A_THREAD)
    for method, each in found.items():
        for _, back in sorted(backs[method], key=lambda part: part[0]):
            better = ~(each.back.score >= back.score) & ~np.isnan(back.score)
            each.back.other[better] = back.other[better]
            each.back.score[better] = back.score[better]
    return found


@compiled
def _line_by_line(what: Any, one: Any, other: Any, known: Any, out: Any, every: Any) -> None:
    first, stop, n_rows, indicators = what
    one_ends, one_row, one_value = one
    ends, feature, value = other
    sum_a, spread_a, sum_b, spread_b, count_a, count_b = known
    forth, forth_score, back, back_score = out
    total = np.zeros(len(count_b))
    for i in range(first, stop):
        total[:] = 0
        for f in range(one_ends[i], one_ends[i + 1]):
            own = 1.0 if indicators else np.float64(one_value[f])
            row = one_row[f]
            for p in range(ends[row], ends[row + 1]):
                total[feature[p]] += own if indicators else own * np.float64(value[p])
        for j in range(len(total)):
            if indicators:
                a, b = np.float64(count_a[i]), np.float64(count_b[j])
                scale = np.sqrt(a * (n_rows - a)) * np.sqrt(b * (n_rows - b))
                shared = total[j] * n_rows - a * b
            else:
                scale = spread_a[i] * spread_b[j]
                shared = total[j] - sum_a[i] * sum_b[j] / n_rows
            if scale <= 0:
                continue
            score = min(max(shared / scale, -1.0), 1.0)
            if every.shape[0]:
                every[i, j] = score
            if not score <= forth_score[i]:
                forth[i], forth_score[i] = j, score
            if not score <= back_score[j]:
                back[j], back_score[j] = i, score
