"""Metrics against their definitions, counted pair by pair; the undefined is None."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, strategies as st

from saestore.interpret.metrics import (
    Judged,
    Simulated,
    accuracy_interval,
    auroc,
    auroc_interval,
    brier,
)


def judged(lines):
    """From (label, answer or None, likelihood)."""
    label, answer, likelihood = zip(*lines, strict=True) if lines else ((), (), ())
    return Judged(
        np.array(label, np.bool_),
        np.array([bool(each) for each in answer], np.bool_),
        np.array([each is not None for each in answer], np.bool_),
        np.array(likelihood, np.float64),
    )


answers = st.lists(
    st.tuples(st.booleans(), st.sampled_from([True, False, None]), st.sampled_from([0, 0.2, 0.5, 1])),
    max_size=30,
)  # fmt: skip
tied = st.lists(st.sampled_from([-1.0, 0.0, 0.25, 1.0]), max_size=12).map(np.float64)


@given(tied, tied)
def test_auroc_is_the_share_of_pairs_with_ties_half(positives, negatives):
    positives, negatives = np.atleast_1d(positives), np.atleast_1d(negatives)
    pairs = [1.0 if p > n else 0.5 if p == n else 0.0 for p, n in product(positives, negatives)]
    found = auroc(positives, negatives)
    assert found == pytest.approx(sum(pairs) / len(pairs), abs=1e-15) if pairs else found is None
    # turned round, it is the rest
    if pairs:
        assert auroc(negatives, positives) == pytest.approx(1 - found, abs=1e-15)


@given(answers)
def test_counts_and_shares_by_definition(lines):
    found = judged(lines)
    parsed = [(label, answer) for label, answer, _ in lines if answer is not None]
    tp, fp, tn, fn = (
        parsed.count(each) for each in ((True, True), (False, True), (False, False), (True, False))
    )
    assert found.counts == (tp, fp, tn, fn)
    positives, negatives = tp + fn, tn + fp
    every, others = sum(label for label, _, _ in lines), sum(not label for label, _, _ in lines)

    def mean(p, n):
        return (tp / p + tn / n) / 2 if p and n else None

    assert found.balanced_accuracy == mean(positives, negatives)
    assert found.balanced_accuracy_all == mean(every, others)
    assert found.precision == (tp / (tp + fp) if tp + fp else None)
    assert found.recall == (tp / positives if positives else None)
    precision, recall = found.precision, found.recall
    if precision and recall:
        assert found.f1 == pytest.approx(2 * precision * recall / (precision + recall))


def test_what_could_not_be_read_is_wrong_in_one_accuracy_and_absent_in_the_other():
    found = judged([(True, True, 1), (True, None, 0), (False, False, 0), (False, None, 0)])
    assert (found.balanced_accuracy, found.balanced_accuracy_all) == (1.0, 0.5)


def test_strata_have_their_own_positives_and_all_negatives():
    found = judged([(True, True, 1), (True, False, 0), (False, False, 0), (False, True, 1)])
    by_stratum = [each.balanced_accuracy for each in found.of_strata(np.array([0, 9, -1, -1]))]
    assert by_stratum == [0.75, *[None] * 8, 0.25]


def test_brier_is_the_mean_squared_distance():
    assert brier(np.array([1.0, 0.5]), np.array([True, False])) == 0.125
    assert brier(np.array([]), np.array([], np.bool_)) is None


SHAPES = [(accuracy_interval, "balanced_accuracy"), (auroc_interval, "auroc")]


@pytest.mark.parametrize(
    ("interval", "score"), SHAPES, ids=lambda each: getattr(each, "__name__", each)
)
def test_an_interval_is_that_of_resamples_computed_one_by_one(interval, score):
    rng = np.random.default_rng(3)
    lines = [
        (bool(rng.random() < 0.4), (True, False, None)[rng.integers(3)], float(rng.integers(5)))
        for _ in range(25)
    ]
    parsed = [line for line in lines if line[1] is not None]
    drawn = np.random.default_rng(7).integers(0, len(parsed), (400, len(parsed)))
    scores = [getattr(judged([parsed[n] for n in each]), score) for each in drawn.tolist()]
    known = np.percentile([each for each in scores if each is not None], (2.5, 97.5))
    assert interval(judged(lines), resamples=400, seed=7) == pytest.approx(tuple(known), abs=1e-12)
    assert interval(judged(lines), resamples=0, seed=7) is None


@pytest.mark.parametrize("interval", [accuracy_interval, auroc_interval])
@pytest.mark.parametrize(
    "lines", [[], [(True, True, 1)], [(True, None, 1), (False, None, 1)]], ids=len
)
def test_without_both_kinds_there_is_no_interval(interval, lines):
    assert interval(judged(lines), resamples=50, seed=0) is None


def test_resamples_without_one_of_both_kinds_are_left_out():
    # of two examples half of all resamples are such; what is left has both right
    found = judged([(True, True, 1), (False, False, 0)])
    assert accuracy_interval(found, resamples=100, seed=0) == (1.0, 1.0)
    assert auroc_interval(found, resamples=100, seed=0) == (1.0, 1.0)


def test_an_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    label = np.arange(200) % 2 == 0
    held = 0
    for seed in range(200):
        answer = label ^ (rng.random(200) < 0.2)
        low, high = accuracy_interval(
            Judged(label, answer, np.ones(200, np.bool_), answer.astype(np.float64)),
            resamples=300,
            seed=seed,
        )
        held += low <= 0.8 <= high
    assert 177 <= held <= 199  # 95 % of 200, and four standard deviations of that below


strengths = st.lists(
    st.lists(st.tuples(st.integers(0, 10), st.floats(0, 50, width=32)), max_size=6), max_size=5
)


def simulated(examples):
    lines = [(*pair, n) for n, each in enumerate(examples) for pair in each]
    told, true, example = zip(*lines, strict=True) if lines else ((), (), ())
    return Simulated(
        np.array(told, np.float64), np.array(true, np.float64), np.array(example, np.int64)
    )


@given(strengths)
def test_correlation_by_definition(examples):
    told = np.array([float(t) for each in examples for t, _ in each])
    true = np.array([t for each in examples for _, t in each])
    found = simulated(examples)
    if not len(told) or np.ptp(told) == 0 or np.ptp(true) == 0:
        assert found.correlation is None
        assert found.constant
        assert found.interval(resamples=20, seed=0) is None
    else:
        assume(np.ptp(true) > 1e-6)
        assert found.correlation == pytest.approx(np.corrcoef(told, true)[0, 1], abs=1e-9)


def test_which_of_both_is_constant_is_said():
    assert "told" in simulated([[(3, 1.0), (3, 2.0)]]).constant
    assert "true" in simulated([[(3, 1.0), (4, 1.0)]]).constant
    assert "no answer" in simulated([]).constant


@pytest.mark.parametrize("offset", [0.0, 1e6], ids=["near", "far"])
def test_the_interval_of_a_correlation_is_that_of_resampled_examples(offset):
    rng = np.random.default_rng(5)
    true = [rng.gamma(1.0, size=8) + offset for _ in range(6)]
    told = [np.round(each - offset + rng.normal(size=8)) for each in true]
    told[0], true[0] = np.zeros(8), np.full(8, offset)  # drawn alone, both are constant
    drawn = np.random.default_rng(2).integers(0, 6, (300, 6))
    known = []
    for each in drawn.tolist():
        x, y = (np.concatenate([values[n] for n in each]) for values in (told, true))
        if np.ptp(x) and np.ptp(y):
            known.append(np.corrcoef(x, y)[0, 1])
    examples = [list(zip(x, y, strict=True)) for x, y in zip(told, true, strict=True)]
    interval = simulated(examples).interval(resamples=300, seed=2)
    assert interval == pytest.approx(tuple(np.percentile(known, (2.5, 97.5))), abs=1e-7)


def test_constant_resamples_are_left_out():
    found = simulated([[(0, 0), (0, 0), (0, 0)], [(0, 0), (5, 2)]])
    low, high = found.interval(resamples=200, seed=0)
    assert math.isclose(low, 1.0)
    assert math.isclose(high, 1.0)
