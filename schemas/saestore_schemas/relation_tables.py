"""Tables that relate features: to tokens, to features that fire with them, to similar ones."""

import pyarrow as pa

from saestore_schemas.columns import FEATURE, TOKEN_ID
from saestore_schemas.table import Column, Table


TOKEN_STATS = Table(
    "token_stats",
    "Tokens that each feature fires on most, and those before and after them inside one context and one "
    "document; other tokens can be counted from `firings` and `tokens`.",
    ("feature", "shift", "n descending", "token_id"),
    (
        FEATURE,
        Column(
            "shift",
            pa.int8(),
            "where the token is: 0 where the feature fires, -1 one before, +1 one after",
        ),
        TOKEN_ID,
        Column("n", pa.uint64(), "firings with this token there"),
        Column("sum", pa.float64(), "sum of their values"),
        Column("max", pa.float32(), "largest of their strengths"),
    ),
)

COACTIVATION = Table(
    "coactivation",
    "Features that fire on the same rows, the most correlated first; both directions, no feature with "
    "itself. All counts are of the same rows: those of contexts drawn at random.",
    ("feature", "rank"),
    (
        FEATURE,
        Column("other", pa.uint32(), "a feature that fires with it"),
        Column("rank", pa.uint16(), "rank by phi, then by `other`, from 0"),
        Column("n_feature", pa.uint32(), "rows on which the feature fires"),
        Column("n_other", pa.uint32(), "rows on which the other fires"),
        Column("n_both", pa.uint32(), "rows on which both fire"),
        Column("n_rows", pa.uint64(), "kept rows counted (same for all)"),
        Column("sum_feature", pa.float64(), "sum of the feature's values on them"),
        Column("sum_product", pa.float64(), "sum over them of value times the other's value"),
        Column("jaccard", pa.float32(), "n_both / (n_feature + n_other - n_both)"),
        Column("phi", pa.float32(), "correlation of firing with firing"),
        Column("lift", pa.float32(), "n_both n_rows / (n_feature n_other)"),
    ),
)

NEIGHBOURS = Table(
    "neighbours",
    "Features whose folded vectors are most alike; a vector of length zero has none.",
    ("feature", "method", "rank"),
    (
        FEATURE,
        Column(
            "method",
            pa.string(),
            "`dec_cos`: cosine of decoder vectors, `enc_cos`: of encoder vectors",
        ),
        Column("rank", pa.uint16(), "rank by score, then by neighbour, from 0"),
        Column("neighbour", pa.uint32(), "the other feature"),
        Column("score", pa.float32(), "cosine"),
    ),
)

MATCHES = Table(
    "matches",
    "Features of one dictionary and their partners in another, as `saestore match` finds them.",
    ("feature", "method"),
    (
        Column("feature", pa.uint32(), "feature of the first dictionary"),
        Column(
            "method",
            pa.string(),
            "`dec_cos`: cosine of decoder vectors; `pearson`: correlation of values over shared rows, zeros "
            "included; `phi`: of firing with firing",
        ),
        Column(
            "other",
            pa.uint32(),
            "feature of the second dictionary with the largest score, the smallest of equals; null if it "
            "has none",
            nullable=True,
        ),
        Column("score", pa.float64(), "that score; null likewise", nullable=True),
        Column("mutual", pa.bool_(), "whether the feature is the other's best partner too"),
        Column(
            "p",
            pa.float64(),
            "share of features that match as well by chance, (1 + as well) / (1 + all); null without draws "
            "or a partner",
            nullable=True,
        ),
        Column(
            "paired",
            pa.uint32(),
            "its partner where each feature has at most one and the sum of scores is largest; null without "
            "one, or where the pairs are too many",
            nullable=True,
        ),
        Column("paired_score", pa.float64(), "that pair's score; null likewise", nullable=True),
    ),
)

DIFFERENCES = Table(
    "differences",
    "What each feature of a dictionary does in two analyses, as `saestore diff` finds it.",
    ("feature",),
    (
        FEATURE,
        Column("n_firings_a", pa.uint64(), "rows of the first analysis on which it fires"),
        Column("n_firings_b", pa.uint64(), "of the second"),
        Column(
            "density_a", pa.float64(), "share of the first's rows; null without rows", nullable=True
        ),
        Column("density_b", pa.float64(), "of the second's; null likewise", nullable=True),
        Column(
            "z",
            pa.float64(),
            "two-proportion z of the second's density over the first's, on rows that are not in both; null "
            "where either has none, or it fires on none or all of them",
            nullable=True,
        ),
        Column(
            "max_a",
            pa.float32(),
            "largest value in the first; null if it never fires",
            nullable=True,
        ),
        Column("max_b", pa.float32(), "in the second; null likewise", nullable=True),
        Column(
            "mean_a", pa.float64(), "mean of its firings in the first; null likewise", nullable=True
        ),
        Column("mean_b", pa.float64(), "in the second; null likewise", nullable=True),
        Column(
            "top_token_a",
            pa.string(),
            "token it fires on most often in the first; null likewise",
            nullable=True,
        ),
        Column("top_token_b", pa.string(), "in the second; null likewise", nullable=True),
        Column(
            "tokens_jaccard",
            pa.float64(),
            "tokens among its ten most frequent of both over those of either; null if it never fires in "
            "one, or one has no `token_stats`",
            nullable=True,
        ),
        Column("change", pa.string(), "`fires`, `silent` (in both), `woke` or `fell_silent`"),
    ),
)
