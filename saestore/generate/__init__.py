"""Text to activations: one pass of the language model, every hookpoint at once."""

from saestore.generate.recompute import ModelCheck, against_model
from saestore.generate.run import run, run_part


__all__ = ["ModelCheck", "against_model", "run", "run_part"]
