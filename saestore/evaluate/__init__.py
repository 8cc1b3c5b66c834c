"""How good a dictionary is: reconstruction, sparsity, and what the language model loses by it."""

from saestore.evaluate.calibrate import calibrate
from saestore.evaluate.compare import Comparison, compare
from saestore.evaluate.convert import Converted, convert
from saestore.evaluate.evaluation import Evaluation
from saestore.evaluate.periodic import Periodic
from saestore.evaluate.run import run


__all__ = [
    "Comparison",
    "Converted",
    "Evaluation",
    "Periodic",
    "calibrate",
    "compare",
    "convert",
    "run",
]
