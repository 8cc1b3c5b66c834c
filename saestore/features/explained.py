"""What all features of an analysis stand for: the best explanation of each, and words of all of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from jaxtyping import Float64

from saestore.features.interpretations import Interpretations
from saestore.features.search import WordIndex


@dataclass(frozen=True)
class Explained:
    """The explanations of an analysis's features.

    Attributes:
        version: What changes with the runs.
        ranked: All explanations: feature, text and mean score, the best of each feature first.
        texts: The best explanation of each feature that has any.
        scores: Its mean score, of each feature; NaN where undefined.
    """

    version: str
    ranked: pl.DataFrame
    texts: Mapping[int, str]
    scores: Float64[np.ndarray, " d_sae"]

    @classmethod
    def of(cls, runs: Interpretations, n_features: int) -> "Explained":
        """Read the explanations of all finished runs that can be read.

        Raises:
            DamagedArtefactError: What a file holds cannot be decoded.
        """
        version, ranked = runs.version, runs.ranked()
        first = ranked.unique("feature", keep="first", maintain_order=True)
        scores = np.full(n_features, math.nan)
        scores[first["feature"].to_numpy()] = first["score"].fill_null(math.nan).to_numpy()
        texts = dict(zip(first["feature"].to_list(), first["text"].to_list(), strict=True))
        return cls(version, ranked, texts, scores)

    @cached_property
    def words(self) -> WordIndex:
        """Which features have which words in any explanation."""
        said: list[str] = self.ranked["text"].to_list()
        features = self.ranked["feature"].to_numpy().astype(np.int64)
        every = np.arange(len(said))
        return WordIndex.of(
            features, every, lambda which: [said[at] for at in which.tolist()], len(self.scores)
        )
