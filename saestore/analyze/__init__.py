"""What every feature of a dictionary does: one streaming pass, exact tables."""

from saestore.analyze.run import run


__all__ = ["run"]
