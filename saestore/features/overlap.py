"""How many of their strongest features texts share, and how many they would by chance.

    expected = Σ_f P(f)²        P(f): share of contexts with f among their strongest k

That is the overlap of two contexts of the analysis drawn independently. A few features that are among
the strongest nearly everywhere make it large, so a number shared says little without it. Texts much
shorter than the contexts analysed share fewer by chance than it says.
"""

from itertools import combinations
from typing import Any

import pyarrow as pa

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
