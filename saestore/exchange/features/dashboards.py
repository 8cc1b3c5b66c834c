"""What SAEDashboard and Neuronpedia show of a feature, made once for both from an analysis's tables.

Names of fields and roundings are SAEDashboard's (sae-dashboard 0.8.0), numbers are ours: a value is the
coefficient of the decoder vector as this lake stores it, densities are exact, and what correlates with a
feature is looked for among all features.

What it lists as correlated with neurons needs the activations themselves and stays empty.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from saestore import dictionaries
from saestore.errors import ConfigError
from saestore.exchange.features.sources import Source
from saestore.features import Analysis
from saestore.features.page import Example, ExampleGroup, FeaturePage
from saestore.lake import Ref
from saestore_schemas.dashboards import DashboardSettings


BINS = 50
"""Bars of a histogram."""
LISTED = 3
"""Neurons and features listed in a table."""
DECIMALS = 3
"""Of every number but shares."""
SHARE_DECIMALS = 5
"""Of a share, which SAEDashboard writes as a percentage with three."""


@dataclass(frozen=True)
class Shown:
    """One example as it is drawn there.

    Attributes:
        example: The example.
        subsample: Name of its subsample.
        stratum: Its stratum.
        first: Position of the first token shown in the context.
        tokens: The tokens' texts.
        values: The feature's values on them.
        qualifying: Place among them of the one it was chosen for.
        bin_min: Lower end of the part of the range it stands for; -1 of the strongest.
        bin_max: Upper end; of the strongest the feature's maximum.
        bin_contains: Share of all positions with a value in that part; -1 of the strongest.
    """

    example: Example
    subsample: str
    stratum: int
    first: int
    tokens: list[str]
    values: list[float]
    qualifying: int
    bin_min: float
    bin_max: float
    bin_contains: float


@dataclass(frozen=True)
class Dashboard:
    """One feature.

    Attributes:
        index: Its number in the source.
        page: Everything this lake knows about it.
        statistics: The fields that both tools have, by name.
        examples: The strongest first, then parts of the range, the highest first.
        vector: Its decoder vector, if it is wanted and known; else empty.
    """

    index: int
    page: FeaturePage
    statistics: dict[str, Any]
    examples: tuple[Shown, ...]
    vector: list[float]


@dataclass(frozen=True)
class Dashboards:
    """All features of a source as dashboards.

    Attributes:
        analysis: The analysis.
        settings: What is wanted.
        source: Which of its features they are, and what they write.
    """

    analysis: Analysis
    settings: DashboardSettings
    source: Source

    def made(self, features: Sequence[int]) -> Iterator[Dashboard]:
        """Yield the dashboards of some features, which are told by their numbers in the analysis."""
        wanted = {self.top, *([] if self.interval is None else [self.interval])}
        for page in self.analysis.pages(features, subsamples=wanted, related=False):
            yield self._dashboard(page)

    def missing(self) -> list[str]:
        """Return what dashboards will lack, and the setting of `analyze` that makes it."""
        tables = self.analysis.tables
        lacking = {
            "examples by parts of the range: analyze with subsamples.interval = "
            "{ kind = 'interval', q = 5, n = 5 }": self.interval is None,
            "tokens that features promote: analyze with logits": "logits" not in tables,
            "histograms of logit scores: an earlier release made this analysis, make it again": (
                "logits" in tables and not self._logit_histograms
            ),
            "correlated features: analyze with coactivation": "coactivation" not in tables,
            "decoder vectors and their neurons: features write to several layers": (
                self.source.output is None
            ),
            f"decoder vectors: {self.analysis.settings.dictionary} is not in the lake": (
                self.source.output is not None and self.vectors is None
            ),
        }
        return [what for what, lacks in lacking.items() if lacks]

    @cached_property
    def top(self) -> str:
        """Name of the subsample of the strongest contexts.

        Raises:
            ConfigError: The analysis has none, or none of the name that was given.
        """
        found = self._subsample("top", self.settings.top)
        if found is not None:
            return found
        raise ConfigError(
            field="top",
            found=", ".join(self.analysis.settings.subsamples) or "no subsample",
            expected="a subsample of kind top in the analysis",
            hint="analyze with subsamples.top = { kind = 'top', n = 20 }",
        )

    @cached_property
    def interval(self) -> str | None:
        """Name of the subsample by parts of the range, if there is one.

        Raises:
            ConfigError: The analysis has none of the name that was given.
        """
        return self._subsample("interval", self.settings.interval)

    @cached_property
    def vectors(self) -> Float32[np.ndarray, "feature d_out"] | None:
        """Decoder vectors in raw units; None of features of several, or without the dictionary."""
        lake, name = self.analysis.lake, self.analysis.settings.dictionary
        output = self.source.output
        if output is None or Ref("dictionary", name) not in lake.refs("dictionary"):
            return None
        loaded = dictionaries.load(lake, name).in_raw_units()
        vectors = loaded.decoder_vectors_at(output) if output else loaded.decoder_vectors()
        found: np.ndarray = vectors.detach().float().cpu().numpy()
        return found

    def _subsample(self, kind: str, named: str | None) -> str | None:
        known = self.analysis.settings.subsamples
        if named is None:
            return next((name for name, each in known.items() if each.kind == kind), None)
        if named in known and known[named].kind == kind:
            return named
        raise ConfigError(
            field=kind,
            found=named,
            expected=f"a subsample of kind {kind} in the analysis",
            hint=f"it has {', '.join(f'{n} ({s.kind})' for n, s in known.items()) or 'none'}",
        )

    def _dashboard(self, page: FeaturePage) -> Dashboard:
        values = self._values(page.feature)
        vector = None if self.vectors is None else self.vectors[page.feature]
        heights, places = _bars(values)
        return Dashboard(
            index=page.feature - self.source.features.start,
            page=page,
            statistics={
                **_aligned(vector),
                "correlated_neurons_indices": [],
                "correlated_neurons_l1": [],
                "correlated_neurons_pearson": [],
                **self._correlated(page.feature),
                **self._logits(page),
                "frac_nonzero": page.density,
                "freq_hist_data_bar_heights": heights,
                "freq_hist_data_bar_values": places,
                "decoder_weights_dist": [],
            },
            examples=tuple(self._shown(page, values)),
            vector=_rounded(vector) if self.settings.vectors and vector is not None else [],
        )

    def _values(self, feature: int) -> Float64[np.ndarray, " firing"]:
        """Return the strengths of a feature's firings: what bars and ranges are of."""
        firings = self.analysis.rows("firings_by_feature", [feature])
        values: np.ndarray = firings["value"].combine_chunks().to_numpy().astype(np.float64)
        strengths: np.ndarray = np.abs(values)
        return strengths

    def _logits(self, page: FeaturePage) -> dict[str, Any]:
        score = next((each for each in page.logits if each.head == self.source.head), None)
        n = self.settings.tokens
        promoted = score.promoted[:n] if score is not None else ()
        suppressed = score.suppressed[:n] if score is not None else ()
        drawn = None if score is None else page.of_scores(score)
        width = 0.0 if drawn is None else (drawn.hi - drawn.lo) / len(drawn.counts)
        return {
            "neg_str": [each.token for each in suppressed],
            "neg_values": _rounded(each.value for each in suppressed),
            "pos_str": [each.token for each in promoted],
            "pos_values": _rounded(each.value for each in promoted),
            "logits_hist_data_bar_heights": [] if drawn is None else list(drawn.counts),
            "logits_hist_data_bar_values": []
            if drawn is None
            else _rounded(drawn.lo + (at + 0.5) * width for at in range(len(drawn.counts))),
        }

    def _correlated(self, feature: int) -> dict[str, Any]:
        """Return the features whose values go with this one's most, of those that `coactivation` keeps.

        It keeps none for a feature that fires on every row. Moments are over all rows, the mean product
        over those that it counted: where that is all of them, correlation and cosine are exact.
        """
        found: list[tuple[float, float, int]] = []
        lines = (
            self.analysis.rows("coactivation", [feature]).to_pylist()
            if "coactivation" in self.analysis.tables
            else []
        )
        mean, square = self._moments
        for line in lines:
            other, product = line["other"], line["sum_product"] / line["n_rows"]
            spread = (square - mean**2)[[feature, other]].prod()
            if spread > 0 and other in self.source.features:
                pearson = (product - mean[feature] * mean[other]) / spread**0.5
                cosine = product / (square[feature] * square[other]) ** 0.5
                index = other - self.source.features.start
                found.append((min(pearson, 1.0), min(cosine, 1.0), index))
        found.sort(key=lambda each: (-each[0], each[2]))
        best = found[:LISTED]
        return {
            "correlated_features_indices": [other for _, _, other in best],
            "correlated_features_l1": _rounded(cosine for _, cosine, _ in best),
            "correlated_features_pearson": _rounded(pearson for pearson, _, _ in best),
        }

    @cached_property
    def _logit_histograms(self) -> int:
        """How many there are."""
        drawn = self.analysis.lazy("histograms").sql(
            "SELECT count(*) FROM self WHERE what LIKE 'logit:%'"
        )
        return int(drawn.collect().item())

    @cached_property
    def _moments(self) -> tuple[Float64[np.ndarray, " feature"], Float64[np.ndarray, " feature"]]:
        """Mean and mean square of every feature over all rows, silent ones included."""
        table = self.analysis.lazy("features").select("sum", "sum_sq").collect()
        rows = max(self.analysis.manifest.counts["rows"], 1)
        mean, square = (table[name].to_numpy() / rows for name in ("sum", "sum_sq"))
        return mean, square

    def _shown(self, page: FeaturePage, values: Float64[np.ndarray, " firing"]) -> Iterator[Shown]:
        groups = sorted(page.groups, key=lambda group: -group.stratum)
        for group in groups:
            if group.subsample == self.top:
                ends = -1.0, round(page.max, DECIMALS), -1.0
                yield from (_example(group, each, ends) for each in group.examples)
        n_rows = page.provenance.n_rows
        for group in groups:
            if group.subsample == self.interval:
                ends = _part(values, page.max, group, n_rows)
                yield from (_example(group, each, ends) for each in group.examples)


