"""Every Parquet table of the lake: columns, types, meaning and sort order, written once.

Writers take their Arrow schema from here, readers check files against it, and the reference pages
are rendered from it. A change of meaning raises
`saestore_schemas.table.TABLE_VERSION`.
"""

import pyarrow as pa

from saestore_schemas import interpretation_tables, relation_tables
from saestore_schemas.annotations import ANNOTATIONS
from saestore_schemas.columns import CONTEXT, FEATURE, HEAD, TOKEN_ID
from saestore_schemas.table import Column, Table


def _list(item: pa.DataType) -> pa.DataType:
    return pa.list_(pa.field("item", item, nullable=False))


FILES = Table(
    "files",
    "Payload files of an artefact, beside its manifest.",
    ("path",),
    (
        Column("path", pa.string(), "path relative to the artefact, with forward slashes"),
        Column("bytes", pa.uint64(), "size"),
        Column("checksum", pa.string(), "`crc32c:` and eight hexadecimal digits"),
    ),
)

DOCUMENTS = Table(
    "documents",
    "Documents of an activation store; the corpus's metadata columns follow these.",
    ("document",),
    (
        Column("document", pa.uint64(), "index in the order of the store"),
        Column("document_id", pa.string(), "id given by the source"),
        Column("source", pa.string(), "which source it came from"),
        Column("n_tokens", pa.uint64(), "tokens of the whole document, none added"),
        Column("n_chars", pa.uint64(), "code points of the whole document; 0, unknown"),
        Column("text", pa.string(), "the whole text, if corpus.store_text is set", nullable=True),
    ),
)

VOCABULARY = Table(
    "vocabulary",
    "The tokenizer's vocabulary.",
    ("token_id",),
    (
        Column("token_id", pa.uint32(), "token id"),
        Column("token", pa.string(), "display form: the bytes decoded, undecodable ones U+FFFD"),
        Column("bytes", pa.binary(), "exact bytes the token stands for"),
        Column("special", pa.bool_(), "control token such as BOS or padding"),
        Column(
            "n_rows",
            pa.uint64(),
            "kept rows holding this token; in an activation store null",
            nullable=True,
        ),
    ),
)

_SEGMENT = pa.struct(
    [
        pa.field("document", pa.uint64(), nullable=False),
        pa.field("document_id", pa.string(), nullable=False),
        pa.field("start", pa.uint16(), nullable=False),
        pa.field("length", pa.uint16(), nullable=False),
        pa.field("document_offset", pa.uint64(), nullable=False),
    ]
)

CONTEXTS = Table(
    "contexts",
    "The contexts that were analysed, with their text.",
    ("context",),
    (
        Column("context", pa.uint32(), "0 to C-1, in the store's order"),
        Column("source", pa.string(), "corpus source of its first document"),
        Column("store_row", pa.uint64(), "row of its first token in the activation store"),
        Column("n_positions", pa.uint16(), "tokens in it"),
        Column("token_ids", _list(pa.uint32()), "all tokens, special ones included"),
        Column("ignored", _list(pa.uint16()), "positions that are not kept"),
        Column("kept_before", pa.uint64(), "kept rows in all earlier contexts"),
        Column(
            "segments",
            _list(_SEGMENT),
            "which document each stretch comes from, and its token offset there",
        ),
        Column("text", pa.string(), "decoded text of the whole context"),
        Column(
            "char_offsets",
            _list(pa.uint32()),
            "n_positions + 1 code-point offsets: token i is text[o[i]:o[i+1]]",
        ),
        Column(
            "shuffle_rank",
            pa.uint32(),
            "rank of the context by splitmix64(seed xor context), ties by context",
        ),
        Column("store_context", pa.uint64(), "index in the activation store"),
    ),
)


def firings(value: pa.DataType, order: str) -> Table:
    """Return the firings table in one of its two orders, `feature` or `context`."""
    sort = {
        "feature": ("feature", "context", "position"),
        "context": ("context", "position", "feature"),
    }[order]
    return Table(
        f"firings_by_{order}",
        f"Every firing: value > 0, of `abstopk` not 0. Sorted by {', '.join(sort)}.",
        sort,
        (
            Column("feature", pa.uint32(), "feature, 0 to n_features-1"),
            CONTEXT,
            Column("position", pa.uint16(), "position in the context, from 0"),
            Column(
                "value",
                value,
                "coefficient of the folded decoder vector: value times dec_norm is a length in "
                "raw units; its strength is its distance from zero",
            ),
        ),
    )


