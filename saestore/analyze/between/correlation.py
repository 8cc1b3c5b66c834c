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
        all: Every pair, NaN where there is no correlation; empty where that was not asked for.
    """

    forth: Best
    back: Best
    all: Float64[np.ndarray, "feature _"]


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
    found = {
        method: Correlated(Best.none(n), Best.none(m), np.full((n, m) if whole else (0, 0), np.nan))
        for method in METHODS
    }
    sides = (one.ends, one.row, one.value), other.by_row(rows)
    means, scales, sums, other_scales = (*_standard(one, divide=True), *_standard(other))
    backs: list[tuple[int, list[Best]]] = []

    def work(first: int, stop: int) -> None:
        back = [Best.none(m) for _ in METHODS]
        backs.append((first, back))
        _line_by_line(
            (first, stop),
            sides[0],
            sides[1],
            (means, scales, sums, other_scales),
            tuple(
                _arrays(found[name].forth, each) for name, each in zip(METHODS, back, strict=True)
            ),
            tuple(found[name].all for name in METHODS),
        )

    on_threads(work, n, least=_A_THREAD)
    for _, back in sorted(backs, key=lambda part: part[0]):
        for name, each in zip(METHODS, back, strict=True):
            _take_over(found[name].back, each)
    return found


def _standard(
    side: Codes, *, divide: bool = False
) -> tuple[Float64[np.ndarray, "2 feature"], Float64[np.ndarray, "2 feature"]]:
    """Return sums of values and of firings, and what scales them to length 1; NaN where nothing varies.

    Args:
        side: Firings.
        divide: Return means instead of sums.
    """
    total, spread = side.moments()
    counts, n = side.counts.astype(np.float64), side.n_rows
    lengths = np.stack([spread, np.sqrt(counts * (n - counts) / n)])
    with np.errstate(divide="ignore"):
        scales = np.where(lengths > 0, 1 / lengths, np.nan)
    sums = np.stack([total, counts])
    return (sums / n if divide else sums), scales


def _arrays(forth: Best, back: Best) -> tuple[np.ndarray, ...]:
    return forth.other, forth.score, back.other, back.score


def _take_over(best: Best, later: Best) -> None:
    """Take over what is better than the best of all smaller features."""
    better = ~(best.score >= later.score) & ~np.isnan(later.score)
    best.other[better] = later.other[better]
    best.score[better] = later.score[better]


@compiled
def _line_by_line(  # noqa: C901 - one loop, as machine code wants it
    span: Any, one: Any, other: Any, known: Any, out: Any, every: Any
) -> None:
    one_ends, one_row, one_value = one
    ends, feature, value = other
    means, scales, sums, other_scales = known
    m = sums.shape[1]
    products = np.zeros((2, m))
    for i in range(span[0], span[1]):
        products[:] = 0
        for f in range(one_ends[i], one_ends[i + 1]):
            own, row = np.float64(one_value[f]), one_row[f]
            for p in range(ends[row], ends[row + 1]):
                products[0, feature[p]] += own * np.float64(value[p])
                products[1, feature[p]] += 1
        for method in range(2):
            mean, scale = means[method, i], scales[method, i]
            if np.isnan(scale):
                continue
            forth, forth_score, back, back_score = out[method]
            table = every[method]
            best, score_of_best = -1, -2.0
            for j in range(m):
                score = (products[method, j] - mean * sums[method, j]) * scale
                score = min(max(score * other_scales[method, j], -1.0), 1.0)
                if table.shape[0]:
                    table[i, j] = score
                if score > score_of_best:
                    best, score_of_best = j, score
                if not (np.isnan(score) or score <= back_score[j]):
                    back[j], back_score[j] = i, score
            if best >= 0:
                forth[i], forth_score[i] = best, score_of_best
