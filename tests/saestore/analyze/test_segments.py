import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from saestore.analyze import segments
from saestore.analyze.segment_loops import (
    first_free,
    first_of_runs,
    order_runs,
    parted,
    smallest_of_runs,
)


runs = st.lists(
    st.lists(st.sampled_from([0.5, 1.0, 1.5, 3.0, 1e-6]), max_size=9), min_size=1, max_size=6
)


def flat(lists, dtype=np.float32):
    offsets = np.concatenate([[0], np.cumsum([len(r) for r in lists])]).astype(np.int64)
    return np.array([v for r in lists for v in r], dtype), offsets


@settings(deadline=None)
@given(runs)
def test_reductions_are_those_of_each_run(lists):
    values, offsets = flat(lists)
    assert segments.maxima(values, offsets).tolist() == [
        max(np.float32(r).tolist(), default=0) for r in lists
    ]
    assert segments.minima(values, offsets).tolist() == [
        min(np.float32(r).tolist(), default=0) for r in lists
    ]
    found = segments.sums(values.astype(np.float64), offsets)
    exact = [math.fsum(np.float32(r).tolist()) for r in lists]
    assert np.allclose(found, exact, rtol=1e-15, atol=0)
    assert segments.totals(values > 1, offsets).tolist() == [sum(v > 1 for v in r) for r in lists]
    tops = segments.maxima(values, offsets)
    first = first_of_runs(tops, values, offsets)
    for i, run in enumerate(lists):
        expected = offsets[i] + run.index(max(run)) if run else len(values)
        assert first[i] == expected


@settings(deadline=None)
@given(runs)
def test_sorting_stays_inside_runs_and_is_stable(lists):
    values, offsets = flat(lists)
    keys = segments.as_keys(values)
    expected = [v for r in lists for v in sorted(np.float32(r).tolist())]
    assert segments.sorted_within(keys, offsets).view(np.float32).tolist() == expected
    order = segments.order_within(keys, offsets)
    by_run = [offsets[i] + np.argsort(np.float32(r), kind="stable") for i, r in enumerate(lists)]
    assert order.tolist() == np.concatenate(by_run).astype(int).tolist()
    assert segments.rank_within(offsets).tolist() == [j for r in lists for j in range(len(r))]


@settings(deadline=None)
@given(runs, st.integers(0, 1000))
def test_quantiles_are_elements_by_integer_arithmetic(lists, p):
    values, offsets = flat([sorted(r) for r in lists])
    found = segments.permille(values, offsets, p)
    for run, value in zip(lists, found, strict=True):
        number = max(1, -(-p * len(run) // 1000))
        assert value == (np.float32(sorted(run)[number - 1]) if run else 0)


@settings(deadline=None)
@given(
    st.lists(st.floats(0.0009765625, 1024, width=32), max_size=400),
    st.integers(0, 7),
    st.integers(0, 5),
)
def test_a_sum_does_not_depend_on_what_stands_beside_it(values, before, after):
    run = np.array(values, np.float64)
    padded = np.concatenate([np.ones(before), run, np.ones(after)])
    offsets = np.array([0, before, before + len(run), len(padded)])
    alone = segments.sums(run, np.array([0, len(run)]))[0]
    assert segments.sums(padded, offsets)[1] == alone


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), max_size=6))
def test_ragged_stretches_are_laid_end_to_end(pairs):
    start = np.array([a for a, _ in pairs], np.int64)
    stop = np.array([a + n for a, n in pairs], np.int64)
    rows, offsets = segments.ragged(start, stop)
    assert rows.tolist() == [i for a, n in pairs for i in range(a, a + n)]
    assert np.diff(offsets).tolist() == [n for _, n in pairs]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from([0, 1, 2, 300, 5_000]), min_size=1, max_size=8),
    st.integers(0, 32),
    st.integers(0, 1 << 30),
)
def test_runs_of_any_length_and_keys_are_sorted_as_numpy_sorts_them(lengths, bits, seed):
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    most = max(1, (1 << bits) - 1)
    keys = rng.integers(0, most, offsets[-1], np.uint32, endpoint=True)
    keys ^= np.uint32(seed)  # what all have in common stands anywhere
    before = keys.copy()
    by_run = np.lexsort((keys, segments.run_of(offsets)))
    assert np.array_equal(segments.order_within(keys, offsets), by_run)
    assert np.array_equal(order_runs(keys, offsets), by_run)
    assert np.array_equal(segments.sorted_within(keys, offsets), keys[by_run])
    assert np.array_equal(keys, before)


