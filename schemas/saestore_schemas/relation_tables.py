"""Tables that relate features: to tokens, to features that fire with them, to similar ones."""

import pyarrow as pa

from saestore_schemas.table import Column, Table


TOKEN_STATS = Table(
    "token_stats",
    "Tokens that each feature fires on most, and those before and after them inside one context and one "
    "document; other tokens can be counted from `firings` and `tokens`.",
    ("feature", "shift", "n descending", "token_id"),
    (
        Column("feature", pa.uint32(), "feature"),
        Column(
            "shift",
            pa.int8(),
            "where the token is: 0 where the feature fires, -1 one before, +1 one after",
        ),
        Column("token_id", pa.uint32(), "token"),
        Column("n", pa.uint64(), "firings with this token there"),
        Column("sum", pa.float64(), "sum of their values"),
        Column("max", pa.float32(), "largest of their values"),
    ),
)

COACTIVATION = Table(
    "coactivation",
    "Features that fire on the same rows, the most correlated first; both directions, no feature with "
    "itself. All counts are of the same rows: those of contexts drawn at random.",
    ("feature", "rank"),
    (
        Column("feature", pa.uint32(), "feature"),
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
        Column("feature", pa.uint32(), "feature"),
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
