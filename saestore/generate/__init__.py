"""Text to activations: one pass of the language model, every hookpoint at once."""

from saestore.generate.run import run, run_part


__all__ = ["run", "run_part"]
