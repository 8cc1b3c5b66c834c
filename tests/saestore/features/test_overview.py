"""What an analysis's features are like: counted from its table, ends included."""

import math

import pytest

from saestore.features import Analysis, feature_lines, overview
from saestore.features.overview import histogram


def test_it_is_what_sql_counts(planted_lake):
    analysis = Analysis.open(planted_lake, "planted/relu")
    found = overview(analysis)
    (line,) = analysis.sql(
        "SELECT count(*) n, count(*) FILTER (n_firings = 0) silent, any_value(n_rows) n_rows, "
        "sum(n_firings)::BIGINT firings FROM features"
    ).to_pylist()
    assert (found.n_features, found.n_silent) == (line["n"], line["silent"])
    assert (found.n_rows, found.n_firings) == (line["n_rows"], line["firings"])
    assert found.n_silent == 1
    assert (1 - found.bound) ** found.n_rows == pytest.approx(0.05)
    assert sum(found.densities.counts) == line["n"] - line["silent"]
    assert found.densities.counts[-1]  # a feature fires on every row
    assert set(found.typical) <= set(range(1, line["n"]))
    lines = feature_lines(analysis)
    assert lines["feature"].to_pylist() == list(range(line["n"]))
    assert lines["promotes"].to_pylist() == [[]] * line["n"]  # no logits
    assert lines["top_token"][0].as_py() is None


def test_bins_are_equal_in_logarithm_and_the_last_is_closed():
    densities = [1.0, 0.5, 0.01, 0.0101, 1e-4]
    found = histogram(densities)
    assert found.edges[0] == -4
    assert found.edges[-1] == 0
    counts = [0] * len(found.counts)
    for x in densities:
        low = max(n for n, edge in enumerate(found.edges[:-1]) if edge <= math.log10(x) + 1e-12)
        counts[low] += 1
    assert list(found.counts) == counts
    assert histogram([]).counts == ()
