"""Which feature of one dictionary is which of another, by weights and by what they do.

By decoder: the cosine of folded decoder vectors. By activations, where both were analysed on one store:
Pearson's correlation of values, and phi, that of firing with firing, over the rows they share, zeros
included. By each: the best partner of every feature, whether it is so mutually, and the pairing of all
features that makes the sum largest (Hungarian), where all pairs fit in memory.

A best match is largest of many, so it is large by chance too. The null says how large: the same search
after the coordinates of the second dictionary's decoder vectors are permuted, or the rows of its
activations, which leaves everything but the relation. p is the share of features that match as well
there, (1 + as well) / (1 + all), over all draws.

Source: matching by cosine and pairing as Paulo and Belrose 2025 (arXiv:2501.16615); by correlation as
Li et al. 2015 (arXiv:1511.07543). The nulls are ours.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Float64, Int64
from pydantic import JsonValue
from torch import Tensor

from saestore import devices, dictionaries
from saestore.analyze.between.correlation import METHODS, Best, Correlated, correlate
from saestore.analyze.between.rows import codes, of_one_store, shared_rows
from saestore.analyze.neighbours import Directions
from saestore.assignment import best_pairs
from saestore.errors import ConfigError, UnsupportedError
from saestore.features import Analysis, arrow
from saestore.lake import Lake
from saestore.progress import Progress, Silent
from saestore_schemas import tables


DECODER = "dec_cos"
PAIRED = 1 << 26
"""Pairs of features, at most, that are paired: twice 512 MiB."""
ROWS = 1_000_000
"""Shared rows that are counted, by default."""
DRAWS = 3
"""Permutations of the null, by default."""

_COSINES = 1 << 24
"""Cosines of one block."""
_SILENT = Silent()


@dataclass(frozen=True)
class Null:
    """How well features match by chance.

    Attributes:
        scores: Best score of every feature and draw, ascending.
    """

    scores: Float64[np.ndarray, " _"]

    def p(self, scores: Float64[np.ndarray, " feature"]) -> Float64[np.ndarray, " feature"]:
        """Return the share of features that match as well by chance; NaN of what matches nothing."""
        as_well = len(self.scores) - np.searchsorted(self.scores, scores, side="left")
        found: np.ndarray = (1 + as_well) / (1 + len(self.scores))
        return np.where(np.isnan(scores), np.nan, found)


@dataclass(frozen=True)
class Matched:
    """How features match by one method.

    Attributes:
        method: `dec_cos`, `pearson` or `phi`.
        best: Best partner of each feature.
        mutual: Whether each is its best partner's best partner.
        paired: Partner of each in the pairing; none where there are too many pairs.
        null: How well they match by chance; None without draws.
    """

    method: str
    best: Best
    mutual: np.ndarray
    paired: Best | None
    null: Null | None

    def summary(self) -> dict[str, float | int | None]:
        """Return in how many numbers: features with a match, mutual ones, quantiles, and the null's."""
        known = self.best.score[~np.isnan(self.best.score)]
        p = None if self.null is None else self.null.p(known)
        chance = None if self.null is None or not len(self.null.scores) else self.null.scores
        return {
            "features": len(known),
            "mutual": int(self.mutual.sum()),
            "median": float(np.median(known)) if len(known) else None,
            "chance_median": None if chance is None else float(np.median(chance)),
            "chance_max": None if chance is None else float(chance[-1]),
            "above_chance": None if chance is None else int((known > chance[-1]).sum()),
            "p_below_5_percent": None if p is None else int((p < 0.05).sum()),  # noqa: PLR2004 - as it says
        }


@dataclass(frozen=True)
class Match:
    """Features of one dictionary and their partners in another.

    Attributes:
        one: The first dictionary, `series/name`.
        other: The second.
        features: How many features each has.
        facts: What was compared: rows, contexts, draws, seed, and why a method is missing.
        methods: By each method.
    """

    one: str
    other: str
    features: tuple[int, int]
    facts: Mapping[str, JsonValue]
    methods: tuple[Matched, ...]

    @property
    def table(self) -> pa.Table:
        """One line of each feature of the first dictionary and method, as `tables.MATCHES`."""
        schema = tables.MATCHES.schema()
        parts = [_lines(each, schema) for each in self.methods]
        return pa.concat_tables(parts).sort_by([("feature", "ascending"), ("method", "ascending")])

    @property
    def agreeing(self) -> int | None:
        """Features whose mutual best partner is one by decoder and by values; None without either."""
        by = {each.method: each for each in self.methods}
        if not {DECODER, "pearson"} <= by.keys():
            return None
        a, b = by[DECODER], by["pearson"]
        return int((a.mutual & b.mutual & (a.best.other == b.best.other)).sum())


