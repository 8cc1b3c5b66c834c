"""Settings of `saestore analyze`: what every feature does, as Parquet."""

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from saestore_schemas.activations import HeadSettings, one_place
from saestore_schemas.base import Model
from saestore_schemas.names import ArtefactName, DictionaryOrCheckpoint, HookpointName


class TopSubsample(Model):
    """The contexts with the largest peaks."""

    kind: Literal["top"] = "top"
    """Discriminator."""
    n: int = Field(default=20, ge=1)
    """Contexts kept; fewer if fewer fire."""
    window: int | None = Field(default=64, ge=1)
    """Tokens around the peak; null, the whole context."""


class QuantileSubsample(Model):
    """Contexts drawn at random from equal-count strata of the peak, lowest stratum first."""

    kind: Literal["quantile"] = "quantile"
    """Discriminator."""
    q: int = Field(default=10, ge=1, le=255)
    """Strata."""
    n: int = Field(default=5, ge=1)
    """Contexts kept in each stratum."""
    window: int | None = Field(default=64, ge=1)
    """Tokens around the peak; null, the whole context."""


class UniformSubsample(Model):
    """Contexts drawn at random among those where the feature fires."""

    kind: Literal["uniform"] = "uniform"
    """Discriminator."""
    n: int = Field(default=20, ge=1)
    """Contexts kept."""
    window: int | None = Field(default=64, ge=1)
    """Tokens around the peak; null, the whole context."""


class SilentSubsample(Model):
    """Contexts drawn at random among those where the feature never fires."""

    kind: Literal["silent"] = "silent"
    """Discriminator."""
    n: int = Field(default=20, ge=1)
    """Contexts kept."""
    window: int | None = Field(default=64, ge=1)
    """Tokens from the start of the context; null, the whole context."""


class ProportionSubsample(Model):
    """The contexts with the largest peaks not above a share of the feature's maximum.

    llamascopium's rule with the final maximum instead of the running one, so that no order of contexts
    matters: p = 1 gives its `top_activations`, p = 0.3 with silent contexts its `non_activating`. Those
    fire weakly: take `silent` for contexts that do not.
    """

    kind: Literal["proportion"] = "proportion"
    """Discriminator."""
    p: float = Field(gt=0, le=1)
    """Largest peak over the feature's maximum."""
    n: int = Field(default=20, ge=1)
    """Contexts kept."""
    window: int | None = Field(default=64, ge=1)
    """Tokens around the peak; null, the whole context."""
    include_silent: bool = False
    """Fill up with contexts where it never fires, the first ones."""


class IntervalSubsample(Model):
    """Contexts drawn at random from equal parts of the range from 0 to the maximum, lowest part first."""

    kind: Literal["interval"] = "interval"
    """Discriminator."""
    q: int = Field(default=10, ge=1, le=255)
    """Parts."""
    n: int = Field(default=5, ge=1)
    """Contexts kept of each part."""
    window: int | None = Field(default=64, ge=1)
    """Tokens around the peak; null, the whole context."""


class NearSubsample(Model):
    """Hard negatives: contexts where the feature never fires and a feature like it does.

    Like it are the first of those that fire with it (`coactivation`, by phi) and of those whose decoder
    vector points the same way (`neighbours`, by `dec_cos`), nearest first: rank 0 of the one list, rank 0
    of the other, rank 1 of the one. A context counts for the nearest that fires in it and is shown where
    that one is largest; contexts come by the nearest, then at random.
    """

    kind: Literal["near"] = "near"
    """Discriminator."""
    n: int = Field(default=20, ge=1)
    """Contexts kept."""
    window: int | None = Field(default=64, ge=1)
    """Tokens around the other feature's peak; null, the whole context."""
    by: tuple[Literal["coactivation", "dec_cos"], ...] = Field(
        default=("coactivation", "dec_cos"), min_length=1
    )
    """Lists that like features are taken from; their tables must be asked for."""
    first: int = Field(default=10, ge=1, le=255)
    """How many of each list."""


