"""L0, L1, density and dead features: hand counts (oracle M5) and splits."""

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from saestore.evaluate.intervals import context_interval
from saestore.evaluate.sparsity import Sparsity, rate_bound
from saestore_schemas.metrics import SPARSITY


HAND = np.array(
    [[1, 0, 0, 2, 0, 0], [0, 0, 0, 4, 0, 0], [0.5, 0, 0, 0, 0, 3], [2, 0, 0, 1, 0, 0]], np.float32
)
NORMS = np.array([1, 9, 9, 0.5, 9, 2], np.float32)


def counted(codes, contexts, *, norms=NORMS, cuts=()):
    found = Sparsity(norms)
    for start, stop in zip([0, *cuts], [*cuts, len(codes)], strict=True):
        rows, features = np.nonzero(codes[start:stop])
        values = codes[start:stop][rows, features]
        found.update(rows, features, values, contexts[start:stop])
    return found


def values(found):
    return {score.metric: score.value for score in found.scores()}


def test_m5_hand_counts():
    found = counted(HAND, np.array([0, 0, 1, 1]))
    scores = values(found)
    assert scores["l0"] == 7 / 4
    assert scores["l1_raw"] == 13.5 / 4
    assert scores["l1"] == (3.5 * 1 + 7 * 0.5 + 3 * 2) / 4
    assert scores["mean_activation"] == 13.5 / 7
    assert (scores["l0[q05]"], scores["l0[q50]"], scores["l0[q95]"]) == (1, 2, 2)
    assert 1.5 <= scores["l0[low]"] <= scores["l0[high]"] <= 2
    assert scores["dead[all]"] == 3 / 6
    assert list(found.densities) == [0.75, 0, 0, 0.75, 0, 0.25]
    assert (scores["density[min]"], scores["density[q50]"], scores["density[q75]"]) == (0, 0, 0.75)
    assert scores["density[max]"] == 0.75
    assert scores["dead_rate_bound[all]"] == pytest.approx(1 - 0.05**0.25, rel=1e-12)
    assert scores["dead_rate_bound_contexts[all]"] == pytest.approx(1 - 0.05**0.5, rel=1e-12)


def test_dead_of_n_looks_at_the_first_n_rows_and_needs_that_many():
    rows = 100_001
    late = Sparsity(np.ones(4, np.float32))
    fires = np.array([0, 99_999, 100_000])
    late.update(fires, np.array([0, 1, 2]), np.ones(3, np.float32), np.arange(rows) // 128)
    scores = {score.metric: score for score in late.scores()}
    assert scores["dead[1e5]"].value == 2 / 4  # the third fires one row too late
    assert scores["dead[all]"].value == 1 / 4
    assert scores["dead[1e6]"].value is None
    assert scores["dead_rate_bound[1e6]"].value is None
    assert scores["dead_rate_bound[1e5]"].value == pytest.approx(2.9957e-5, rel=1e-4)
    assert scores["dead_rate_bound_contexts[1e5]"].n == math.ceil(100_000 / 128)


@pytest.mark.parametrize(("n", "bound"), [(10**5, 2.9957e-5), (10**6, 2.9957e-6), (10**7, 2.9957e-7)])  # fmt: skip
def test_the_bound_is_about_three_over_n(n, bound):
    assert rate_bound(n) == pytest.approx(bound, rel=2e-5)
    assert rate_bound(0) is None


@given(st.integers(0, 30), st.lists(st.integers(0, 40), max_size=6).map(sorted))
def test_any_split_counts_the_same(seed, cuts):
    rng = np.random.default_rng(seed)
    codes = (rng.random((40, 6)) * (rng.random((40, 6)) < 0.1)).astype(np.float32)
    contexts = np.sort(rng.integers(0, 9, 40))
    whole, parts = counted(codes, contexts), counted(codes, contexts, cuts=cuts)
    assert parts.contexts == whole.contexts == len(np.unique(contexts))
    for one, other in zip(whole.scores(), parts.scores(), strict=True):
        assert other.metric == one.metric
        assert other.n == one.n
        assert (other.value is None) == (one.value is None)
        assert one.value is None or other.value == pytest.approx(one.value, rel=1e-12)


def test_stored_zeros_are_no_firings():
    found = Sparsity(np.ones(2, np.float32))
    found.update(np.array([0]), np.array([1]), np.zeros(1, np.float32), np.array([0]))
    assert values(found)["l0"] == 0
    assert values(found)["dead[all]"] == 1


def test_no_rows_score_nothing():
    scores = Sparsity(np.ones(3, np.float32)).scores()
    assert all(score.value is None for score in scores)


def test_every_name_is_documented():
    found = counted(HAND, np.zeros(4, np.int64))
    assert [score.metric for score in found.scores()] == [metric.name for metric in SPARSITY]


def test_the_interval_of_l0_is_over_contexts():
    rng = np.random.default_rng(5)
    lengths = rng.integers(1, 30, 400)
    contexts = np.repeat(np.arange(400), lengths)
    rate = np.repeat(rng.uniform(0, 0.6, 400), lengths)  # rows of a context are alike
    codes = (rng.random((len(contexts), 6)) < rate[:, None]).astype(np.float32)
    cuts = [0, 7, 900, 901, len(codes) // 2]
    found = values(counted(codes, contexts, cuts=cuts))
    per_context = np.bincount(contexts, weights=codes.sum(1))
    low, high = context_interval(per_context, lengths)
    assert (found["l0[low]"], found["l0[high]"]) == (low, high)
    residual = per_context - found["l0"] * lengths
    error = np.sqrt(np.square(residual).sum()) / lengths.sum()  # of a ratio of sums
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.06)
    assert low < found["l0"] < high
    alone = values(counted(HAND, np.zeros(4, np.int64)))
    assert alone["l0[low]"] is None


def test_many_contexts_are_drawn_in_groups_of_neighbours():
    rng = np.random.default_rng(6)
    over, under = rng.poisson(9.0, 30_011), np.full(30_011, 3)
    low, high = context_interval(over, under)
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(9 / 30_011) / 3, rel=0.1)
    assert low < over.sum() / under.sum() < high