def _part(
    values: Float64[np.ndarray, " firing"], most: float, group: ExampleGroup, n_rows: int
) -> tuple[float, float, float]:
    """Return the ends of a part of the range, and the share of positions in it, ends and zeros included."""
    lo, hi = (most * at / group.strata for at in (group.stratum, group.stratum + 1))
    inside = int(((values >= lo) & (values <= hi)).sum())
    if lo <= 0 <= hi:
        inside += n_rows - len(values)
    return round(lo, DECIMALS), round(hi, DECIMALS), round(inside / n_rows, SHARE_DECIMALS)


def _example(group: ExampleGroup, example: Example, ends: tuple[float, float, float]) -> Shown:
    """Return an example without a BOS in front, which both tools cut."""
    pieces = example.tokens
    bos = example.window_start == 0 and pieces[0].special and not pieces[0].kept
    cut = int(bos and len(pieces) > 1)
    return Shown(
        example=example,
        subsample=group.subsample,
        stratum=group.stratum,
        first=example.window_start + cut,
        tokens=[piece.text for piece in pieces[cut:]],
        values=_rounded(piece.value for piece in pieces[cut:]),
        qualifying=example.peak_position - example.window_start - cut,
        bin_min=ends[0],
        bin_max=ends[1],
        bin_contains=ends[2],
    )


