"""What is collected from each feature's complete firings: one collector per file and table."""

from collections.abc import Callable

from saestore.analyze.collectors.coactivation import Coactivation
from saestore.analyze.collectors.collector import Collector, Pieces
from saestore.analyze.collectors.examples import Examples
from saestore.analyze.collectors.histograms import Histograms
from saestore.analyze.collectors.statistics import Statistics
from saestore.analyze.collectors.tokens import Tokens
from saestore.analyze.known import Known


def _tokens(known: Known) -> Collector | None:
    wanted = known.settings.token_stats
    return None if wanted is None else Tokens(known.scope, wanted)


def _coactivation(known: Known) -> Collector | None:
    wanted, sample = known.settings.coactivation, known.sample
    return None if wanted is None or sample is None else Coactivation(sample, wanted)


COLLECTORS: dict[str, Callable[[Known], Collector | None]] = {
    "features": lambda known: Statistics(known.scope, known.weights),
    "histograms": lambda known: Histograms(known.scope, known.logits),
    "token_stats": _tokens,
    "coactivation": _coactivation,
    "examples": lambda known: Examples(known.scope, known.settings.subsamples, known.negatives),
}
"""Table to what makes the collector that fills it, or None if it is not asked for; a new table is one
file and one line here."""


__all__ = [
    "COLLECTORS",
    "Coactivation",
    "Collector",
    "Examples",
    "Histograms",
    "Pieces",
    "Statistics",
    "Tokens",
]
