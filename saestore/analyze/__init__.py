"""What every feature of a dictionary does: one streaming pass, exact tables; and what fires in any text."""

from saestore.analyze.live import LiveDictionary
from saestore.analyze.run import run, run_part


__all__ = ["LiveDictionary", "run", "run_part"]
