"""Exact sums against whole numbers: any order, any split, any size of value."""

import math
from fractions import Fraction

import numpy as np
from hypothesis import given, settings, strategies as st

from saestore.analyze.exact_sums import ExactSums


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def exactly(values):
    """Sum, sum of squares, mean and standard deviation by rational numbers, each rounded once."""
    whole = [Fraction(float(v)) for v in values]
    total, square, n = sum(whole), sum(v * v for v in whole), len(whole)
    variance = square / n - (total / n) ** 2
    return float(total), float(square), float(total) / n, math.sqrt(float(variance))


@given(st.lists(st.lists(FLOATS, max_size=40), min_size=1, max_size=5), st.data())
@settings(max_examples=60, deadline=None)
def test_sums_are_those_of_rational_numbers_in_any_order_and_split(runs, data):
    counts = np.array([len(run) for run in runs])
    whole = ExactSums.of(len(runs))
    whole.add(
        np.array([v for run in runs for v in run], np.float32),
        np.concatenate([[0], np.cumsum(counts)]),
    )
    merged = ExactSums.of(len(runs))
    for feature, run in enumerate(runs):
        mixed = data.draw(st.permutations(run))
        cut = data.draw(st.integers(0, len(run)))
        for part in (mixed[cut:], mixed[:cut]):
            other = ExactSums.of(len(runs))
            other.add(np.array(part, np.float32), np.array([0, len(part)]), feature)
            merged.merge(other)
    assert np.array_equal(merged.sums, whole.sums)
    assert np.array_equal(merged.squares, whole.squares)
    found = whole.moments(counts)
    for feature, run in enumerate(runs):
        expected = exactly(run) if run else (0, 0, 0, 0)
        assert tuple(column[feature] for column in found.values()) == expected


def test_the_largest_and_smallest_values_many_times():
    big, tiny = np.finfo(np.float32).max, np.float32(2.0**-149)
    values = np.array([big] * 5000 + [tiny] * 3 + [-big] * 5000, np.float32)
    sums = ExactSums.of(1)
    sums.add(values, np.array([0, len(values)]))
    assert sums.moments(np.array([len(values)]))["sum"][0] == 3 * 2.0**-149
