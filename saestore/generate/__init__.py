"""Text to activations: one pass of the language model, every hookpoint at once."""

from saestore.generate.run import run


__all__ = ["run"]