FIRINGS_BY_FEATURE = firings(pa.float32(), "feature")
FIRINGS_BY_CONTEXT = firings(pa.float32(), "context")


def head_firings(value: pa.DataType) -> Table:
    """Return the table of firings at each head of a crosscoder whose heads gate by themselves."""
    feature, *others = firings(value, "feature").columns
    return Table(
        "head_firings",
        "Every firing at each head, of crosscoders whose heads gate by themselves. Elsewhere a feature "
        "counts as firing where it does at some head, with the value furthest from zero.",
        ("feature", "head", "context", "position"),
        (
            feature,
            HEAD,
            *others,
        ),
    )


HEAD_FIRINGS = head_firings(pa.float32())

QUANTILES = {
    "q001": 1, "q01": 10, "q05": 50, "q10": 100, "q25": 250, "q50": 500,
    "q75": 750, "q90": 900, "q95": 950, "q99": 990, "q999": 999,
}  # fmt: skip
"""Quantile columns of `features` and their permille p: element max(1, ceil(p n / 1000))."""

FROM_ALL_FIRINGS = (*QUANTILES, "top_token_id", "top_token_share", "logit_scale")
"""Columns of `features` that only all firings of a feature can tell: null where none are kept."""

FEATURES = Table(
    "features",
    "One line per feature, dead ones included; strengths are those of its firings' values.",
    ("feature",),
    (
        FEATURE,
        Column("layer", pa.uint16(), "layer of a cross-layer transcoder; else 0"),
        Column("index", pa.uint32(), "index within the layer; else the feature"),
        Column("n_rows", pa.uint64(), "kept rows analysed (same for all)"),
        Column("n_firings", pa.uint64(), "rows on which it fires"),
        Column("density", pa.float64(), "n_firings / n_rows"),
        Column("n_contexts", pa.uint32(), "contexts with at least one firing"),
        Column("sum", pa.float64(), "sum of its values"),
        Column("sum_sq", pa.float64(), "sum of the squares of its values"),
        Column("mean", pa.float64(), "sum / n_firings; null if it never fires", nullable=True),
        Column(
            "std",
            pa.float64(),
            "population standard deviation over its firings; null if it never fires",
            nullable=True,
        ),
        Column("max", pa.float32(), "largest strength; null if it never fires", nullable=True),
        Column("max_context", pa.uint32(), "where: first context with it", nullable=True),
        Column("max_position", pa.uint16(), "where: first position with it", nullable=True),
        Column("min", pa.float32(), "smallest strength; null if it never fires", nullable=True),
        *(
            Column(
                name,
                pa.float32(),
                f"discrete {permille / 10:g} % quantile of its strengths; null if it never fires, or "
                'with `firings = "none"`',
                nullable=True,
            )
            for name, permille in QUANTILES.items()
        ),
        Column(
            "first_row",
            pa.uint64(),
            "kept rows before its first firing; null if it never fires. Dead in the first N rows: "
            "null or >= N",
            nullable=True,
        ),
        Column(
            "first_position_share",
            pa.float64(),
            "share of firings at the first kept position of a context; null if it never fires",
            nullable=True,
        ),
        Column(
            "top_token_id",
            pa.uint32(),
            'token it fires on most often; null if never, or with `firings = "none"`',
            nullable=True,
        ),
        Column(
            "top_token_share",
            pa.float64(),
            "share of firings on that token; null likewise",
            nullable=True,
        ),
        Column("enc_norm", pa.float32(), "length of the folded encoder vector"),
        Column("dec_norm", pa.float32(), "length of the folded decoder vector, raw units"),
        Column(
            "enc_dec_cos",
            pa.float32(),
            "cosine of encoder and decoder vector; null where shapes differ or one is zero",
            nullable=True,
        ),
        Column("b_enc", pa.float32(), "folded encoder bias"),
        Column(
            "threshold",
            pa.float32(),
            "threshold, if the activation has one of each feature",
            nullable=True,
        ),
        Column(
            "rank",
            pa.uint16(),
            "rank of its linear map, of a molt; null where features write vectors",
            nullable=True,
        ),
        Column(
            "logit_scale",
            pa.float64(),
            "mean over firings of value / final-norm scale; null without captured scales, or with "
            '`firings = "none"`',
            nullable=True,
        ),
        Column(
            "sample_offset",
            pa.uint32(),
            "splitmix64(splitmix64(seed) xor feature) mod C: offset of its random order",
        ),
    ),
)

