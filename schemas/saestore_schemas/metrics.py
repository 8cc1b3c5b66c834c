"""The names an evaluation scores under, each with its unit and meaning.

The equations stand with the code that computes them; this is the list that tables, terminal and
reference pages share. A ratio has no unit. What is undefined is null, never 0 and never nudged.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One score: its name in the table, its unit, what it means."""

    name: str
    unit: str
    doc: str


WINDOWS: dict[str, int | None] = {"1e5": 100_000, "1e6": 1_000_000, "1e7": 10_000_000, "all": None}
"""Token windows of `dead[...]`; None is every evaluated row."""

DENSITY_QUANTILES = {"q01": 10, "q05": 50, "q10": 100, "q25": 250, "q50": 500,
                     "q75": 750, "q90": 900, "q95": 950, "q99": 990}  # fmt: skip
"""Quantiles of `density[...]` over features, permille: element max(1, ceil(p n / 1000))."""

ROW_QUANTILES = {"q05": 50, "q50": 500, "q95": 950}
"""Quantiles of `l0[...]` over rows, permille: element max(1, ceil(p n / 1000))."""

COSINE_QUANTILES = {"q05": 50, "q50": 500, "q95": 950}
"""The same of cosines over features."""

_RAW = "raw"
"""Lengths in the units of the activations."""
_RAW_SQ = "raw^2"
_NATS = "nats"

RECONSTRUCTION = (
    Metric("explained_variance", "", "1 - sum (y - yhat)^2 / sum (y - mean y)^2, over all rows"),
    Metric("fvu", "", "fraction of variance unexplained: 1 - explained_variance"),
    Metric("mse", _RAW_SQ, "squared error, summed over dimensions, mean over rows"),
    Metric("mse_per_dim", _RAW_SQ, "mse / d"),
    Metric("cosine", "", "mean cosine of y and yhat; rows with a zero vector left out"),
    Metric("l2_ratio", "", "mean over rows of |yhat| / |y|; rows of length zero left out"),
    Metric("l2_error_ratio", "", "mean |y - yhat| / mean |y|"),
    Metric("reconstruction_bias", "", "sum |yhat|^2 / sum y.yhat (arXiv:2404.16014, eq. 10)"),
    Metric("nmse_row", "", "mean over rows of |e|^2 / |y|^2 (OpenAI's evaluation)"),
    Metric(
        "ev_scalar_mean",
        "",
        "1 - E|e|^2 / (E|y|^2 - (mean_j E y_j^2)^2): a known error (SAEBench, SAELens 6.18)",
    ),
    Metric(
        "ev_legacy_row",
        "",
        "mean over rows of 1 - |e|^2 / |y - batch mean|^2 (SAELens and SAEBench, legacy)",
    ),
    Metric("ev_legacy_row_std", "", "standard deviation over rows of the same"),
    Metric(
        "ev_residual_centred",
        "",
        "mean over batches of 1 - sum Var e / sum Var y: blind to a constant error "
        "(dictionary_learning)",
    ),
    Metric("fvu_batch", "", "mean over batches of fvu within the batch (sparsify)"),
    Metric("ev_batch_mean", "", "1 - fvu_batch (llamascopium)"),
)
"""Of each reconstructed hookpoint; several hookpoints add `@hookpoint` to the names. A batch is 4096
consecutive evaluated rows; a short last one is left out, unless it is the only one."""

POOLED = (
    Metric(
        "explained_variance_pooled",
        "",
        "explained variance of all hookpoints together, each in its normalised units",
    ),
    Metric(
        "mse_pooled",
        "normalised^2",
        "squared error summed over dimensions and hookpoints, mean over rows",
    ),
)
"""Of a dictionary that reconstructs several hookpoints."""

