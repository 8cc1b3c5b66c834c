"""How many of their strongest features texts share, and how many they would by chance.

    expected = Σ_f P(f)²        P(f): share of contexts with f among their strongest k

That is the overlap of two contexts of the analysis drawn independently. A few features that are among
the strongest nearly everywhere make it large, so a number shared says little without it. Texts much
shorter than the contexts analysed share fewer by chance than it says.
"""

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float64, Int64

from saestore.features import arrow
from saestore.features.analysis import Analysis
from saestore.features.named import run_named
from saestore.features.passages import Passages


_COLUMNS: list[Any] = [
    pa.field("a", pa.uint32()),
    pa.field("b", pa.uint32()),
    pa.field("n_a", pa.uint32()),
    pa.field("n_b", pa.uint32()),
    pa.field("overlap", pa.uint32()),
    pa.field("jaccard", pa.float64()),
    pa.field("expected", pa.float64()),
    pa.field("shared", pa.list_(pa.uint32())),
]
OVERLAPS = pa.schema(_COLUMNS)
"""Columns of the overlaps of texts: two of them, how many features of each count, how many are shared,
that over those of either (null where there are none), the number shared by chance, and which."""


def expected(analysis: Analysis, k: int) -> float:
    """Return the overlap of two independent contexts, over all contexts of the analysis.

    Args:
        analysis: Which analysis.
        k: Strongest features of a context that count.

    Raises:
        QueryError: It takes more than the machine has; the message is the engine's.
        DamagedArtefactError: A file is missing or has another size.
    """
    name = analysis.ref.name
    found = run_named(analysis.lake, "chance_overlap", {"k": k}, analysis=name)
    return float(found["expected"][0].as_py())


@dataclass(frozen=True)
class FeatureOverlap:
    """How two features go together, over every firing.

    Attributes:
        a: One feature.
        b: The other.
        n_a: Rows on which the one fires.
        n_b: Rows on which the other does.
        n_both: Rows on which both do.
        n_rows: Kept rows analysed.
        n_contexts: Contexts in which both fire.
        jaccard: n_both over rows on which either fires; None where neither ever does.
        phi: Correlation of firing with firing; None where one never fires, or always.
        lift: n_both over what chance would give; None where one never fires.
        correlation: Of their values, over the rows on which both fire; None where that is undefined.
        strongest: Contexts in which both fire, those with the largest smaller peak first, up to ten.
    """

    a: int
    b: int
    n_a: int
    n_b: int
    n_both: int
    n_rows: int
    n_contexts: int
    jaccard: float | None
    phi: float | None
    lift: float | None
    correlation: float | None
    strongest: tuple[int, ...]


_STRONGEST = 10


def feature_overlap(analysis: Analysis, a: int, b: int) -> FeatureOverlap:
    """Return how two features go together.

    Raises:
        FeatureNotFoundError: The dictionary has no such feature.
        UnsupportedError: The analysis keeps no firings.
        DamagedArtefactError: A file is missing or has another size.
    """
    for feature in (a, b):
        analysis.check(feature)
    analysis.need_firings("the overlap of two features")
    (rows_a, of_a), (rows_b, of_b) = (_fired(analysis, feature) for feature in (a, b))
    _, in_a, in_b = np.intersect1d(rows_a, rows_b, assume_unique=True, return_indices=True)
    n_a, n_b, both, n = len(rows_a), len(rows_b), len(in_a), analysis.manifest.counts["rows"]
    spread = math.sqrt(n_a * n_b * (n - n_a) * (n - n_b))
    contexts, strongest = _shared(rows_a, of_a, rows_b, of_b)
    return FeatureOverlap(
        a=a,
        b=b,
        n_a=n_a,
        n_b=n_b,
        n_both=both,
        n_rows=n,
        n_contexts=contexts,
        jaccard=_share(both, n_a + n_b - both),
        phi=(n * both - n_a * n_b) / spread if spread else None,
        lift=n * both / (n_a * n_b) if n_a and n_b else None,
        correlation=_correlation(of_a[in_a], of_b[in_b]),
        strongest=strongest,
    )


def _fired(
    analysis: Analysis, feature: int
) -> tuple[Int64[np.ndarray, " firing"], Float64[np.ndarray, " firing"]]:
    """Return where a feature fires, context and position in one number, ascending, and its values."""
    lines = analysis.rows("firings_by_feature", [feature])
    context, position, value = (
        np.from_dlpack(lines[name].combine_chunks()) for name in ("context", "position", "value")
    )
    return (context.astype(np.int64) << 16) + position.astype(np.int64), value.astype(np.float64)


def _shared(
    rows_a: Int64[np.ndarray, " _"],
    of_a: Float64[np.ndarray, " _"],
    rows_b: Int64[np.ndarray, " _"],
    of_b: Float64[np.ndarray, " _"],
) -> tuple[int, tuple[int, ...]]:
    """Return in how many contexts two features fire, and those in which the weaker one is strongest."""
    contexts_a, peaks_a = _peaks(rows_a, of_a)
    contexts_b, peaks_b = _peaks(rows_b, of_b)
    shared, in_a, in_b = np.intersect1d(
        contexts_a, contexts_b, assume_unique=True, return_indices=True
    )
    weaker = np.minimum(peaks_a[in_a], peaks_b[in_b])
    order = np.lexsort((shared, -weaker))[:_STRONGEST]
    return len(shared), tuple(shared[order].tolist())


def _peaks(
    rows: Int64[np.ndarray, " firing"], values: Float64[np.ndarray, " firing"]
) -> tuple[Int64[np.ndarray, " pair"], Float64[np.ndarray, " pair"]]:
    """Return the contexts in which a feature fires, and its largest value in each."""
    contexts, starts = np.unique(rows >> 16, return_index=True)
    return contexts, np.maximum.reduceat(values, starts) if len(starts) else values


def _correlation(
    x: Float64[np.ndarray, " firing"], y: Float64[np.ndarray, " firing"]
) -> float | None:
    """Return Pearson's correlation, from centred values; None where one of them does not vary."""
    if len(x) < 2:  # noqa: PLR2004 - a correlation is one of pairs
        return None
    x, y = x - x.mean(), y - y.mean()
    spread = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / spread if spread else None


def overlaps(passages: Passages, k: int, by_chance: float) -> pa.Table:
    """Return the overlap of every two of some texts (`OVERLAPS`).

    Args:
        passages: The texts.
        k: Strongest features of each that count.
        by_chance: What `expected` says.
    """
    table = passages.strongest(k)
    features: list[set[int]] = [set() for _ in passages.names]
    for text, feature in zip(*(table[c].to_pylist() for c in ("text", "feature")), strict=True):
        features[text].add(feature)
    pairs = list(combinations(range(len(features)), 2))
    shared = [sorted(features[a] & features[b]) for a, b in pairs]
    either = [len(features[a] | features[b]) for a, b in pairs]
    return arrow.rows(
        OVERLAPS,
        {
            "a": [a for a, _ in pairs],
            "b": [b for _, b in pairs],
            "n_a": [len(features[a]) for a, _ in pairs],
            "n_b": [len(features[b]) for _, b in pairs],
            "overlap": [len(each) for each in shared],
            "jaccard": [_share(len(s), n) for s, n in zip(shared, either, strict=True)],
            "expected": [by_chance] * len(pairs),
            "shared": shared,
        },
    )


def _share(n: int, of: int) -> float | None:
    return n / of if of else None
