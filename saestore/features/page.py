"""One feature, whole: everything that a terminal, a web page or a JSON reader draws.

Every number here stands in a table of the analysis; nothing is computed that SQL would not give.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from saestore.features.explanations import Explanation, best
from saestore.features.making import LazySequence
from saestore_schemas.annotations import AnnotationEvent


@dataclass(frozen=True)
class TokenPiece:
    """One token of an example.

    Attributes:
        text: Its piece of the context's text; the pieces concatenate to the text. Empty for a
            token that only completes a character of the token before.
        value: The feature's value here, with its sign; 0 where it is silent.
        special: It is a control token of the tokenizer, such as BOS.
        kept: It was analysed; tokens that were not never carry a value.
    """

    text: str
    value: float
    special: bool
    kept: bool


@dataclass(frozen=True)
class Read:
    """What an earlier position adds to a value, of features that attend.

    Attributes:
        position: Position in the context; None: all others together.
        text: Its piece of the context's text; empty for those together.
        value: How much it adds.
    """

    position: int | None
    text: str
    value: float


@dataclass(frozen=True)
class Example:
    """One context, cut to its window.

    Attributes:
        context: Row of `contexts`.
        rank: Rank inside its stratum, from 0.
        peak: The feature's largest strength in the context, whatever its sign; 0 if it is silent there.
        peak_position: First position with that value.
        window_start: Position of the first token shown.
        n_positions: Tokens in the whole context; the window may show fewer.
        source: Corpus source of the context's first document.
        document: Index of the document at the peak in the store.
        document_id: Its id.
        tokens: The window.
        reads: What the value at the peak is the sum of, of features that attend; else none.
    """

    context: int
    rank: int
    peak: float
    peak_position: int
    window_start: int
    n_positions: int
    source: str
    document: int
    document_id: str
    tokens: tuple[TokenPiece, ...]
    reads: tuple[Read, ...] = ()

    @property
    def peak_token(self) -> str:
        """The token at the peak's position: of a hard negative, the one that it is about."""
        return self.tokens[self.peak_position - self.window_start].text

    def cut(self, around: int) -> "Example":
        """Return it with at most `around` tokens on each side of its peak."""
        centre = self.peak_position - self.window_start
        start = max(0, centre - around)
        tokens = self.tokens[start : centre + around + 1]
        return dataclasses.replace(self, tokens=tokens, window_start=self.window_start + start)


@dataclass(frozen=True)
class ExampleGroup:
    """The examples of one stratum of one subsample.

    Attributes:
        subsample: Name in the settings' `[subsamples.NAME]`.
        kind: How it was drawn, such as `top`.
        stratum: Stratum, from 0, lowest values first.
        strata: How many strata the subsample has.
        n_eligible: Contexts this stratum was drawn from.
        examples: By rank.
    """

    subsample: str
    kind: str
    stratum: int
    strata: int
    n_eligible: int
    examples: Sequence[Example]


@dataclass(frozen=True)
class Histogram:
    """Counts in equal bins from lo to hi (`log_value`: bins of a quarter octave).

    Attributes:
        what: `value`, `log_value`, `position`, `peak`, or `logit:` and the name of a score.
        lo: Lower end of the first bin.
        hi: Upper end of the last bin.
        counts: Firings (of `peak` contexts, of logit scores tokens) in each bin.
    """

    what: str
    lo: float
    hi: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class LogitToken:
    """A token that a feature's decoder vector promotes or suppresses."""

    token_id: int
    token: str
    value: float


@dataclass(frozen=True)
class LogitTable:
    """One score's ends and its distribution over the vocabulary.

    Attributes:
        score: Which score, such as `direction`.
        head: Head of a crosscoder; else 0.
        promoted: Largest scores first.
        suppressed: Smallest scores first.
        statistics: mean, std, skew, kurtosis, min, max; None where undefined.
    """

    score: str
    head: int
    promoted: Sequence[LogitToken]
    suppressed: Sequence[LogitToken]
    statistics: Mapping[str, float | None]