class SameTokenSubsample(Model):
    """Hard negatives: contexts drawn at random that hold a feature's top token where it does not fire.

    The top token is the one it fires on most often. It may fire elsewhere in the context, on that token
    too: a context is shown at the first kept position that holds the token without a firing.
    """

    kind: Literal["same_token"] = "same_token"
    """Discriminator."""
    n: int = Field(default=20, ge=1)
    """Contexts kept."""
    window: int | None = Field(default=64, ge=1)
    """Tokens around the token; null, the whole context."""


Subsample = Annotated[
    TopSubsample
    | QuantileSubsample
    | UniformSubsample
    | SilentSubsample
    | ProportionSubsample
    | IntervalSubsample
    | NearSubsample
    | SameTokenSubsample,
    Field(discriminator="kind"),
]
"""Ways of choosing example contexts, one class each."""


class TokenSettings(Model):
    """Tokens that each feature fires on, those before them and those after them."""

    top_k: int = Field(default=32, ge=1, le=1024)
    """Kept of each: the first by number of firings, the first by sum of values and, of the tokens that a
    feature fires on, the first by lift."""
    min_n: int = Field(default=5, ge=1)
    """Fewest firings on a token that is kept for its lift."""


class NeighbourSettings(Model):
    """Features whose vectors point the same way."""

    top_k: int = Field(default=20, ge=1, le=1024)
    """Neighbours kept of each feature."""
    methods: tuple[Literal["dec_cos", "enc_cos"], ...] = ("dec_cos", "enc_cos")
    """Of which vectors the cosine is taken: decoder, encoder."""


class CoactivationSettings(Model):
    """Features that fire on the same rows, counted on contexts drawn at random."""

    rows: int = Field(default=1_000_000, ge=1)
    """Whole contexts are drawn until they have this many kept rows."""
    pairs: int = Field(default=2_000_000_000, ge=1)
    """Fewer contexts are used where these have more pairs of firings on one row than this, which is what
    counting takes: a thread counts some 300 million a second."""
    min_both: int = Field(default=10, ge=1)
    """Fewest rows on which both fire."""
    top_k: int = Field(default=64, ge=1, le=1024)
    """Features kept of each, the most correlated first."""


LogitScore = Literal["direction", "left_singular", "additive", "renormalised"]
"""What may be said of a feature and a token, in the order in which pages show it."""
LOGIT_SCORES: tuple[LogitScore, ...] = get_args(LogitScore)
"""All of them."""


class LogitSettings(Model):
    """Direct logit attribution of each feature's decoder vector."""

    scores: tuple[LogitScore, ...] | None = Field(default=None, min_length=1)
    """Which scores. `direction` is what the decoder vector alone does, per unit of value / final-norm scale;
    `additive` is that times the feature's mean value / final-norm scale, logits where it fires, and needs a
    store with `capture = ["final_norm_scale"]`; `renormalised` puts the vector through the final norm and
    the unembedding with all biases, as if it were a row. A feature of a molt writes another vector on each
    row: `direction` and `additive` are of the mean over its firings, and `left_singular`, which needs none, of the
    vector that its map writes most. Absent: `left_singular` of a molt, else `direction`, and `additive` where
    the store has the scale."""
    top_k: int = Field(default=10, ge=1)
    """Tokens kept at each end."""
    lm: str | dict[HookpointName, str] | None = None
    """Language model whose unembedding is used (hub name or directory); of heads in several models, by
    the name of a head. Absent, the one the store was made with."""

    @field_validator("scores")
    @classmethod
    def _no_repeats(cls, value: tuple[LogitScore, ...] | None) -> tuple[LogitScore, ...] | None:
        twice = [each for place, each in enumerate(value or ()) if each in (value or ())[:place]]
        if twice:
            msg = f"{twice[0]!r} stands twice"
            raise ValueError(msg)
        return value


_NEED_FIRINGS: dict[str, Any] = {"token_stats": None, "coactivation": None, "head_scaling": False}
"""Settings of what is counted from all firings of a feature, and what turns each off."""


