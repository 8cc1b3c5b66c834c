"""Are texts in which the feature fires nearer to the explanation than others, as vectors?

One cheap request for each explanation, without a language model that judges; agrees least with people.

Source: Paulo et al. 2024 (arXiv:2410.13928).
"""

from collections.abc import Sequence
from typing import final

import numpy as np
from typing_extensions import override

from saestore.interpret.draw import Draw
from saestore.interpret.evidence import Evidence, Pick
from saestore.interpret.request import Answer, Asking
from saestore.interpret.scorers import scoring
from saestore.interpret.scorers.base import Item, Question, Score, Scorer, Verdict
from saestore.interpret.scorers.examples import against_silent, labelled, shuffled
from saestore_schemas.interpret import EmbeddingScorer


_EMPTY = " "
"""Stands for a window without text: endpoints refuse an empty one."""


@final
class Embedding(Scorer):
    """Asks for the vectors of an explanation and of all texts at once."""

    def __init__(self, settings: EmbeddingScorer) -> None:
        """Take its settings."""
        self._settings = settings

    @property
    @override
    def version(self) -> str:
        return "embedding-1"

    @property
    @override
    def window(self) -> int:
        return self._settings.window

    @override
    def choose(self, draw: Draw) -> Sequence[Pick]:
        return against_silent(self._settings, draw)

    @override
    def items(self, evidence: Evidence, *, seed: int) -> Sequence[Item]:
        return shuffled(labelled(evidence), seed)

    @override
    def questions(
        self, explanation: str, items: Sequence[Item], asking: Asking, evidence: Evidence
    ) -> Sequence[Question]:
        if not items:
            return []
        texts = ["".join(token.text for token in i.snippet.example.tokens) for i in items]
        request = asking.embed(
            [text or _EMPTY for text in (explanation, *texts)],
            purpose=f"{self.version} of feature {evidence.page.feature}",
        )
        return [Question(request, tuple(items))]

    @override
    def read(self, question: Question, answer: Answer, evidence: Evidence) -> Sequence[Verdict]:
        cosines = _cosines(answer.vectors, len(question.items))
        return [
            Verdict(item, "unparsed", answer.request)
            if cosine is None
            else Verdict(item, "answered", answer.request, probability=cosine)
            for item, cosine in zip(question.items, cosines, strict=True)
        ]

    @override
    def measure(
        self, verdicts: Sequence[Verdict], *, evidence: Evidence, bootstrap: int, seed: int
    ) -> Score:
        return scoring.of_likelihoods(verdicts, bootstrap=bootstrap, seed=seed)


def _cosines(vectors: Sequence[Sequence[float]], n: int) -> list[float | None]:
    """Return the cosine of the first vector with each of n others; None where there is none.

    With another number of vectors, or of unequal lengths, nobody knows which is which.
    """
    if len(vectors) != n + 1 or len({len(vector) for vector in vectors}) != 1:
        return [None] * n
    explanation, *texts = (np.array(vector, dtype=np.float64) for vector in vectors)
    return [_cosine(explanation, text) for text in texts]


def _cosine(one: np.ndarray, other: np.ndarray) -> float | None:
    length = np.linalg.norm(one) * np.linalg.norm(other)
    if not length or not np.isfinite(length):
        return None
    return float(one @ other / length)