SPARSITY = (
    Metric(
        "l0",
        "features/row",
        "firings per row; `l0@hookpoint`: of the layer that reads it, `l0@rank64`: of the transforms of that rank",
    ),
    Metric("l1", _RAW, "sum of values times decoder length, mean over rows"),
    Metric("l1_raw", _RAW, "sum of values, mean over rows"),
    Metric("mean_activation", _RAW, "mean value of a firing"),
    Metric("l0[low]", "features/row", "lower end of the 95 % interval of l0, contexts resampled"),
    Metric("l0[high]", "features/row", "its upper end"),
    *(Metric(f"l0[{q}]", "features/row", f"{q} of firings over rows") for q in ROW_QUANTILES),
    *(
        Metric(
            f"dead[{name}]",
            "",
            "share of features without a firing in all evaluated rows"
            if n is None
            else f"share of features without a firing in the first {n} evaluated rows; null when "
            "there were fewer",
        )
        for name, n in WINDOWS.items()
    ),
    *(
        Metric(
            f"dead_rate_bound[{name}]",
            "firings/row",
            "95 % upper bound on the rate of such a feature, 1 - 0.05^(1/rows): rows independent",
        )
        for name in WINDOWS
    ),
    *(
        Metric(
            f"dead_rate_bound_contexts[{name}]",
            "firings/context",
            "the same with contexts for rows, because rows of one context are correlated",
        )
        for name in WINDOWS
    ),
    *(
        Metric(f"density[{name}]", "firings/row", f"{name} of density over features")
        for name in ("min", *DENSITY_QUANTILES, "max")
    ),
)

COSINES = tuple(
    Metric(f"{name}[{which}]", "", f"{which} over features of {what}")
    for name, what in (
        ("decoder_cosine_max", "the largest |cosine| with another decoder vector"),
        ("encoder_cosine_max", "the largest |cosine| with another encoder vector"),
        ("enc_dec_cosine", "the cosine of encoder and decoder vector"),
    )
    for which in ("mean", *COSINE_QUANTILES, "max")
)
"""Of the folded weights; features with a vector of length zero are left out."""

CROSS_ENTROPY = (
    Metric("ce[clean]", _NATS, "cross-entropy per predicted token, nothing replaced"),
    Metric("ce[dict]", _NATS, "with the reconstruction in place"),
    Metric("ce[zero]", _NATS, "with zero in place"),
    Metric("ce[mean]", _NATS, "with the mean of the evaluated rows in place"),
    Metric("delta_ce", _NATS, "ce[dict] - ce[clean]"),
    Metric("ce_recovered[zero]", "", "(ce[zero] - ce[dict]) / (ce[zero] - ce[clean])"),
    Metric("ce_recovered[mean]", "", "(ce[mean] - ce[dict]) / (ce[mean] - ce[clean])"),
    Metric("kl[dict]", _NATS, "KL(clean || reconstruction in place) per predicted token"),
    Metric("kl[zero]", _NATS, "KL(clean || zero in place)"),
    Metric("kl[mean]", _NATS, "KL(clean || mean in place)"),
    Metric("kl_recovered[zero]", "", "1 - kl[dict] / kl[zero]"),
    Metric("kl_recovered[mean]", "", "1 - kl[dict] / kl[mean]"),
)
"""Of heads in several language models `@head` is added to the names, of each model for itself."""

JACOBIAN = (
    Metric(
        "jacobian_cosine", "", "cosine of the dictionary's Jacobian and the model's, mean over rows"
    ),
    Metric("jacobian_cosine[p10]", "", "its tenth percentile over rows"),
    Metric("jacobian_cosine[p90]", "", "its ninetieth percentile over rows"),
)
"""Of a dictionary that reconstructs other hookpoints than it reads."""

METRICS: dict[str, Metric] = {
    m.name: m for m in (*RECONSTRUCTION, *POOLED, *SPARSITY, *COSINES, *CROSS_ENTROPY, *JACOBIAN)
}
"""Every metric by name."""


def unit_of(name: str) -> str:
    """Return the unit of a metric; `@hookpoint` at the end of its name is ignored."""
    return METRICS[name.split("@", 1)[0]].unit
