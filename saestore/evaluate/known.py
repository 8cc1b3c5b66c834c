"""How much of a known dictionary is found again: the truth is there, because we made the data.

    C_ij  = |cos(decoder vector i, true direction j)|
    MCC   = mean C over the one-to-one pairs with the largest sum (min(d_sae, G) pairs)
    MMCS  = mean_i max_j C_ij                     not one-to-one, so its floor is higher
    best  = argmax_j C_ij;  uniqueness = distinct best / d_sae
    P, R  = of 1[f_i != 0] against on[:, best(i)];  F1 = 2PR/(P+R)         means over features

Random vectors have neither MCC nor MMCS 0: `floor` says what they have, and no number means
anything without it. A vector of length zero has cosine 0 with everything. A feature that never
fires, or only beside its true feature, has P, R and F1 0.

Source: Hyvärinen and Morioka 2016 (MCC, arXiv:1605.06336); Sharkey et al. 2022 (MMCS).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from saestore.assignment import best_pairs
from saestore.dictionaries import SparseCode


def similarity(
    vectors: Float[np.ndarray, "d_sae d"], truth: Float[np.ndarray, "feature d"]
) -> Float64[np.ndarray, "d_sae feature"]:
    """Return the absolute cosine of every decoder vector with every true direction."""
    found: Float64[np.ndarray, "d_sae feature"] = np.abs(unit(vectors) @ unit(truth).T)
    return found


def unit(vectors: Float[np.ndarray, "feature d"]) -> Float64[np.ndarray, "feature d"]:
    """Return vectors of length 1; those of length zero stay."""
    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    scaled: Float64[np.ndarray, "feature d"] = wide / np.where(lengths > 0, lengths, 1)
    return scaled


def mcc(similarities: Float64[np.ndarray, "d_sae feature"]) -> float:
    """Return the mean similarity of the best one-to-one pairs."""
    return float(similarities[best_pairs(similarities)].mean())


def mmcs(similarities: Float64[np.ndarray, "d_sae feature"]) -> float:
    """Return the mean over features of the largest similarity."""
    return float(similarities.max(axis=1).mean())


def uniqueness(similarities: Float64[np.ndarray, "d_sae feature"]) -> float:
    """Return how many true features are some feature's best, as a share of the features."""
    return len(np.unique(similarities.argmax(axis=1))) / len(similarities)


class Floor(NamedTuple):
    """What random vectors have: mean and standard deviation over draws.

    Attributes:
        mcc: Of MCC.
        mmcs: Of MMCS.
    """

    mcc: tuple[float, float]
    mmcs: tuple[float, float]


def floor(
    features: int, truth: Float[np.ndarray, "feature d"], *, draws: int = 20, seed: int = 0
) -> Floor:
    """Return the scores of random isotropic vectors in place of a dictionary.

    Args:
        features: How many vectors, as the dictionary has.
        truth: The true directions.
        draws: How often.
        seed: Seed of the draws.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, *b"floor"]))
    found = []
    for _ in range(draws):
        similarities = similarity(rng.standard_normal((features, truth.shape[1])), truth)
        found.append((mcc(similarities), mmcs(similarities)))
    mean, std = np.mean(found, axis=0), np.std(found, axis=0)
    return Floor((float(mean[0]), float(std[0])), (float(mean[1]), float(std[1])))


@dataclass(frozen=True)
class Detection:
    """How well features detect their best true features; means over features.

    Attributes:
        precision: Share of a feature's firings where its true feature is on.
        recall: Share of rows with the true feature on where the feature fires.
        f1: Their harmonic mean.
    """

    precision: float
    recall: float
    f1: float


class DetectionCounts:
    """Firings against true support, added over rows.

    Args:
        best: The true feature of each feature.
        features: True features there are.
    """

    def __init__(self, best: Int64[np.ndarray, " d_sae"], features: int) -> None:
        self._best = best
        self._on = np.zeros(features, np.int64)
        self._fired = np.zeros(len(best), np.int64)
        self._both = np.zeros(len(best), np.int64)

    def update(self, code: SparseCode, on: Bool[np.ndarray, "row feature"]) -> None:
        """Add rows.

        Args:
            code: What fired on them.
            on: Which true features were on.
        """
        fires = (code.values != 0).cpu().numpy()
        rows, features = (each.cpu().numpy()[fires] for each in (code.row_ids, code.indices))
        hits = on[rows, self._best[features]]
        self._on += on.sum(axis=0)
        self._fired += np.bincount(features, minlength=len(self._fired))
        self._both += np.bincount(features[hits], minlength=len(self._both))

    def result(self) -> Detection:
        """Return the means over features."""
        both = self._both.astype(np.float64)
        on = self._on[self._best]
        precision, recall = both / np.maximum(self._fired, 1), both / np.maximum(on, 1)
        f1 = 2 * both / np.maximum(self._fired + on, 1)  # 2PR/(P+R), and 0 where both are
        return Detection(float(precision.mean()), float(recall.mean()), float(f1.mean()))