@dataclass(frozen=True)
class Written:
    """How much a feature writes to one of several hookpoints.

    Attributes:
        hookpoint: Where.
        norm: Length of what it writes there, in raw units.
        share: That over the sum of its lengths.
        nu_error: Latent scaling, of a head other than the feature's longest: near 1, it was shrunk
            away here; None where that was not measured.
        nu_reconstruction: The same: near 1, other features write it here.
    """

    hookpoint: str
    norm: float
    share: float
    nu_error: float | None = None
    nu_reconstruction: float | None = None


@dataclass(frozen=True)
class HeadPair:
    """How alike a feature's vectors at two hookpoints are.

    Attributes:
        one: A hookpoint it writes to.
        other: A later one.
        cosine: Of both vectors; None where one is zero or they differ in width.
        inner_product: Of both, in raw units; None where they differ in width.
    """

    one: str
    other: str
    cosine: float | None
    inner_product: float | None


@dataclass(frozen=True)
class TokenCount:
    """How often a token stands at or beside a feature's firings.

    Attributes:
        token_id: Which.
        token: Its text.
        n: Firings with it there.
        share: That over all firings: P(token | fires).
        sum: Sum of their values.
        max: Largest of them.
        lift: P(fires | token) over density, of tokens that it fires on; else None.
    """

    token_id: int
    token: str
    n: int
    share: float
    sum: float
    max: float
    lift: float | None


@dataclass(frozen=True)
class TokenTable:
    """Tokens at one place from a feature's firings, the most frequent first.

    Attributes:
        shift: 0 where it fires, -1 one before, +1 one after.
        tokens: Those kept.
    """

    shift: int
    tokens: Sequence[TokenCount]


@dataclass(frozen=True)
class Coactive:
    """A feature that fires on the same rows.

    Attributes:
        feature: Which.
        n_both: Rows on which both fire, of `n_rows`.
        n_rows: Rows counted.
        phi: Correlation of firing with firing.
        jaccard: n_both over rows on which either fires.
        lift: n_both over what chance would give.
        era: Its mean value where the feature fires, weighted by the feature's value.
    """

    feature: int
    n_both: int
    n_rows: int
    phi: float
    jaccard: float
    lift: float
    era: float


@dataclass(frozen=True)
class Neighbour:
    """A feature with a similar vector.

    Attributes:
        method: `dec_cos` or `enc_cos`.
        feature: Which.
        score: Cosine.
    """

    method: str
    feature: int
    score: float


@dataclass(frozen=True)
class Provenance:
    """Where the numbers come from.

    Attributes:
        activations: Name of the activation store.
        hookpoints: Hookpoints of the dictionary.
        n_rows: Kept rows analysed.
        n_contexts: Contexts analysed.
        fingerprint: Fingerprint of the analysis.
        created: When it was written, ISO 8601, UTC.
        parents: What it was made from, `kind/name`, to fingerprint.
        version: Release of saestore that wrote it; empty if it does not say.
        keeps_firings: Whether it has every firing.
    """

    activations: str
    hookpoints: tuple[str, ...]
    n_rows: int
    n_contexts: int
    fingerprint: str
    created: str
    parents: Mapping[str, str]
    version: str
    keeps_firings: bool = True


