"""Which features two training runs have in common, judged by weights and by behaviour.

A pair matches when each decoder vector is the other's nearest (by cosine, with its sign), that
cosine is above a cut, and the activations on the same rows correlate above another. The share of
matches means little without its null: the same pairs, each feature with the activations of a random
other one.

Source: Paulo and Belrose 2025 (arXiv:2501.16615), for seeds; the joint criterion is ours.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int64

from saestore.evaluate.known import unit


class Matches(NamedTuple):
    """What two dictionaries share.

    Attributes:
        share: Matching pairs, as a share of the features of the smaller dictionary.
        null: The largest share among permutations.
        pairs: The matching features, one pair a line.
    """

    share: float
    null: float
    pairs: Int64[np.ndarray, "pair 2"]


def matches(
    decoders: tuple[Float[np.ndarray, "d_sae d"], Float[np.ndarray, "feature d"]],
    activations: tuple[Float[np.ndarray, "row d_sae"], Float[np.ndarray, "row feature"]],
    *,
    cosine: float = 0.7,
    correlation: float = 0.7,
    draws: int = 20,
    seed: int = 0,
) -> Matches:
    """Return the features that two dictionaries share.

    Args:
        decoders: Decoder vectors of both.
        activations: Their activations on the same rows, zeros included.
        cosine: Cosines of decoder vectors must be above this.
        correlation: Correlations of activations must be above this.
        draws: Permutations of the null.
        seed: Seed of the permutations.
    """
    near = mutual_nearest(unit(decoders[0]) @ unit(decoders[1]).T, above=cosine)
    left, right = (_standard(each) for each in activations)
    fewer = min(len(decoders[0]), len(decoders[1]))
    rng = np.random.default_rng(np.random.SeedSequence([seed, *b"matches"]))
    alike = _correlations(left, right, near) > correlation
    null = 0.0
    for _ in range(draws):
        other = near.copy()
        other[:, 1] = _moved(right.shape[1], rng)[near[:, 1]]
        null = max(null, float((_correlations(left, right, other) > correlation).sum()) / fewer)
    return Matches(float(alike.sum()) / fewer, null, near[alike])


def mutual_nearest(
    cosines: Float64[np.ndarray, "d_sae feature"], *, above: float
) -> Int64[np.ndarray, "pair 2"]:
    """Return the pairs that are each other's nearest, with a cosine above a cut."""
    forth, back = cosines.argmax(axis=1), cosines.argmax(axis=0)
    left = np.flatnonzero(back[forth] == np.arange(len(forth)))
    pairs = np.stack([left, forth[left]], axis=1)
    found: Int64[np.ndarray, "pair 2"] = pairs[cosines[pairs[:, 0], pairs[:, 1]] > above]
    return found


def _standard(activations: Float[np.ndarray, "row feature"]) -> Float64[np.ndarray, "row feature"]:
    """Return columns of mean 0 and length 1; zeros where a feature never changes."""
    centred = activations.astype(np.float64)
    centred -= centred.mean(axis=0)
    lengths = np.linalg.norm(centred, axis=0)
    standard: Float64[np.ndarray, "row feature"] = centred / np.where(lengths > 0, lengths, 1)
    return standard


def _moved(n: int, rng: np.random.Generator) -> Int64[np.ndarray, " feature"]:
    """Return a random permutation in which nothing stays where it was."""
    cycle = rng.permutation(n)
    moved = np.empty(n, np.int64)
    moved[cycle] = np.roll(cycle, 1)
    return moved


def _correlations(
    left: Float64[np.ndarray, "row d_sae"],
    right: Float64[np.ndarray, "row feature"],
    pairs: Int64[np.ndarray, "pair 2"],
) -> Float64[np.ndarray, " pair"]:
    found: Float64[np.ndarray, " pair"] = np.einsum(
        "ij,ij->j", left[:, pairs[:, 0]], right[:, pairs[:, 1]]
    )
    return found
