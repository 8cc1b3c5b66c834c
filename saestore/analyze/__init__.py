"""What every feature of a dictionary does: one streaming pass, exact tables."""

from saestore.analyze.run import run, run_part


__all__ = ["run", "run_part"]
