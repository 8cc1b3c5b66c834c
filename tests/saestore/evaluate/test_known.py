"""Metrics against a known truth: oracles M6 to M10, floors, and the pairing itself."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings, strategies as st

from saestore.assignment import best_pairs
from saestore.dictionaries import SparseCode
from saestore.evaluate import known
from saestore.evaluate.known import DetectionCounts, mcc, mmcs, similarity, uniqueness
from saestore.evaluate.matching import matches, mutual_nearest
from saestore.evaluate.properties import auroc, coverage


def directions(n, d=7, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def brute(score):
    """The largest sum of any one-to-one pairing, by trying them all."""
    score = score if len(score) <= score.shape[1] else score.T
    places = permutations(range(score.shape[1]), len(score))
    return max(score[np.arange(len(score)), list(order)].sum() for order in places)


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 6), st.booleans())
@example(3, 7, 7, False)
def test_m6_the_pairing_is_the_best_of_all(seed, rows, columns, ties):
    score = np.random.default_rng(seed).random((rows, columns))
    score = np.round(score, 1) if ties else score
    left, right = best_pairs(score)
    assert len(left) == len(set(left)) == len(set(right)) == min(rows, columns)
    assert list(left) == sorted(left)
    assert score[left, right].sum() == pytest.approx(brute(score), rel=1e-12)


def test_the_pairing_is_scipys():
    optimize = pytest.importorskip("scipy.optimize", reason="scipy comes with sae-lens")
    for shape in ((60, 60), (31, 77), (77, 31)):
        score = np.random.default_rng(1).random(shape)
        rows, columns = best_pairs(score)
        expected = optimize.linear_sum_assignment(score, maximize=True)
        assert (rows == expected[0]).all()
        assert (columns == expected[1]).all()


def test_m6_a_dictionary_finds_itself_whatever_the_sign_and_order():
    truth = directions(11)
    order = np.random.default_rng(2).permutation(11)
    signs = np.where(np.arange(11) % 2, -3.0, 0.2)[:, None]
    for vectors in (truth, -truth, (truth * signs)[order]):
        found = similarity(vectors, truth)
        assert mcc(found) == pytest.approx(1, rel=1e-12)
        assert mmcs(found) == pytest.approx(1, rel=1e-12)
        assert uniqueness(found) == 1
    half = similarity(truth[:5], truth)
    assert mcc(half) == pytest.approx(1, rel=1e-12)  # over the smaller number


def test_m6_zero_vectors_are_like_nothing():
    truth = directions(3)
    vectors = truth.copy()
    vectors[1] = 0
    assert similarity(vectors, truth)[1].tolist() == [0, 0, 0]
    assert mcc(similarity(vectors, truth)) == pytest.approx(2 / 3, rel=1e-12)


def test_the_floor_is_what_random_vectors_have():
    truth = directions(256, 64, seed=3)
    found = known.floor(256, truth, draws=4)
    assert found.mmcs[0] == pytest.approx(0.365, abs=0.006)
    assert found.mcc[0] < found.mmcs[0]
    assert found.mcc[1] < 0.01
    assert known.floor(256, truth, draws=4) == found
    wide = similarity(directions(1024, 256, seed=4), directions(1024, 256, seed=5))
    assert mmcs(wide) == pytest.approx(0.215, abs=0.003)


HAND = np.array([[1.0, 0, 2, 0], [0, 3, 1, 0], [0, 0, 1, 0], [4, 0, 1, 0]])
ON = np.array([[1, 0], [0, 1], [1, 0], [1, 1]], bool)


def detected(best, pieces=1):
    counts = DetectionCounts(np.array(best), 2)
    for part in np.array_split(np.arange(4), pieces):
        counts.update(SparseCode.from_dense(torch.from_numpy(HAND[part])), ON[part])
    return counts.result()


@pytest.mark.parametrize("pieces", [1, 3])
def test_m7_a_hand_confusion_table(pieces):
    found = detected([0, 1, 0, 1], pieces)
    # feature 0: fires on rows 0, 3, both on; feature 0 is on in 0, 2, 3
    precision = [1, 1, 3 / 4, 0]
    recall = [2 / 3, 1 / 2, 1, 0]
    f1 = [2 * p * r / (p + r) if p + r else 0 for p, r in zip(precision, recall, strict=True)]
    assert found.precision == pytest.approx(np.mean(precision), rel=1e-12)
    assert found.recall == pytest.approx(np.mean(recall), rel=1e-12)
    assert found.f1 == pytest.approx(np.mean(f1), rel=1e-12)


def test_m7_all_features_matched_to_one():
    truth = directions(5)
    same = similarity(np.tile(truth[2], (8, 1)), truth)
    assert uniqueness(same) == 1 / 8


def test_m8_auroc_is_mann_whitney():
    rng = np.random.default_rng(7)
    scores, labels = np.round(rng.normal(size=60), 1), rng.random(60) < 0.3
    pairs = scores[labels][:, None] - scores[~labels][None, :]
    expected = (pairs > 0).mean() + (pairs == 0).mean() / 2
    assert auroc(scores, labels) == pytest.approx(expected, rel=1e-12)
    assert auroc(-scores, labels) == pytest.approx(1 - expected, rel=1e-12)
    assert auroc(np.ones(60), labels) == 0.5
    assert auroc(scores, np.ones(60, bool)) is None
    assert auroc(scores, np.zeros(60, bool)) is None


def test_m9_coverage_is_one_for_a_perfect_feature_and_never_low():
    rng = np.random.default_rng(8)
    properties = rng.random((200, 3)) < [0.1, 0.4, 0.7]
    perfect = np.where(properties, rng.uniform(1, 2, (200, 3)), 0)
    assert coverage(perfect, properties) == 1
    graded = np.where(properties, 5.0, rng.uniform(0, 1, (200, 3)))  # a threshold tells them
    assert coverage(graded, properties) == 1
    p = properties.mean(axis=0)
    assert coverage(np.ones((200, 1)), properties) >= (2 * p / (1 + p)).mean() - 1e-12
    assert coverage(perfect, np.zeros((200, 2), bool)) is None


def test_m10_a_permuted_copy_matches_whole_half_a_copy_half_and_random_ones_not():
    rng = np.random.default_rng(9)
    decoder = rng.normal(size=(30, 16))
    codes = rng.random((400, 30)) * (rng.random((400, 30)) < 0.2)
    order = rng.permutation(30)
    whole = matches((decoder, 2 * decoder[order]), (codes, 5 * codes[:, order]))
    assert whole.share == 1
    assert whole.null == 0
    assert (order[whole.pairs[:, 1]] == whole.pairs[:, 0]).all()
    other, others = rng.normal(size=(30, 16)), rng.random((400, 30))
    half = np.arange(30) < 15
    mixed = matches(
        (decoder, np.where(half[:, None], decoder, other)), (codes, np.where(half, codes, others))
    )
    assert mixed.share == 0.5
    random = matches((decoder, other), (codes, others))
    assert random.share <= random.null
    # alike in weights alone is no match
    assert matches((decoder, decoder), (codes, others)).share <= mixed.null


def test_nearest_is_mutual():
    cosines = np.array([[0.9, 0.8], [0.95, 0.1], [0.2, 0.85]])
    assert mutual_nearest(cosines, above=0.5).tolist() == [[1, 0], [2, 1]]
    assert mutual_nearest(cosines, above=0.9).tolist() == [[1, 0]]
