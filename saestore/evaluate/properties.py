"""How well features tell labelled properties of rows: AUROC of one score, coverage by any feature.

    AUROC    = P(score of a positive > of a negative) + P(equal)/2          Mann-Whitney, ties halved
    coverage = mean over properties of the largest F1 of 1[f_i > t max f_i] over features i and
               t = 0, .1, ..., .9

Coverage is never low for frequent properties: a feature that is always on has F1 2p/(1+p) at rate p.

Source: Karvonen et al. 2024 (arXiv:2408.00113) for coverage.
"""

import numpy as np
from jaxtyping import Bool, Float, Shaped


CUTS = 10
"""Thresholds between zero and each feature's largest activation."""


def auroc(scores: Shaped[np.ndarray, " row"], labels: Bool[np.ndarray, " row"]) -> float | None:
    """Return the area under the ROC curve; None without positives or without negatives."""
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if positives == 0 or negatives == 0:
        return None
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # of equal scores: their mean, from 1
    above = ranks[place][labels].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def coverage(
    activations: Float[np.ndarray, "row d_sae"], properties: Bool[np.ndarray, "row _"]
) -> float | None:
    """Return how well each property is told by its best feature, on average.

    Args:
        activations: Of every feature, zeros included.
        properties: Which rows have each; those that no row has are left out.

    Returns:
        None when no row has any.
    """
    counts = properties.sum(axis=0)
    known = counts > 0
    if not known.any():
        return None
    wanted = properties[:, known].astype(np.float64)
    best = np.zeros(int(known.sum()))
    largest = activations.max(axis=0)
    for cut in np.arange(CUTS) / CUTS:
        fires = (activations > cut * largest).astype(np.float64)
        f1 = 2 * (fires.T @ wanted) / (fires.sum(axis=0)[:, None] + counts[known])
        best = np.maximum(best, f1.max(axis=0))
    return float(best.mean())
