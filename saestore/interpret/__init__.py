"""The verb that says what features stand for: explained and scored by a language model, from the lake."""

from saestore.features.interpretation import Interpretation, Mean, Said, Scored
from saestore.interpret.compare import Compared, Duel, Outlay, Standing, compare
from saestore.interpret.estimate import Estimate, estimate
from saestore.interpret.run import run


__all__ = [
    "Compared",
    "Duel",
    "Estimate",
    "Interpretation",
    "Mean",
    "Outlay",
    "Said",
    "Scored",
    "Standing",
    "compare",
    "estimate",
    "run",
]