HISTOGRAMS = Table(
    "histograms",
    "Histograms of each feature's strengths and logit scores, by name.",
    ("feature", "what"),
    (
        FEATURE,
        Column(
            "what",
            pa.string(),
            "`value`: strengths in 50 equal bins on [0, max]; `log_value`: edges 2^(k/4), k = -96 to 63; "
            "`peak`: as value, over context maxima; `position`: 32 equal bins over context_size; "
            "`logit:SCORE` (of several heads `logit:SCORE:HEAD`): 50 equal bins over the vocabulary, "
            "of each score in `logits`",
        ),
        Column("lo", pa.float32(), "lower end of the first bin"),
        Column("hi", pa.float32(), "upper end of the last bin"),
        Column(
            "counts", _list(pa.uint64()), "firings (`peak`: contexts, `logit`: tokens) in each bin"
        ),
    ),
)

EXAMPLES = Table(
    "examples",
    "Example contexts of each feature, by subsample.",
    ("feature", "subsample", "stratum", "rank"),
    (
        FEATURE,
        Column("subsample", pa.string(), "name in `[subsamples.NAME]`"),
        Column("stratum", pa.uint8(), "stratum, lowest first; 0 if not stratified"),
        Column("rank", pa.uint16(), "rank inside the stratum, from 0"),
        CONTEXT,
        Column(
            "peak_position",
            pa.uint16(),
            "first position with the largest strength; of `near` that of the other feature, of `same_token` "
            "the first that holds the token without a firing",
        ),
        Column(
            "peak",
            pa.float32(),
            "largest strength in the context; 0 for `silent`, `near` and `same_token`",
        ),
        Column("window_start", pa.uint16(), "first token of the window"),
        Column("window_length", pa.uint16(), "tokens in the window"),
        Column("positions", _list(pa.uint16()), "where the feature fires inside the window"),
        Column("values", _list(pa.float32()), "its values there"),
        Column("n_eligible", pa.uint32(), "contexts this stratum was drawn from"),
    ),
)

TOKEN_STATS = relation_tables.TOKEN_STATS
COACTIVATION = relation_tables.COACTIVATION
NEIGHBOURS = relation_tables.NEIGHBOURS
MATCHES = relation_tables.MATCHES
DIFFERENCES = relation_tables.DIFFERENCES

LOGITS = Table(
    "logits",
    "Tokens that each feature's decoder vector promotes and suppresses most.",
    ("feature", "score", "head", "sign", "rank"),
    (
        FEATURE,
        Column(
            "score",
            pa.string(),
            "`direction`: <P d, gamma * u_t>, mean over the vocabulary subtracted; `left_singular`: the "
            "same of the leading left singular vector of a molt's transform, times its singular value; "
            "`additive`: logit_scale times `direction`; of a molt both are means over firings, row by row; `renormalised`: d put through final norm and "
            "unembedding, with all biases",
        ),
        Column(
            "head",
            pa.uint16(),
            "place of the hookpoint among those a crosscoder reconstructs, each by itself; else 0",
        ),
        Column("sign", pa.int8(), "+1 promoted, -1 suppressed"),
        Column("rank", pa.uint16(), "rank, from 0"),
        TOKEN_ID,
        Column(
            "value",
            pa.float32(),
            "the score: per unit of value / final-norm scale, `additive` and `renormalised` in logits",
        ),
    ),
)

LOGIT_STATS = Table(
    "logit_stats",
    "Distribution of each feature's logit scores over the vocabulary.",
    ("feature", "score", "head"),
    (
        FEATURE,
        Column("score", pa.string(), "as in `logits`"),
        Column("head", pa.uint16(), "as in `logits`"),
        Column("mean", pa.float32(), "mean, before it is subtracted; of `renormalised` it is not"),
        Column("std", pa.float32(), "population standard deviation"),
        Column("skew", pa.float32(), "skewness; null if std is 0", nullable=True),
        Column("kurtosis", pa.float32(), "kurtosis (normal: 3); null if std is 0", nullable=True),
        Column("min", pa.float32(), "smallest score"),
        Column("max", pa.float32(), "largest score"),
    ),
)

