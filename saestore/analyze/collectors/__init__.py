"""What is collected from each feature's complete firings: one collector per file and table."""

from collections.abc import Callable

from saestore.analyze.collectors.collector import Collector, Pieces
from saestore.analyze.collectors.examples import Examples
from saestore.analyze.collectors.histograms import Histograms
from saestore.analyze.collectors.statistics import Statistics
from saestore.analyze.scope import Scope
from saestore.analyze.weights import WeightFacts
from saestore_schemas.analyze import AnalyzeSettings


COLLECTORS: dict[str, Callable[[AnalyzeSettings, Scope, WeightFacts], Collector]] = {
    "features": lambda _settings, scope, weights: Statistics(scope, weights),
    "histograms": lambda _settings, scope, _weights: Histograms(scope),
    "examples": lambda settings, scope, _weights: Examples(scope, settings.subsamples),
}
"""Table to the collector that fills it; a new table is one file and one line here."""


__all__ = [
    "COLLECTORS",
    "Collector",
    "Examples",
    "Histograms",
    "Pieces",
    "Statistics",
]
