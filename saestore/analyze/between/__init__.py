"""Between dictionaries, and between analyses: which features match, and what changed."""

from saestore.analyze.between.diff import Difference, diff
from saestore.analyze.between.match import Match, match


__all__ = ["Difference", "Match", "diff", "match"]
