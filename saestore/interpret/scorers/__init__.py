"""Ways of asking how well an explanation holds: one file each, and one line in `REGISTRY`."""

from collections.abc import Callable, Mapping
from typing import Any

from saestore.interpret.scorers.base import Item, Question, Score, Scorer, Verdict
from saestore.interpret.scorers.detection import Detection
from saestore.interpret.scorers.embedding import Embedding
from saestore.interpret.scorers.fuzzing import Fuzzing
from saestore.interpret.scorers.simulation import Simulation
from saestore_schemas.interpret import Scorer as ScorerSettings


__all__ = ["REGISTRY", "Item", "Question", "Score", "Scorer", "Verdict", "scorer_of"]

REGISTRY: Mapping[str, Callable[[Any], Scorer]] = {
    "detection": Detection,
    "embedding": Embedding,
    "fuzzing": Fuzzing,
    "simulation": Simulation,
}
"""What makes a scorer of its settings, by their kind."""


def scorer_of(settings: ScorerSettings) -> Scorer:
    """Return the scorer that some settings describe."""
    return REGISTRY[settings.kind](settings)
