"""In which texts does the feature fire? Cheap, and blind to which token it is.

Source: Paulo et al. 2024 (arXiv:2410.13928). Ours asks for probabilities, has hard negatives and counts what
could not be read for itself.
"""

from collections.abc import Sequence
from typing import final

from typing_extensions import override

from saestore.interpret import marks
from saestore.interpret.draw import Draw
from saestore.interpret.evidence import Evidence, Pick
from saestore.interpret.scorers.base import Item
from saestore.interpret.scorers.examples import against_silent, labelled, shuffled
from saestore.interpret.scorers.judging import Judging
from saestore_schemas.interpret import DetectionScorer


@final
class Detection(Judging):
    """Shows texts without marks."""

    def __init__(self, settings: DetectionScorer) -> None:
        """Take its settings."""
        super().__init__(settings)
        self._settings = settings

    @override
    def choose(self, draw: Draw) -> Sequence[Pick]:
        return against_silent(self._settings, draw)

    @override
    def items(self, evidence: Evidence, *, seed: int) -> Sequence[Item]:
        return shuffled(labelled(evidence), seed)

    @override
    def text(self, item: Item, evidence: Evidence, *, seed: int) -> str:
        return marks.line(item.snippet.example.tokens)