def _aligned(vector: Float32[np.ndarray, " d_out"] | None) -> dict[str, Any]:
    """Return the neurons that the decoder vector, at length 1, points along most, and their share of L1."""
    length = 0.0 if vector is None else float(np.linalg.norm(vector))
    if vector is None or length == 0:
        names = ("indices", "values", "l1")
        return {f"neuron_alignment_{name}": [] for name in names}
    unit = vector / length
    best = np.argsort(-unit, kind="stable")[:LISTED]
    return {
        "neuron_alignment_indices": best.tolist(),
        "neuron_alignment_values": _rounded(unit[best]),
        "neuron_alignment_l1": _rounded(np.abs(unit[best]) / np.abs(unit).sum()),
    }


def _bars(values: Float64[np.ndarray, " firing"]) -> tuple[list[int], list[float]]:
    """Return how many firings are in each of the equal bins from the smallest to the largest, and their middles."""
    if not len(values):
        return [], []
    lo, hi = float(values.min()), float(values.max())
    width = (hi - lo) / BINS
    scale = BINS / (hi - lo) if hi > lo else 0.0
    bins = np.minimum(((values - lo) * scale).astype(np.int64), BINS - 1)
    heights: list[int] = np.bincount(bins, minlength=BINS).tolist()
    return heights, _rounded(lo + (at + 0.5) * width for at in range(BINS))


def _rounded(values: Any) -> list[float]:
    # most tokens of an example have 0
    return [round(float(value), DECIMALS) if value else 0.0 for value in values]
