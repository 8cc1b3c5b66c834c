"""All features of an analysis at once: how often they fire, and one line of each.

Every number here stands in a table of the analysis or is counted from one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from saestore.features.analysis import Analysis
from saestore.features.explained import Explained
from saestore.features.page import rate_bound


DENSITY_BINS = 16
"""Bins of the density histogram, equal in log10."""

TYPICAL = 3
"""Features that are named to go on with."""

WORDS = 4
"""Promoted tokens in a feature's line."""


@dataclass(frozen=True)
class DensityHistogram:
    """Features by log10 density: `counts[i]` lie in [edges[i], edges[i + 1])."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Overview:
    """What the features of an analysis are like.

    Attributes:
        n_features: Features, dead ones included.
        n_silent: Features that never fired in it.
        n_rows: Kept rows analysed.
        n_firings: Firings of all features.
        bound: What the density of those that never fired is below, each at 95 %; None without rows.
        densities: How often features fire.
        typical: A few features nearest the median density of those that fire.
    """

    n_features: int
    n_silent: int
    n_rows: int
    n_firings: int
    bound: float | None
    densities: DensityHistogram
    typical: tuple[int, ...]


def overview(analysis: Analysis) -> Overview:
    """Return what the features of an analysis are like."""
    columns = analysis.lazy("features").select("density", "n_firings", "n_rows").collect()
    densities = columns["density"].to_numpy()
    order = np.argsort(densities, kind="stable")  # equal ones by feature
    firing = order[densities[order] > 0]
    nearest = firing[max(0, len(firing) // 2 - TYPICAL // 2) :][:TYPICAL]
    rows = int(columns["n_rows"][0]) if len(densities) else 0
    return Overview(
        n_features=len(densities),
        n_silent=len(densities) - len(firing),
        n_rows=rows,
        n_firings=int(columns["n_firings"].sum()),
        bound=rate_bound(rows),
        densities=histogram(densities[firing].tolist()),
        typical=tuple(nearest.tolist()),
    )


def histogram(densities: Sequence[float]) -> DensityHistogram:
    """Return how many features lie in each of `DENSITY_BINS` bins equal in log10.

    Args:
        densities: Of the features that fire: above 0, up to 1.
    """
    if not densities:
        return DensityHistogram((), ())
    lowest = math.floor(min(math.log10(x) for x in densities))
    width = max(-lowest, 1) / DENSITY_BINS
    counts = [0] * DENSITY_BINS
    for x in densities:
        # The last bin is closed: a feature that fires everywhere has density 1.
        counts[min(int((math.log10(x) - lowest) / width), DENSITY_BINS - 1)] += 1
    return DensityHistogram(
        tuple(lowest + i * width for i in range(DENSITY_BINS + 1)), tuple(counts)
    )


_LINES = """
WITH promoted AS (
    SELECT feature, list(token ORDER BY head, rank)[:$words] AS promotes
    FROM logits
    WHERE score = (SELECT min(score) FROM logits WHERE score IN ('direction', 'left_singular'))
        AND sign = 1 AND rank < $words
    GROUP BY feature
)
SELECT f.feature, f.n_firings, f.density, f.n_contexts, f.max, f.mean, f.q50, f.dec_norm,
    v.token AS top_token, f.top_token_share, coalesce(p.promotes, []) AS promotes
FROM features f
LEFT JOIN (SELECT token_id, token FROM vocabulary) v ON v.token_id = f.top_token_id
LEFT JOIN promoted p USING (feature)
ORDER BY f.feature
"""


def feature_lines(analysis: Analysis) -> pa.Table:
    """Return one line of each feature, dead ones included, in their order.

    feature, n_firings, density, n_contexts, max, mean, q50, dec_norm, top_token, top_token_share, and
    promotes: the tokens that its decoder vector promotes most, by `direction` or what stands for it; empty
    without those. Where any feature is explained, explanation and explanation_score too: its best one, and
    its mean score.
    """
    lines = analysis.sql(_LINES, {"words": WORDS})
    explained = Explained.of(analysis.interpretations, analysis.n_features)
    if not explained.texts:
        return lines
    features: list[int] = [int(each or 0) for each in lines["feature"].to_pylist()]
    texts = pa.array([explained.texts.get(each) for each in features], pa.string())
    scores = pa.array(explained.scores[features], pa.float64(), from_pandas=True)
    return lines.append_column("explanation", texts).append_column("explanation_score", scores)
