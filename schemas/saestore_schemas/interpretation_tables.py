"""Tables of a run of `saestore interpret`: what features stand for, and how well that holds."""

import pyarrow as pa

from saestore_schemas.columns import FEATURE
from saestore_schemas.table import Column, Table


def _list(item: pa.DataType) -> pa.DataType:
    return pa.list_(pa.field("item", item, nullable=False))


_PLACE = pa.struct(
    [
        pa.field("context", pa.uint32(), nullable=False),
        pa.field("position", pa.uint16(), nullable=False),
    ]
)

_ID = Column("interpretation_id", pa.string(), "`EXPLAINER/FEATURE`, unique in its run")
_EXPLAINER = Column("explainer", pa.string(), "name in `[explainers.NAME]`")
_SCORER = Column("scorer", pa.string(), "name in `[scorers.NAME]`")
_PROMPT_TOKENS = Column(
    "prompt_tokens", pa.uint64(), "tokens sent for it, as the endpoint counts them"
)
_COMPLETION_TOKENS = Column("completion_tokens", pa.uint64(), "tokens that came back")
_COST = Column(
    "cost", pa.float64(), "their price; null where the model's is not known", nullable=True
)

INTERPRETATIONS = Table(
    "interpretations",
    "What each feature stands for, going by each explainer: one line of each feature and explainer.",
    ("feature", "explainer"),
    (
        _ID,
        FEATURE,
        _EXPLAINER,
        Column("kind", pa.string(), "its kind, such as `quantile`"),
        Column("endpoint_model", pa.string(), "the model that was asked"),
        Column("prompt_version", pa.string(), "version of the prompt, such as `quantile-1`"),
        Column("prompt_hash", pa.string(), "SHA-256 of the prompt's version and text"),
        Column(
            "request_hash",
            pa.string(),
            "key of the request in the cassette; null where nobody was asked",
            nullable=True,
        ),
        Column("seed", pa.uint64(), "seed by which its examples were drawn"),
        Column("text", pa.string(), "the explanation; null where there is none", nullable=True),
        Column(
            "outcome",
            pa.string(),
            "`answered`; `unparsed`: no explanation could be read; `truncated`: it was cut before its end; "
            "`refused`: the endpoint would not answer; `no_examples`: none to be shown, nobody was asked",
        ),
        Column(
            "consistency",
            pa.uint8(),
            "how many examples it fits, going by the model: 1 few to 5 all; null where it does not say",
            nullable=True,
        ),
        Column(
            "complexity",
            pa.uint8(),
            "how complex it is, going by the model: 1 a token to 5 several ideas; null likewise",
            nullable=True,
        ),
        Column(
            "reasoning", pa.string(), "what the model thought aloud; null, nothing", nullable=True
        ),
        Column("explain_examples", _list(_PLACE), "contexts that were shown, and their peaks"),
        _PROMPT_TOKENS,
        _COMPLETION_TOKENS,
        _COST,
        Column(
            "created",
            pa.timestamp("s", tz="UTC"),
            "when the endpoint answered; null where nobody was asked",
            nullable=True,
        ),
    ),
)

