"""The verb: an activation store in, a sparse dictionary out."""

from saestore.train.run import run


__all__ = ["run"]