LENGTHS = st.lists(st.sampled_from([0, 1, 2, 30, 700]), min_size=1, max_size=8)


def ends_of(lengths):
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


@settings(deadline=None, max_examples=60)
@given(
    LENGTHS, st.sampled_from([1, 2, 5, 60, 10_000]), st.sampled_from([1, 4, 32]), st.integers(0, 99)
)
def test_the_smallest_are_the_first_of_the_order(lengths, n, bits, seed):
    offsets = ends_of(lengths)
    keys = np.random.default_rng(seed).integers(0, 1 << bits, offsets[-1], np.uint32)
    first = segments.rank_within(offsets) < n
    found, ends = smallest_of_runs(keys, offsets, n)
    assert found.tolist() == order_runs(keys, offsets)[first].tolist()
    assert np.diff(ends).tolist() == [min(length, n) for length in lengths]


def test_the_smallest_of_falling_keys_are_the_last():
    found, _ = smallest_of_runs(np.arange(9, -1, -1, dtype=np.uint32), np.array([0, 10]), 3)
    assert found.tolist() == [9, 8, 7]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sets(st.integers(0, 12)), min_size=1, max_size=6), st.integers(0, 13))
def test_the_first_free_places_are_those_that_are_not_taken(taken, n):
    free = [sorted(set(range(13)) - each) for each in taken]
    wanted = np.array([min(n, len(each)) for each in free])
    given_places = np.array([place for each in taken for place in each], np.uint32)
    found, ends = first_free(given_places, ends_of([len(x) for x in taken]), wanted, 13)
    assert found.tolist() == [place for each in free for place in each[:n]]
    assert np.diff(ends).tolist() == wanted.tolist()


STRETCHES = st.lists(
    st.lists(st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=1, max_size=4), max_size=3),
    min_size=1,
    max_size=5,
)  # by run, by context, strengths


@settings(deadline=None, max_examples=60)
@given(STRETCHES)
def test_parts_are_the_contexts_of_a_run(runs_of_contexts):
    firings = [
        (context, 3 * at, strength)
        for run in runs_of_contexts
        for context, part in enumerate(run)
        for at, strength in enumerate(part)
    ]
    columns = zip(*firings, strict=True) if firings else ([], [], [])
    kinds = np.uint32, np.uint16, np.float32
    given_columns = [np.array(c, kind) for c, kind in zip(columns, kinds, strict=True)]
    offsets = ends_of([sum(map(len, run)) for run in runs_of_contexts])
    ends, (context, start, stop, strength, position) = parted(*given_columns, offsets)
    assert np.diff(ends).tolist() == [len(run) for run in runs_of_contexts]
    parts = [part for run in runs_of_contexts for part in run]
    assert context.tolist() == [n for run in runs_of_contexts for n in range(len(run))]
    assert (stop - start).tolist() == list(map(len, parts))
    assert start.tolist() == (ends_of(list(map(len, parts)))[:-1]).tolist()
    assert strength.tolist() == list(map(max, parts))
    assert position.tolist() == [3 * part.index(max(part)) for part in parts]


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("four_threads")
def test_threads_find_what_one_finds():
    rng = np.random.default_rng(5)
    offsets = np.concatenate([[0, 0], np.cumsum(rng.integers(0, 9_000, 80)), [0]])
    offsets[-1] = offsets[-2]
    keys = rng.integers(0, 1 << 32, offsets[-1], np.uint32)
    assert offsets[-1] > 4 << 16  # each has a share
    assert np.array_equal(order_runs(keys, offsets), np.lexsort((keys, segments.run_of(offsets))))
    found, _ = smallest_of_runs(keys, offsets, 7)
    first = segments.rank_within(offsets) < 7
    assert np.array_equal(found, order_runs(keys, offsets)[first])
    counts = np.diff(offsets)
    wanted = np.where(counts > 0, keys[np.minimum(offsets[:-1] + counts // 2, len(keys) - 1)], 0)
    where = np.where(counts > 0, offsets[:-1] + counts // 2, len(keys))
    assert np.array_equal(first_of_runs(wanted, keys, offsets), where)
    free, ends = first_free(keys % np.uint32(50_000), offsets, np.full(82, 3), 50_000)
    for run, (low, high) in enumerate(pairwise(offsets.tolist())):
        taken = set((keys[low:high] % 50_000).tolist())
        ours = free[ends[run] : ends[run + 1]].tolist()
        assert ours == [place for place in range(10_000) if place not in taken][:3]