class AnalyzeSettings(Model):
    """One analysis of one dictionary over one activation store."""

    name: ArtefactName = "default"
    """Name of the analysis beside the dictionary."""
    dictionary: DictionaryOrCheckpoint
    """The dictionary, `series/name`, or a checkpoint of it, `series/name@step`."""
    activations: ArtefactName | None = None
    """Activation store; absent, the one it was trained on, or the original if that is a scattered
    copy. Of a mix, one must be named."""
    heads: tuple[HeadSettings, ...] = ()
    """Hookpoints of several stores of the same contexts, by the names the dictionary has for them; absent,
    those it was trained on. Give this or `activations`, or neither."""
    rows: int | None = Field(default=None, ge=1)
    """Analyse whole contexts from the start of the store until this many rows are reached;
    absent, all of it."""
    value_dtype: Literal["float32", "float16"] = "float32"
    """How a firing's value is stored. float16 saves a third and refuses to overflow."""
    firings: Literal["both", "feature", "none"] = "both"
    """`both` sort orders, or by `feature` only (queries by context then scan). With `none` no firing is
    kept: counts, exact sums, extremes, histograms with fixed bins and the strongest contexts are; what needs
    all firings of a feature (quantiles, tokens, co-activation, other subsamples, latent scaling) is refused,
    and left out where it is not named."""
    ignore_tokens: tuple[int, ...] = ()
    """Token ids left out of this analysis beside those the store flags."""
    subsamples: dict[ArtefactName, Subsample] = {
        "top": TopSubsample(),
        "quantile": QuantileSubsample(),
        "silent": SilentSubsample(),
    }
    """Example groups by name; those given stand instead of these three."""
    logits: LogitSettings | None = LogitSettings()
    """Logit attribution; null skips it and loads no language model."""
    token_stats: TokenSettings | None = TokenSettings()
    """Tokens that features fire on, and those beside them; null skips it."""
    coactivation: CoactivationSettings | None = CoactivationSettings()
    """Features that fire together; null skips it."""
    neighbours: NeighbourSettings | None = NeighbourSettings()
    """Features with similar vectors; null skips it."""
    head_scaling: bool = True
    """Measure whether features of one head alone are absent from the others (latent scaling), of
    dictionaries that read and reconstruct several hookpoints. Rows are decoded for it."""
    seed: int = Field(default=0, ge=0)
    """Seed of the random subsamples."""
    memory_mib: int = Field(default=1024, ge=16, exclude=True)
    """Memory for sorting firings; more than this is spilled to disk. Never changes a result, so it
    is not part of the fingerprint."""

    @model_validator(mode="before")
    @classmethod
    def _nothing_that_needs_firings(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("firings") == "none":
            return {"subsamples": {"top": TopSubsample()}, **_NEED_FIRINGS, **given}
        return given

    @model_validator(mode="after")
    def _firings_are_there(self) -> Self:
        if self.firings != "none":
            return self
        wrong = [
            f"subsamples.{name} is of kind {each.kind}: only kind top is kept"
            for name, each in self.subsamples.items()
            if not isinstance(each, TopSubsample)
        ]
        wrong += [
            f"{name} needs them: set it to {'false' if without is False else 'null'}"
            for name, without in _NEED_FIRINGS.items()
            if getattr(self, name) != without
        ]
        if self.logits is not None and "additive" in (self.logits.scores or ()):
            wrong.append("logits.scores has additive, a mean over them: leave it out")
        if wrong:
            raise ValueError(f'firings = "none" keeps no firings, and {"; ".join(wrong)}')
        return self

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        one_place(self.activations, self.heads)
        return self

    @model_validator(mode="after")
    def _near_has_its_tables(self) -> Self:
        coactive = 0 if self.coactivation is None else self.coactivation.top_k
        wanted = self.neighbours
        alike = 0 if wanted is None or "dec_cos" not in wanted.methods else wanted.top_k
        kept = {
            "coactivation": (coactive, "coactivation.top_k"),
            "dec_cos": (alike, "neighbours.top_k with method dec_cos"),
        }
        for name, each in self.subsamples.items():
            if not isinstance(each, NearSubsample):
                continue
            for listed in each.by:
                most, setting = kept[listed]
                if most < each.first:
                    there = f"keeps {most}" if most else "is not asked for"
                    raise ValueError(
                        f"subsamples.{name} is near the first {each.first} features by {listed}, and "
                        f"{setting} {there}: ask for that table, or leave {listed} out of "
                        f"subsamples.{name}.by"
                    )
        return self