@dataclass(frozen=True)
class FeaturePage:
    """Everything about one feature.

    Attributes:
        series: Series of the dictionary.
        dictionary: Its name inside the series.
        analysis: Name of the analysis.
        feature: Which feature.
        n_features: Features of the dictionary.
        n_layers: Layers that features belong to; 1 where they belong to none.
        statistics: Its line of `features`, column by column; None where undefined.
        top_token: The token it fires on most often; None if it never fires.
        histograms: By what: `value`, `log_value`, `position`, `peak`, with counts of 0 if it never
            fires (without firings kept, only `log_value` and `position`); `logit:` and the name of each score, such as `logit:direction`, if logits were asked
            for.
        logits: One table for each score and head; none if logits were not asked for.
        writes: How much it writes to each hookpoint; none where the dictionary writes to one.
        pairs: How alike what a feature of a crosscoder writes at every two of them is; else none.
        tokens: Tokens where it fires, before and after; none if they were not asked for.
        coactive: Features that fire with it, the most correlated first; none likewise.
        neighbours: Features with similar vectors, nearest first for each method; none likewise.
        groups: Example groups in the order of the settings, strata lowest first.
        provenance: What was analysed.
        annotations: What people say of it now, in the order of fields and authors.
        explanations: What it stands for, going by each explainer of each run of `interpret`, those of the
            newest run last.
        unreadable: The runs of `interpret` that cannot be read, by path, and why: what they say is not here.
    """

    series: str
    dictionary: str
    analysis: str
    feature: int
    n_features: int
    n_layers: int
    statistics: Mapping[str, float | int | None]
    top_token: str | None
    histograms: Mapping[str, Histogram]
    logits: tuple[LogitTable, ...]
    writes: tuple[Written, ...]
    pairs: tuple[HeadPair, ...]
    tokens: tuple[TokenTable, ...]
    coactive: Sequence[Coactive]
    neighbours: Sequence[Neighbour]
    groups: tuple[ExampleGroup, ...]
    provenance: Provenance
    annotations: tuple[AnnotationEvent, ...] = ()
    explanations: tuple[Explanation, ...] = ()
    unreadable: Mapping[str, str] = field(default_factory=dict)

    @property
    def max(self) -> float:
        """The feature's largest value: what colours are scaled by; 0 if it never fires."""
        return float(self.statistics["max"] or 0.0)

    @property
    def n_firings(self) -> int:
        """Rows on which it fires."""
        return int(self.statistics["n_firings"] or 0)

    @property
    def keeps_firings(self) -> bool:
        """Whether the analysis has every firing: without, quantiles and tokens are not known."""
        return self.provenance.keeps_firings

    @property
    def density(self) -> float:
        """Share of kept rows on which it fires."""
        return float(self.statistics["density"] or 0.0)

    @property
    def explanation(self) -> Explanation | None:
        """The explanation with the largest mean score; None where there is none."""
        return best(self.explanations)

    def examples(self, subsample: str) -> tuple[Example, ...]:
        """Return the examples of one subsample, all strata; none if it has no such subsample."""
        return tuple(
            example
            for group in self.groups
            if group.subsample == subsample
            for example in group.examples
        )

    def of_scores(self, table: LogitTable) -> Histogram | None:
        """Return the histogram of a score over the vocabulary; None where an analysis has none."""
        name = f"logit:{table.score}"
        return self.histograms.get(name) or self.histograms.get(f"{name}:{table.head}")

    @property
    def density_bound(self) -> float | None:
        """What the density of a feature that never fired is below, at 95 %; None if it fires.

        One-sided: 1 - 0.05^(1/n_rows), about 3 / n_rows.
        """
        rows = self.provenance.n_rows
        return None if self.n_firings else rate_bound(rows)

    def cut(self, *, n: int, around: int) -> "FeaturePage":
        """Return it with at most `n` examples in a group, each cut to `around` tokens beside its peak."""
        groups = tuple(
            dataclasses.replace(group, examples=tuple(e.cut(around) for e in group.examples[:n]))
            for group in self.groups
        )
        return dataclasses.replace(self, groups=groups)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can say, tuples as lists."""
        plain: dict[str, Any] = _plain(self)
        return plain


def rate_bound(rows: int) -> float | None:
    """Return the one-sided 95 % bound on the rate of what did not happen in some rows; None without any.

    >>> round(rate_bound(3000), 6)
    0.000998
    """
    return 1 - 0.05 ** (1 / rows) if rows else None


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | LazySequence):
        return [_plain(item) for item in value]
    return value
