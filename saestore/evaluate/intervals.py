"""How sure a mean over rows is, when rows of one context are alike: the context bootstrap.

Contexts are drawn with replacement, as many as there are, and the ratio of two sums over them is
taken again; the interval holds the middle 95 % of such ratios. Neighbouring contexts are put
together first where there are more than `GROUPS`, so that the cost is bounded; that widens the
interval where neighbours share a document, as it should.

Source: Efron 1979; drawing clusters: Davison and Hinkley 1997, section 3.8.
"""

import numpy as np
from jaxtyping import Float64, Shaped


GROUPS = 2048
"""Most groups of contexts that are drawn."""

DRAWS = 2000
"""Bootstrap samples."""

LEAST = 2
"""Fewer contexts say nothing about how contexts differ."""


def context_interval(
    over: Shaped[np.ndarray, " context"],
    under: Shaped[np.ndarray, " context"],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Return an interval for sum(over) / sum(under); None of fewer than two contexts.

    Args:
        over: A sum over the rows of each context.
        under: Another, such as their number; not all 0.
        level: Share of draws inside.
        seed: Seed of the draws.
    """
    if len(over) < LEAST:
        return None
    return interval(_grouped(over), _grouped(under), level=level, seed=seed)


def interval(
    over: Float64[np.ndarray, " _"],
    under: Float64[np.ndarray, " _"],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Return an interval for sum(over) / sum(under), its terms drawn with replacement."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, *b"bootstrap"]))
    n = len(over)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=DRAWS).astype(np.float64)
    totals = counts @ under
    ratios = (counts @ over)[totals > 0] / totals[totals > 0]
    tail = (1 - level) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return float(low), float(high)


def _grouped(values: Shaped[np.ndarray, " context"]) -> Float64[np.ndarray, " _"]:
    """Return sums over equal runs of neighbours, at most `GROUPS` of them."""
    starts = np.arange(min(GROUPS, len(values))) * len(values) // min(GROUPS, len(values))
    return np.add.reduceat(values.astype(np.float64), starts)
