"""Compiled selection is the definition: the same pairs, in the same order, for all scores."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as st_numpy

from saestore.dictionaries import backends, selection, selection_loops
from saestore.dictionaries.backends.torch_backend import OnCuda


numbers = st.floats(-4, 4, width=32) | st.sampled_from([0.0, -0.0, 1.0, 1.5, np.float32(1e-40)])
matrices = st_numpy.arrays(
    st.sampled_from([np.float32, np.float64]),
    st.tuples(st.integers(0, 9), st.integers(1, 12)),
    elements=numbers,
)


def by_definition(scores, keep):
    """Pairs of a mask, sorted by row, then feature."""
    rows, features = np.nonzero(keep)
    counts = np.bincount(rows, minlength=len(scores))
    return [0, *np.cumsum(counts).tolist()], features.tolist()


def listed(found):
    return [each.tolist() for each in found]


def first(order, count, keep):
    """The first of an order by falling score, positive ones only."""
    chosen = order[:count]
    mask = np.zeros(keep.size, dtype=bool)
    mask[chosen] = True
    return mask.reshape(keep.shape) & keep


@settings(max_examples=120, deadline=None)
@given(matrices, st.integers(1, 12))
def test_the_largest_of_each_row(scores, k):
    k = min(k, scores.shape[1])
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    keep = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(keep, order, values=True, axis=1)
    wanted = by_definition(scores, keep & (scores > 0))
    assert listed(selection_loops.largest(torch.from_numpy(scores), k)) == list(wanted)


@settings(max_examples=120, deadline=None)
@given(matrices, st.integers(0, 60))
def test_the_largest_of_all_rows(scores, count):
    order = np.argsort(-scores.reshape(-1), kind="stable")
    wanted = by_definition(scores, first(order, count, scores > 0))
    assert listed(selection_loops.largest_in_all(torch.from_numpy(scores), count)) == list(wanted)


wide_matrices = st_numpy.arrays(
    st.sampled_from([np.float32, np.float64]),
    st.tuples(st.integers(0, 4), st.sampled_from([64, 96, 131])),
    elements=st.floats(-1, 1, width=16) | st.sampled_from([0.0, 0.5, 0.75]),
)


@settings(max_examples=120, deadline=None)
@given(wide_matrices, st.integers(1, 5))
def test_ranking_in_two_steps_finds_the_largest_of_each_row(scores, k):
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    keep = np.zeros(scores.shape, dtype=bool)
    np.put_along_axis(keep, order, values=True, axis=1)
    wanted = by_definition(scores, keep & (scores > 0))
    assert listed(OnCuda().largest(torch.from_numpy(scores), k)) == list(wanted)


@settings(max_examples=120, deadline=None)
@given(wide_matrices, st.integers(0, 12))
def test_ranking_in_two_steps_finds_the_largest_of_all_rows(scores, count):
    order = np.argsort(-scores.reshape(-1), kind="stable")
    wanted = by_definition(scores, first(order, count, scores > 0))
    assert listed(OnCuda().largest_in_all(torch.from_numpy(scores), count)) == list(wanted)


@settings(max_examples=60, deadline=None)
@given(matrices, st.integers(0, 60))
def test_what_exceeds_a_limit(scores, most):
    limits = np.linspace(-1, 2, scores.shape[1]).astype(scores.dtype)
    keep = scores > limits
    found = selection_loops.above(torch.from_numpy(scores), torch.from_numpy(limits), most=most)
    if keep.sum() > most:
        assert found is None
    else:
        assert listed(found) == list(by_definition(scores, keep))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_large_scores_on_any_number_of_threads_as_everywhere(seed, threads):
    draw = torch.Generator().manual_seed(seed)
    scores = torch.randn(700, 300, generator=draw)
    scores[::3] = (scores[::3] * 2).round()  # ties
    limits = torch.linspace(0, 2, 300)
    used = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        fast = (
            selection.largest(scores, 7), selection.largest_in_all(scores, 4321),
            selection.above(scores, limits, most=scores.numel()),
        )  # fmt: skip
    finally:
        torch.set_num_threads(used)
    with backends.using("torch"):
        slow = (
            selection.largest(scores, 7), selection.largest_in_all(scores, 4321),
            selection.above(scores, limits, most=scores.numel()),
        )  # fmt: skip
    for a, b in zip(fast, slow, strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])


def test_a_wrong_guess_costs_time_only():
    scores = torch.full((100, 1000), -1.0)
    scores[3, :40] = torch.arange(40) + 1.0  # what a sample does not meet
    offsets, indices = selection.largest_in_all(scores, 30)
    assert indices.tolist() == list(range(10, 40))
    assert offsets.tolist() == [0] * 4 + [30] * 97


def test_pairs_by_feature():
    indices, offsets = torch.tensor([1, 3, 0, 1, 1]), torch.tensor([0, 2, 4, 5])
    order, sorted_rows, starts = selection.by_feature(indices, offsets, 5)
    assert order.tolist() == [2, 0, 3, 4, 1]
    assert sorted_rows.tolist() == [1, 0, 1, 2, 0]
    assert starts.tolist() == [0, 1, 4, 4, 5, 5]
