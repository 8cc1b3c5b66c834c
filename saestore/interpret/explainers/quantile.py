"""Contexts from all quantiles of a feature's strength: broader than the strongest alone, and longer.

Source: Paulo et al. 2024 (arXiv:2410.13928), sampling of examples. Ours draws equally many from each quantile.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import final

from typing_extensions import override

from saestore.interpret.draw import Draw
from saestore.interpret.evidence import Evidence, Pick
from saestore.interpret.explainers.prompted import Prompted
from saestore_schemas.interpret import QuantileExplainer


@final
class Quantile(Prompted):
    """Shows contexts from all quantiles, the strongest quantile first."""

    def __init__(self, settings: QuantileExplainer) -> None:
        """Take its settings."""
        super().__init__(settings)
        self._settings = settings

    @override
    def choose(self, draw: Draw) -> Sequence[Pick]:
        picks = draw.strata(self._settings.examples, self._settings.quantiles, "explain")
        return sorted(picks, key=lambda pick: -_level(pick))

    @override
    def lines(self, evidence: Evidence) -> Sequence[str]:
        found: list[str] = []
        number = 0
        for level, some in groupby(evidence.snippets, lambda snippet: _level(snippet.pick)):
            found += ["" for _ in found[:1]]
            found += [self._heading(level), ""]
            for snippet in some:
                number += 1
                found += self.shown(number, snippet, evidence.maximum)
        return found

    def _heading(self, level: int) -> str:
        levels = self._settings.quantiles
        which = {levels - 1: ", the strongest", 0: ", the faintest"} if levels > 1 else {}
        return f"Level {level + 1} of {levels}{which.get(level, '')}:"


def _level(pick: Pick) -> int:
    return 0 if pick.stratum is None else pick.stratum