DECODERS = Table(
    "decoders",
    "How much each feature writes to each output hookpoint, of dictionaries with several; no line where "
    "it writes nothing.",
    ("feature", "head"),
    (
        FEATURE,
        HEAD,
        Column("hookpoint", pa.string(), "the hookpoint"),
        Column("norm", pa.float32(), "length of what it writes there, folded, raw units"),
        Column("relative_norm", pa.float32(), "that over the sum of the feature's lengths"),
    ),
)

DECODER_PAIRS = Table(
    "decoder_pairs",
    "How alike what each feature of a crosscoder writes at one head is to what it writes at another.",
    ("feature", "head_a", "head_b"),
    (
        FEATURE,
        Column("head_a", pa.uint16(), "place of a hookpoint among those it reconstructs"),
        Column("head_b", pa.uint16(), "the same or a later one"),
        Column(
            "cosine",
            pa.float32(),
            "of both decoder vectors; null where one is zero, or hookpoints differ in width",
            nullable=True,
        ),
        Column(
            "inner_product",
            pa.float32(),
            "of both, folded, raw units; of a head with itself its length squared; null where hookpoints "
            "differ in width",
            nullable=True,
        ),
    ),
)

HEAD_SCALING = Table(
    "head_scaling",
    "Latent scaling (arXiv:2504.02922): whether what a feature writes at its longest head, the owner, is there "
    "at the others too. One line of each feature and head, of dictionaries with several that read them.",
    ("feature", "head"),
    (
        FEATURE,
        HEAD,
        Column("hookpoint", pa.string(), "the hookpoint, or the name of the head"),
        Column("owner", pa.uint16(), "the head at which its decoder vector is longest"),
        Column("n_firings", pa.uint64(), "kept rows on which it fires"),
        Column(
            "norm_ratio",
            pa.float32(),
            "length of its decoder vector here over that at the owner, in normalised units; null if it "
            "writes nothing",
            nullable=True,
        ),
        Column(
            "beta_error",
            pa.float32(),
            "least-squares scale of the owner's vector on what is left here without the feature; null if "
            "it never fires, or widths differ",
            nullable=True,
        ),
        Column(
            "beta_reconstruction",
            pa.float32(),
            "the same on what all features write here, and null where that is",
            nullable=True,
        ),
        Column(
            "nu_error",
            pa.float32(),
            "beta_error over the owner's; null if either is, or the owner's is 0",
            nullable=True,
        ),
        Column(
            "nu_reconstruction",
            pa.float32(),
            "beta_reconstruction over the owner's; null likewise, if either is",
            nullable=True,
        ),
    ),
)

REMAINDER = 65_535
"""Key of the line with what is left of a sum; no context is that long."""

ATTENTION = Table(
    "attention",
    "What earlier rows a feature reads from where it fires in its examples, of dictionaries that attend: "
    "lines of one firing sum to its value.",
    ("feature", "context", "query", "key"),
    (
        FEATURE,
        CONTEXT,
        Column("query", pa.uint16(), "position where it fires"),
        Column(
            "key",
            pa.uint16(),
            "position that is attended to; 65535: all others together, each below 1 % of the sum",
        ),
        Column(
            "value", pa.float32(), "how much the key adds: attention times value, A (x w_V + b_V)"
        ),
    ),
)

METRICS = Table(
    "metrics",
    "Metrics of a training run, long form.",
    ("step", "name", "index"),
    (
        Column("step", pa.int64(), "optimiser steps done"),
        Column("rows", pa.int64(), "rows seen"),
        Column("name", pa.string(), "metric, such as `loss` or `l0_mean`"),
        Column("index", pa.int32(), "element of a vector metric; 0 for scalars"),
        Column("value", pa.float64(), "value; null where undefined", nullable=True),
    ),
)