def match(
    one: str,
    other: str,
    lake: Lake,
    *,
    rows: int | None = ROWS,
    draws: int = DRAWS,
    seed: int = 0,
    device: str = "auto",
    progress: Progress = _SILENT,
) -> Match:
    """Return the partners of one dictionary's features in another.

    Args:
        one: A dictionary, `series/name`, or an analysis of one, `series/name/analysis`.
        other: Another; the same one with another analysis compares by activations too.
        lake: The lake.
        rows: Shared rows to count, about, as whole contexts drawn at random; None, all.
        draws: Permutations of the null; 0, none.
        seed: Seed of the permutations.
        device: Torch device of the cosines; `auto` takes the best there is.
        progress: Where to report.

    Raises:
        ArtefactNotFoundError: There is no such dictionary or analysis, or several analyses.
        ConfigError: Rows or draws are negative.
        UnsupportedError: The dictionaries can be compared neither by weights nor by activations.
    """
    if draws < 0 or (rows is not None and rows < 1):
        raise ConfigError(
            field="--draws" if draws < 0 else "--rows",
            found=draws if draws < 0 else rows,
            expected="0 or more draws of the null, and 1 row or more",
        )
    sides = _Side.of(lake, one), _Side.of(lake, other)
    vectors = tuple(each.vectors(lake, devices.resolve(device)) for each in sides)
    facts: dict[str, JsonValue] = {"draws": draws, "seed": seed}
    found: list[Matched] = []
    if vectors[0].shape[1] == vectors[1].shape[1]:
        found.append(_by_decoder(vectors[0], vectors[1], draws, seed, progress))
    else:
        widths = " and ".join(str(each.shape[1]) for each in vectors)
        facts["without_decoder"] = f"decoder vectors of {widths} dimensions have no cosine"
    analyses = sides[0].analysis, sides[1].analysis
    if analyses[0] is None or analyses[1] is None:
        missing = " and ".join(each.dictionary for each in sides if each.analysis is None)
        facts["without_activations"] = f"not analysed: {missing}"
    elif not (analyses[0].keeps_firings and analyses[1].keeps_firings):
        without = " and ".join(x.ref.name for x in analyses if x and not x.keeps_firings)
        facts["without_activations"] = f"analysed without keeping firings: {without}"
    elif not of_one_store(analyses[0], analyses[1]):
        stores = " and ".join(each.provenance.activations for each in analyses if each is not None)
        facts["without_activations"] = f"analysed on different stores: {stores}"
    else:
        by, counted = _by_activations(analyses[0], analyses[1], rows, draws, seed, progress)
        found += by
        facts |= counted
    if not found:
        raise UnsupportedError(
            f"{one} and {other} cannot be matched",
            found=f"{facts['without_decoder']}; {facts['without_activations']}",
            expected="decoder vectors of one width, or analyses on one store",
            hint="analyse both on one store: saestore analyze",
        )
    sizes = len(vectors[0]), len(vectors[1])
    return Match(sides[0].dictionary, sides[1].dictionary, sizes, facts, tuple(found))


@dataclass(frozen=True)
class _Side:
    """A dictionary, and what it does if that is known."""

    dictionary: str
    analysis: Analysis | None

    @classmethod
    def of(cls, lake: Lake, name: str) -> "_Side":
        name = name.removeprefix("features/").removeprefix("dictionaries/").strip("/")
        analysed = any(ref.name.startswith(f"{name}/") for ref in lake.refs("features"))
        if not analysed and name.count("/") <= 1:
            return cls(name, None)
        analysis = Analysis.open(lake, name)
        return cls(analysis.settings.dictionary, analysis)

    def vectors(self, lake: Lake, device: torch.device) -> Float[Tensor, "d_sae _"]:
        loaded = dictionaries.load(lake, self.dictionary)
        with torch.no_grad():
            return loaded.in_raw_units().decoder_vectors().detach().float().to(device)


