"""The verb: an activation store in, a sparse dictionary out; or several in one pass."""

from saestore.train.run import run
from saestore.train.sweep import Callbacks, run as sweep


__all__ = ["Callbacks", "run", "sweep"]
