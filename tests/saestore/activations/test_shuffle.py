"""The order of rows, without data: a permutation, spread as far as it says, mixed as it says."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from saestore.activations import shuffle
from saestore.activations.shuffle import Spread


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 2000),
    window=st.integers(1, 400),
    unit=st.sampled_from([1, 4, 16]),
    seed=st.integers(0, 3),
)
def test_the_fills_of_an_epoch_have_each_place_once_within_their_bounds(rows, window, unit, seed):
    spread = Spread.of(rows, window_rows=window, unit_rows=unit)
    places = [spread.places(n, seed=seed, epoch=0) for n in range(spread.fills)]
    assert np.array_equal(np.sort(np.concatenate(places)), np.arange(rows))
    for number, found in enumerate(places):
        start, stop = spread.bounds(number)
        assert start <= found.min() <= found.max() < stop
        # All of it is in the ring at once, with the fills read ahead.
        assert stop - start <= spread.window_rows + 2 * spread.fill_rows
    for position in range(0, rows, max(rows // 20, 1)):
        first = spread.first_fill(position)
        assert all(found.max() < position for found in places[:first])


def test_draws_differ_by_seed_epoch_lane_and_fill():
    spread = Spread.of(4000, window_rows=1600, unit_rows=4)
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)]
    drawn = {tuple(spread.places(0, seed=s, epoch=e, lane=n)) for s, e, n in keys}
    assert len(drawn) == len(keys)
    again = spread.places(3, seed=1, epoch=2, lane=0)
    assert np.array_equal(again, spread.places(3, seed=1, epoch=2, lane=0))


def simulated(rows, window, unit, context, batch):
    """Same-context partners per row, counted in the order itself."""
    spread = Spread.of(rows, window_rows=window, unit_rows=unit)
    order = shuffle.unit_order(rows // unit, seed=0, epoch=0)
    ids = (order[:, None] * unit + np.arange(unit)).ravel()
    owners = np.empty(rows, np.int64)
    for fill in range(spread.fills):
        here = slice(fill * spread.fill_rows, (fill + 1) * spread.fill_rows)
        owners[spread.places(fill, seed=0, epoch=0)] = ids[here] // context
    met = 0.0
    for number in range(rows // batch):
        _, counts = np.unique(owners[number * batch : (number + 1) * batch], return_counts=True)
        met += float((counts**2).sum()) / batch - 1
    return met / (rows // batch)


# Sizes divided by 16, partners multiplied by it where a whole context's rows are counted.
@pytest.mark.parametrize(
    ("window", "unit", "inflation"),
    [(1 << 16, 16, 2.0), (1 << 16, 8, 1.5), (1 << 14, 16, 5.0), (1 << 12, 16, 17.0)],
)
def test_partners_are_foretold_and_inflation_is_that_of_the_specification(window, unit, inflation):
    rows, context, batch = 1 << 18, 64, 256
    spread = Spread.of(rows, window_rows=window, unit_rows=unit)
    contexts = np.stack([np.arange(0, rows, context), np.full(rows // context, context)], axis=1)
    meet = shuffle.meetings(contexts, unit_rows=unit)
    foretold = shuffle.partners(meet, spread, batch_rows=batch, unit_rows=unit, rows=rows)
    assert simulated(rows, window, unit, context, batch) == pytest.approx(foretold, rel=0.1)
    scaled = shuffle.inflation(
        batch_rows=batch * 16, unit_rows=unit, window_rows=spread.window_rows
    )
    assert scaled == pytest.approx(inflation)


def test_the_default_window_reaches_one_partner_in_a_large_store():
    """The specification's table: 1.07 with 256-row chunks, 0.58 with 128, of 1e8 rows."""
    rows, context, batch = 10**8 // 1024 * 1024, 1024, 4096
    for unit, expected in ((256, 1.07), (128, 0.58)):
        spread = Spread.of(rows, window_rows=1 << 20, unit_rows=unit)
        meet = (unit - 1.0, context - 1.0)
        found = shuffle.partners(meet, spread, batch_rows=batch, unit_rows=unit, rows=rows)
        assert found <= 1.1
        assert found == pytest.approx(expected, rel=0.1)
