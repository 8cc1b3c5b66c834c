"""The examples of scorers that show contexts in which a feature fires beside those in which it is silent."""

from collections.abc import Sequence

import numpy as np

from saestore.interpret.draw import Draw
from saestore.interpret.evidence import Evidence, Pick
from saestore.interpret.metrics import DECILES
from saestore.interpret.scorers.base import Item
from saestore_schemas.interpret import DetectionScorer, EmbeddingScorer, SimulationScorer


def against_silent(
    settings: DetectionScorer | EmbeddingScorer | SimulationScorer, draw: Draw
) -> list[Pick]:
    """Return positives from all deciles of strength, then negatives; none of a feature without positives."""
    positives = draw.strata(settings.positives, DECILES, "score")
    if not positives:
        return []
    return positives + draw.negatives(settings.negatives, settings.hard, "score")


def labelled(evidence: Evidence) -> list[Item]:
    """Return the examples in their order, with what was drawn of each."""
    return [
        Item(
            place,
            snippet,
            label=snippet.pick.negative is None,
            decile=snippet.pick.stratum,
            negative_kind=snippet.pick.negative,
        )
        for place, snippet in enumerate(evidence.snippets)
    ]


def shuffled(items: Sequence[Item], seed: int) -> Sequence[Item]:
    """Return items in an order that says nothing of their labels.

    Args:
        items: The items.
        seed: Of the order.
    """
    order = np.random.default_rng(seed).permutation(len(items))
    return [items[place] for place in order.tolist()]
