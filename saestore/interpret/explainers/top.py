"""The strongest contexts of a feature: what it is at its purest, and often too narrow."""

from collections.abc import Sequence
from typing import final

from typing_extensions import override

from saestore.interpret.draw import Draw
from saestore.interpret.evidence import Evidence, Pick
from saestore.interpret.explainers.prompted import Prompted
from saestore_schemas.interpret import TopExplainer


@final
class Top(Prompted):
    """Shows the contexts in which a feature is strongest, strongest first."""

    def __init__(self, settings: TopExplainer) -> None:
        """Take its settings."""
        super().__init__(settings)
        self._settings = settings

    @override
    def choose(self, draw: Draw) -> Sequence[Pick]:
        return draw.top(self._settings.examples, "explain")

    @override
    def lines(self, evidence: Evidence) -> Sequence[str]:
        return self.numbered("Texts in which it fires, strongest first:", evidence)