INTERPRETATION_SCORES = Table(
    "interpretation_scores",
    "How well each explanation holds, going by each scorer. Undefined scores are null.",
    ("feature", "explainer", "scorer"),
    (
        _ID,
        FEATURE,
        _EXPLAINER,
        _SCORER,
        Column("kind", pa.string(), "its kind, such as `detection`"),
        Column("n", pa.uint32(), "examples it was asked about"),
        Column("n_parsed", pa.uint32(), "of these, answers that could be read"),
        Column("tp", pa.uint32(), "positives that were told to be"),
        Column("fp", pa.uint32(), "negatives that were told to be positives"),
        Column("tn", pa.uint32(), "negatives that were told to be"),
        Column("fn", pa.uint32(), "positives that were told to be negatives"),
        Column(
            "balanced_accuracy",
            pa.float64(),
            "mean of the shares of positives and of negatives that were told right, of answers that could "
            "be read; null without one of both kinds",
            nullable=True,
        ),
        Column(
            "balanced_accuracy_all",
            pa.float64(),
            "the same of all examples: what could not be read is wrong; null likewise",
            nullable=True,
        ),
        Column(
            "precision", pa.float64(), "tp / (tp + fp); null where that is 0 / 0", nullable=True
        ),
        Column("recall", pa.float64(), "tp / (tp + fn); null likewise", nullable=True),
        Column("f1", pa.float64(), "2 tp / (2 tp + fp + fn); null likewise", nullable=True),
        Column(
            "auroc",
            pa.float64(),
            "share of pairs of a positive and a negative of which the positive is the likelier, ties half "
            "(Mann-Whitney); null without one of both kinds",
            nullable=True,
        ),
        Column(
            "brier",
            pa.float64(),
            "mean squared distance of probability and label; null without probabilities",
            nullable=True,
        ),
        Column(
            "correlation",
            pa.float64(),
            "simulation: Pearson's r of told and true strengths over all tokens shown; null where either is constant",
            nullable=True,
        ),
        Column(
            "score",
            pa.float64(),
            "the one of these that this kind of scorer is known by: `balanced_accuracy`, of simulation "
            "`correlation`, of embedding `auroc`; null where that is",
            nullable=True,
        ),
        Column(
            "ci_low",
            pa.float64(),
            "lower end of the 95 % bootstrap interval of `score`, examples drawn with replacement; null without "
            "resampling or score",
            nullable=True,
        ),
        Column("ci_high", pa.float64(), "its upper end; null likewise", nullable=True),
        Column(
            "by_decile",
            pa.list_(pa.field("item", pa.float32())),
            "ten numbers: balanced accuracy, of embedding AUROC, with the positives of one decile of strength, weakest first, and "
            "all negatives; null where a decile has none that could be read; empty of simulation",
        ),
        Column(
            "why_null",
            pa.string(),
            "why `score` is null, in words; null where it is not",
            nullable=True,
        ),
        _PROMPT_TOKENS,
        _COMPLETION_TOKENS,
        _COST,
    ),
)

INTERPRETATION_ANSWERS = Table(
    "interpretation_answers",
    "What was answered about each example that an explanation was scored on.",
    ("feature", "explainer", "scorer", "example"),
    (
        _ID,
        FEATURE,
        _EXPLAINER,
        _SCORER,
        Column("example", pa.uint16(), "place among the scorer's examples of the feature, from 0"),
        Column("context", pa.uint32(), "row of `contexts`"),
        Column("position", pa.uint16(), "token at its centre: where a positive is strongest"),
        Column(
            "decile",
            pa.uint8(),
            "decile of strength of a positive, 0 weakest; null of negatives",
            nullable=True,
        ),
        Column(
            "negative_kind",
            pa.string(),
            "`silent`, `near`, `same_token`; of fuzzing `other_tokens`; null of positives",
            nullable=True,
        ),
        Column("label", pa.bool_(), "whether it is a positive"),
        Column(
            "outcome",
            pa.string(),
            "`right`, `wrong`, or `unparsed`; of simulation and embedding `answered` or `unparsed`",
        ),
        Column("answer", pa.bool_(), "what was told; null, it could not be read", nullable=True),
        Column(
            "probability",
            pa.float64(),
            "how likely it was told to be a positive; of embedding the cosine; null where neither was told",
            nullable=True,
        ),
        Column(
            "values",
            _list(pa.float32()),
            "simulation: the strength told of each token, 0 to 10; else empty",
        ),
        Column("request_hash", pa.string(), "key of the request in the cassette"),
    ),
)

TABLES = (INTERPRETATIONS, INTERPRETATION_SCORES, INTERPRETATION_ANSWERS)
"""All of a run, in the order they are written."""
