"""What changed between two analyses of one dictionary: of other rows, another corpus, more of it.

    z = (p_b - p_a) / sqrt(p (1 - p) (1 / n_a + 1 / n_b)),   p = (k_a + k_b) / (n_a + n_b)

says whether a feature fires more often in the second than chance allows, if rows are independent. Rows of one
context are not, so z is larger than it should be, for features that fire in bursts much larger. What both
analyses hold is counted once: rows in both are the first's, or the second's where it has no others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pyarrow as pa
from jaxtyping import Float64, Int64
from pydantic import JsonValue

from saestore.analyze.between.rows import counts_on, of_one_store, shared_rows
from saestore.errors import UnsupportedError
from saestore.features import Analysis, arrow
from saestore.lake import Lake
from saestore_schemas import tables


TOKENS = 10
"""Most frequent tokens that are compared."""
LEVEL = 0.05
"""Two-sided error over all features together (Bonferroni) of what is called significant."""

_LINES = """
SELECT f.feature, f.n_firings, f.max, f.mean, v.token AS top_token, t.tokens
FROM features f
LEFT JOIN (SELECT token_id, token FROM vocabulary) v ON v.token_id = f.top_token_id
LEFT JOIN (
    SELECT feature, list(token_id ORDER BY n DESC, token_id)[:$most] AS tokens
    FROM token_stats WHERE shift = 0 GROUP BY feature
) t ON t.feature = f.feature
ORDER BY f.feature
"""


@dataclass(frozen=True)
class Difference:
    """Two analyses of one dictionary.

    Attributes:
        one: The first, `series/name/analysis`.
        other: The second.
        facts: Rows of each and of both, those that z compares, and why there is no z if there is none.
        table: One line of each feature, as `tables.DIFFERENCES`.
    """

    one: str
    other: str
    facts: Mapping[str, JsonValue]
    table: pa.Table

    @property
    def changes(self) -> dict[str, int]:
        """How many features fire in both, are silent in both, woke or fell silent."""
        found = self.table["change"].to_pylist()
        return {name: found.count(name) for name in ("fires", "silent", "woke", "fell_silent")}

    @property
    def limit(self) -> float:
        """What z must be beyond to be significant at 5 %, all features counted (Bonferroni)."""
        return NormalDist().inv_cdf(1 - LEVEL / (2 * max(1, self.table.num_rows)))

    @property
    def significant(self) -> int | None:
        """Features with such a z; None where there is none at all."""
        known = [abs(z) for z in self.table["z"].to_pylist() if z is not None]
        return sum(z > self.limit for z in known) if known else None

    def most_changed(self, n: int) -> pa.Table:
        """Return the lines with the largest |z|, then those that woke or fell silent; at most n."""
        lines = self.table.to_pylist()
        moved = [x for x in lines if x["z"] is not None or x["change"] in {"woke", "fell_silent"}]
        moved.sort(key=lambda line: (-abs(line["z"] or 0.0), line["feature"]))
        return self.table.take(pa.array([line["feature"] for line in moved[:n]], pa.uint32()))


def diff(one: str, other: str, lake: Lake) -> Difference:
    """Return what each feature of a dictionary does in two analyses of it.

    Args:
        one: An analysis, `series/name/analysis`.
        other: Another one of the same dictionary.
        lake: The lake.

    Raises:
        ArtefactNotFoundError: There is no such analysis.
        UnsupportedError: They are of different dictionaries.
        DamagedArtefactError: A file is missing or cannot be read.
    """
    a, b = (Analysis.open(lake, name.removeprefix("features/")) for name in (one, other))
    _check(a, b)
    lines = [_lines(each) for each in (a, b)]
    counts = [each["n_firings"].to_numpy().astype(np.int64) for each in lines]
    rows = [each.manifest.counts["rows"] for each in (a, b)]
    facts: dict[str, JsonValue] = {"rows_a": rows[0], "rows_b": rows[1], "rows_shared": 0}
    compared = (counts[0], rows[0]), (counts[1], rows[1])
    if of_one_store(a, b):
        shared = shared_rows(a, b, None)
        common = shared.n_rows
        facts["rows_shared"] = common
        if common == rows[0] == rows[1]:
            facts["without_z"] = "both analyses are of the same rows"
        elif common:
            on = counts_on(a, shared.starts[0], shared)
            rest = 1 if rows[1] > common else 0  # the one that the shared rows are taken from
            less = compared[rest][0] - on, compared[rest][1] - common
            compared = (compared[0], less) if rest else (less, compared[1])
    facts |= {"compared_a": compared[0][1], "compared_b": compared[1][1]}
    z = np.full(a.n_features, np.nan) if "without_z" in facts else _z(*compared)
    return Difference(a.ref.name, b.ref.name, facts, _table(lines, rows, z))


def _check(a: Analysis, b: Analysis) -> None:
    """Refuse analyses of different dictionaries.

    Raises:
        UnsupportedError: They are.
    """
    of = [
        {p.fingerprint for p in each.manifest.parents if p.kind == "dictionary"} for each in (a, b)
    ]
    names = a.settings.dictionary, b.settings.dictionary
    if of[0] != of[1] or names[0] != names[1]:
        raise UnsupportedError(
            f"{a.ref.name} and {b.ref.name} are of different dictionaries",
            found=" and ".join(names),
            expected="two analyses of one dictionary",
            hint=f"features of two dictionaries: saestore match {a.ref.name} {b.ref.name}",
        )


def _lines(analysis: Analysis) -> pa.Table:
    return analysis.sql(_LINES, {"most": TOKENS})


def _z(
    one: tuple[Int64[np.ndarray, " feature"], int], other: tuple[Int64[np.ndarray, " feature"], int]
) -> Float64[np.ndarray, " feature"]:
    """Return the z of each feature; NaN where a proportion is undefined or all rows are alike."""
    (ka, na), (kb, nb) = one, other
    if not na or not nb:
        return np.full(len(ka), np.nan)
    p = (ka + kb) / (na + nb)
    scale = np.sqrt(p * (1 - p) * (1 / na + 1 / nb))
    with np.errstate(divide="ignore", invalid="ignore"):
        found: np.ndarray = (kb / nb - ka / na) / scale
    return np.where(scale > 0, found, np.nan)


def _table(
    lines: Sequence[pa.Table], rows: Sequence[int], z: Float64[np.ndarray, " feature"]
) -> pa.Table:
    a, b = lines
    fires = [np.asarray(each["n_firings"].to_numpy()) > 0 for each in lines]
    kinds = np.array(["silent", "fell_silent", "woke", "fires"])
    columns = {
        "feature": a["feature"],
        "z": arrow.column(np.nan_to_num(z), pa.float64(), null=np.isnan(z)),
        "tokens_jaccard": list(map(_jaccard, a["tokens"].to_pylist(), b["tokens"].to_pylist())),
        "change": kinds[fires[0] + 2 * fires[1]].tolist(),
    }
    for name, each, n in (("a", a, rows[0]), ("b", b, rows[1])):
        counts = each["n_firings"].to_numpy().astype(np.float64)
        columns[f"density_{name}"] = (counts / n).tolist() if n else [None] * len(counts)
        for column in ("n_firings", "max", "mean", "top_token"):
            columns[f"{column}_{name}"] = each[column].combine_chunks()
    return arrow.rows(tables.DIFFERENCES.schema(), columns)


def _jaccard(a: list[int] | None, b: list[int] | None) -> float | None:
    if not a or not b:
        return None
    return len(set(a) & set(b)) / len(set(a) | set(b))