def _by_decoder(
    one: Float[Tensor, "d_sae d"],
    other: Float[Tensor, "feature d"],
    draws: int,
    seed: int,
    progress: Progress,
) -> Matched:
    rng = np.random.default_rng((seed, 1))
    with progress.task("cosines", total=(2 + draws) * len(one), unit="features") as task:
        best = _nearest(one, other, task.advance)
        back = _nearest(other, one, task.advance)
        chance = []
        for _ in range(draws):
            order = torch.from_numpy(rng.permutation(other.shape[1])).to(other.device)
            chance.append(_nearest(one, other[:, order], task.advance).score)
    paired = None
    if len(one) * len(other) <= PAIRED:
        every = np.concatenate(
            [
                Directions(one, other).block(low, min(low + step, len(one))).double().cpu().numpy()
                for step in [max(1, _COSINES // len(other))]
                for low in range(0, len(one), step)
            ]
        )
        paired = _paired(np.where(np.isinf(every), np.nan, every), progress)
    return Matched(DECODER, best, _mutual(best, back), paired, _null(chance))


def _nearest(
    one: Float[Tensor, "d_sae d"],
    other: Float[Tensor, "feature d"],
    advance: Callable[[int], None],
) -> Best:
    """Return the other vector of largest cosine of each vector, in float64; of equals the first."""
    directions, found = Directions(one, other), Best.none(len(one))
    step = max(1, _COSINES // len(other))
    for first in range(0, len(one), step):
        stop = min(first + step, len(one))
        feature, _, partner, score = directions.nearest(first, stop, k=1)
        found.other[feature] = partner
        found.score[feature] = score
        advance(stop - first)
    return found


def _by_activations(
    one: Analysis,
    other: Analysis,
    most: int | None,
    draws: int,
    seed: int,
    progress: Progress,
) -> tuple[list[Matched], dict[str, JsonValue]]:
    rows = shared_rows(one, other, most)
    sides = [
        codes(each, start, rows) for each, start in zip((one, other), rows.starts, strict=True)
    ]
    facts: dict[str, JsonValue] = {"rows": rows.n_rows, "contexts": rows.contexts}
    if not rows.n_rows:
        return [], {"without_activations": "the analyses have no row in common"}
    own = np.arange(len(rows.kept))
    rng = np.random.default_rng((seed, 2))
    kept = np.flatnonzero(rows.kept)
    whole = one.n_features * other.n_features <= PAIRED
    chance: dict[str, list[Float64[np.ndarray, " feature"]]] = {name: [] for name in METHODS}
    with progress.task("correlations", total=1 + draws, unit="passes") as task:
        found = correlate(sides[0], sides[1], own, whole=whole)
        task.advance(1)
        for _ in range(draws):
            moved = own.copy()
            moved[kept] = rng.permutation(kept)
            for name, each in correlate(sides[0], sides[1], moved, whole=False).items():
                chance[name].append(each.forth.score)
            task.advance(1)
    return [_matched(name, found[name], chance[name], progress) for name in METHODS], facts


def _matched(
    name: str,
    found: Correlated,
    chance: list[Float64[np.ndarray, " feature"]],
    progress: Progress,
) -> Matched:
    paired = _paired(found.all, progress) if found.all.size else None
    return Matched(name, found.forth, _mutual(found.forth, found.back), paired, _null(chance))


def _mutual(forth: Best, back: Best) -> np.ndarray:
    known = forth.other >= 0
    mutual: np.ndarray = known & (back.other[forth.other] == np.arange(len(forth.other)))
    return mutual


def _paired(every: Float64[np.ndarray, "feature _"], progress: Progress) -> Best:
    """Return the pairing with the largest sum of scores; pairs without a score count as the worst."""
    found = Best.none(len(every))
    pairs = min(every.shape)
    with progress.task("pairing", total=pairs, unit="pairs") as task:
        rows, columns = best_pairs(np.nan_to_num(every, nan=-2.0))
        task.advance(pairs)
    scores = every[rows, columns]
    known = ~np.isnan(scores)
    found.other[rows[known]] = columns[known]
    found.score[rows[known]] = scores[known]
    return found


def _null(chance: list[Float64[np.ndarray, " feature"]]) -> Null | None:
    if not chance:
        return None
    scores = np.concatenate(chance)
    return Null(np.sort(scores[~np.isnan(scores)]))


def _lines(found: Matched, schema: pa.Schema) -> pa.Table:
    n = len(found.best.other)
    paired = found.paired or Best.none(n)
    p = np.full(n, np.nan) if found.null is None else found.null.p(found.best.score)
    columns = {
        "feature": np.arange(n, dtype=np.uint32),
        "method": arrow.repeated(found.method, n),
        "other": _partner(found.best.other),
        "score": _number(found.best.score),
        "mutual": found.mutual,
        "p": _number(p),
        "paired": _partner(paired.other),
        "paired_score": _number(paired.score),
    }
    return arrow.rows(schema, columns)


def _partner(other: Int64[np.ndarray, " feature"]) -> "pa.Array[pa.UInt32Scalar]":
    return arrow.column(np.maximum(other, 0).astype(np.uint32), pa.uint32(), null=other < 0)


def _number(x: Float64[np.ndarray, " feature"]) -> "pa.Array[pa.DoubleScalar]":
    return arrow.column(np.nan_to_num(x), pa.float64(), null=np.isnan(x))
