"""What all features of an analysis stand for: the best explanation of each, and words of all of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from saestore.features.interpretations import Interpretations
from saestore.features.search import WordIndex


@dataclass(frozen=True)
class Explained:
    """The explanations of an analysis's features.

    Attributes:
        version: What changes with the runs.
        texts: The best explanation of each feature that has any.
        scores: Its mean score, of each feature; NaN where undefined.
        words: Which features have which words in any explanation.
    """

    version: str
    texts: Mapping[int, str]
    scores: Float64[np.ndarray, " d_sae"]
    words: WordIndex

    @classmethod
    def of(cls, runs: Interpretations, n_features: int) -> "Explained":
        """Read the explanations of all finished runs.

        Raises:
            DamagedArtefactError: A file is missing or has another size, or a manifest is not one.
            FormatVersionError: Another major version wrote one.
        """
        version = runs.version
        ranked = runs.ranked() if version else None
        scores = np.full(n_features, math.nan)
        if ranked is None:
            nothing = np.empty(0, np.int64)
            return cls(version, {}, scores, WordIndex.of(nothing, nothing, str, n_features))
        first = ranked.unique("feature", keep="first", maintain_order=True)
        scores[first["feature"].to_numpy()] = first["score"].fill_null(math.nan).to_numpy()
        said: list[str] = ranked["text"].to_list()
        features = ranked["feature"].to_numpy().astype(np.int64)
        words = WordIndex.of(features, np.arange(len(said)), said.__getitem__, n_features)
        texts = dict(zip(first["feature"].to_list(), first["text"].to_list(), strict=True))
        return cls(version, texts, scores, words)
