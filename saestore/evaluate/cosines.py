"""How alike the vectors of features are: the nearest other vector of each.

    decoder_cosine_max_i = max over j != i of |cos(W_dec[i], W_dec[j])|, and j; likewise the encoder

All pairs are compared in square blocks, each pair once, so memory is one block whatever the number
of features; the time is d_sae^2 d multiplications. Cosines are compared in the weights' type, the
one that wins is computed again in float64. Vectors of length zero have no cosine.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from saestore.dictionaries import SparseDictionary
from saestore.evaluate.metrics import Score
from saestore.progress import Progress
from saestore_schemas.metrics import COSINE_QUANTILES


BLOCK = 4096
"""Features of one side of a block: 64 MiB of float32."""


@dataclass(frozen=True)
class Nearest:
    """The most similar other vector of each feature.

    Attributes:
        cosine: Absolute cosine with it; NaN where there is none.
        feature: Which; -1 where there is none.
    """

    cosine: Float64[np.ndarray, " d_sae"]
    feature: Int64[np.ndarray, " d_sae"]


def nearest(
    vectors: Float[Tensor, "d_sae _"], *, advance: Callable[[int], None] | None = None
) -> Nearest:
    """Return the nearest other vector of each feature by absolute cosine; the first of equals.

    Args:
        vectors: One of each feature.
        advance: Told how many features were compared with all after them.
    """
    n = len(vectors)
    lengths = torch.linalg.vector_norm(vectors.double(), dim=1)
    unit = (vectors / lengths.to(vectors)[:, None]).nan_to_num_(nan=0.0)
    best = torch.full((n,), -1.0, dtype=vectors.dtype, device=vectors.device)
    which = torch.full((n,), -1, dtype=torch.int64, device=vectors.device)
    for first in range(0, n, BLOCK):
        rows = slice(first, first + BLOCK)
        for other in range(first, n, BLOCK):
            columns = slice(other, other + BLOCK)
            cosines = (unit[rows] @ unit[columns].T).abs_()
            cosines[lengths[rows] == 0] = -1.0
            cosines[:, lengths[columns] == 0] = -1.0
            if other == first:
                cosines.fill_diagonal_(-1.0)
            _keep(cosines, best[rows], which[rows], other)
            if other != first:
                _keep(cosines.T, best[columns], which[columns], first)
        if advance is not None:
            advance(len(unit[rows]))
    found = which >= 0
    exact = torch.full((n,), float("nan"), dtype=torch.float64, device=vectors.device)
    mine, theirs = vectors[found].double(), vectors[which[found]].double()
    exact[found] = torch.linalg.vecdot(mine, theirs).abs_() / (
        lengths[found] * lengths[which[found]]
    )
    return Nearest(exact.cpu().numpy(), which.cpu().numpy())


def _keep(
    cosines: Float[Tensor, "feature _"],
    best: Float[Tensor, " feature"],
    which: Int64[Tensor, " feature"],
    first: int,
) -> None:
    """Take over what is larger than the best so far, in place."""
    values, places = cosines.max(dim=1)
    better = values > best
    best[better] = values[better]
    which[better] = places[better] + first


@dataclass(frozen=True)
class Compared:
    """How alike the features of a dictionary are.

    Attributes:
        decoder: The nearest decoder vector of each.
        encoder: The nearest encoder vector of each.
        enc_dec: Cosine of each one's encoder and decoder vector; NaN where one is zero.
    """

    decoder: Nearest
    encoder: Nearest
    enc_dec: Float64[np.ndarray, " d_sae"]

    @classmethod
    def of(cls, folded: SparseDictionary, progress: Progress) -> "Compared":
        """Compare all features of a folded dictionary.

        Args:
            folded: The dictionary, on the device that computes.
            progress: Where to report.
        """
        with torch.no_grad():
            sides = (folded.decoder_vectors(), folded.encoder_vectors())
            with progress.task("compare features", total=2 * folded.d_sae, unit="feature") as task:
                decoder, encoder = (nearest(side, advance=task.advance) for side in sides)
            enc_dec = folded.enc_dec_cosine().cpu().double().numpy()
        return cls(decoder, encoder, enc_dec)

    def scores(self) -> list[Score]:
        """Return mean, quantiles and maximum of each over the features that have a cosine."""
        return [
            *_summary("decoder_cosine_max", self.decoder.cosine),
            *_summary("encoder_cosine_max", self.encoder.cosine),
            *_summary("enc_dec_cosine", self.enc_dec),
        ]


def _summary(name: str, cosines: Float64[np.ndarray, " d_sae"]) -> list[Score]:
    known = np.sort(cosines[~np.isnan(cosines)])
    n = len(known)
    places = {q: max(1, -(-permille * n // 1000)) for q, permille in COSINE_QUANTILES.items()}
    found: dict[str, float | None] = {"mean": float(known.mean()) if n else None}
    for which, place in {**places, "max": n}.items():
        found[which] = float(known[place - 1]) if n else None
    return [Score(f"{name}[{which}]", value, n) for which, value in found.items()]