SCORES = Table(
    "scores",
    "Metrics of one evaluation.",
    ("metric",),
    (
        Column("metric", pa.string(), "name, as the reference defines it"),
        Column("value", pa.float64(), "value; null where undefined", nullable=True),
        Column("unit", pa.string(), "unit; empty for ratios"),
        Column("n", pa.uint64(), "rows, tokens or features it was computed from"),
    ),
)

FEATURE_SCORES = Table(
    "feature_scores",
    "One line per feature of an evaluation, dead ones included.",
    ("feature",),
    (
        FEATURE,
        Column("n_firings", pa.uint64(), "evaluated rows it fires on"),
        Column("density", pa.float64(), "n_firings / rows; null without rows", nullable=True),
        Column(
            "mean", pa.float64(), "mean value of its firings; null if it never fires", nullable=True
        ),
        Column(
            "first_row",
            pa.uint64(),
            "evaluated rows before its first firing; null if it never fires",
            nullable=True,
        ),
        Column(
            "rate_bound",
            pa.float64(),
            "95 % upper bound on the rate of a feature that never fired, 1 - 0.05^(1/rows); null of "
            "one that did",
            nullable=True,
        ),
        Column("dec_norm", pa.float64(), "length of the folded decoder vector, raw units"),
        Column(
            "decoder_cosine_max",
            pa.float64(),
            "largest |cosine| with another decoder vector; null if not measured or a length is zero",
            nullable=True,
        ),
        Column("decoder_nearest", pa.uint32(), "that feature; null likewise", nullable=True),
        Column(
            "encoder_cosine_max",
            pa.float64(),
            "largest |cosine| with another encoder vector; null if not measured or a length is zero",
            nullable=True,
        ),
        Column("encoder_nearest", pa.uint32(), "that feature; null likewise", nullable=True),
        Column(
            "enc_dec_cosine",
            pa.float64(),
            "cosine of encoder and decoder vector; null where shapes differ or one is zero",
            nullable=True,
        ),
    ),
)

COMPARISON = Table(
    "comparison",
    "Scores of several dictionaries on the same rows and contexts.",
    ("metric", "dictionary"),
    (
        Column("metric", pa.string(), "as in `scores`"),
        Column("dictionary", pa.string(), "`series/name`"),
        Column("evaluation", pa.string(), "the evaluation it stands in"),
        Column("value", pa.float64(), "as in `scores`; null where undefined", nullable=True),
        Column("unit", pa.string(), "as in `scores`"),
        Column("n", pa.uint64(), "as in `scores`"),
    ),
)

RESULTS = Table(
    "results",
    "Dictionaries of a sweep.",
    ("series", "dictionary"),
    (
        Column("series", pa.string(), "series of the dictionary"),
        Column("dictionary", pa.string(), "its name"),
        Column("fingerprint", pa.string(), "that of its run"),
        Column("change", pa.string(), "what is its own: JSON of dotted setting to value"),
        Column("status", pa.string(), "`trained`, `stopped_early` or `diverged`"),
        Column("message", pa.string(), "why it diverged; empty otherwise"),
        Column("steps", pa.int64(), "optimiser steps taken"),
        Column("rows", pa.int64(), "rows seen"),
        Column("loss", pa.float64(), "last logged loss; null where undefined", nullable=True),
        Column(
            "ev_batch",
            pa.float64(),
            "explained variance of the last logged batch, likewise null",
            nullable=True,
        ),
        Column(
            "l0_mean", pa.float64(), "firings a row of that batch, likewise null", nullable=True
        ),
        Column(
            "dead",
            pa.float64(),
            "features silent too long in the end; null if nothing was logged",
            nullable=True,
        ),
    ),
)

TABLES = (
    FILES, DOCUMENTS, VOCABULARY, CONTEXTS, FIRINGS_BY_FEATURE, FIRINGS_BY_CONTEXT, HEAD_FIRINGS,
    FEATURES, HISTOGRAMS, EXAMPLES, TOKEN_STATS, COACTIVATION, NEIGHBOURS, LOGITS, LOGIT_STATS, DECODERS,
    DECODER_PAIRS, HEAD_SCALING, ATTENTION, ANNOTATIONS, METRICS, SCORES, RESULTS,
    FEATURE_SCORES, COMPARISON, MATCHES, DIFFERENCES,
    *interpretation_tables.TABLES,
)  # fmt: skip
"""Every table, for the reference pages and for readers that check what they open."""
