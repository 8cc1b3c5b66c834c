"""Blocks: every kept row of the chosen contexts once, in fixed stretches of the store."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from saestore.evaluate import selection
from saestore.evaluate.selection import Block, blocks, choose, spread


class Store:
    """Rows that hold their own number; every fifth is flagged."""

    def __init__(self, rows):
        self.n_rows = rows

    def flags(self, start, stop):
        assert 0 <= start < stop <= self.n_rows
        return (np.arange(start, stop) % 5 == 0).astype(np.uint8)


def read(block):
    """The rows that a block's runs name, those it wants among them."""
    return np.concatenate([np.arange(*run) for run in block.runs])[block.places]


def laid_out(lengths):
    lengths = np.array(lengths)
    return np.stack([np.cumsum(lengths) - lengths, lengths], axis=1)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(selection, "BLOCK_ROWS", 16)
    monkeypatch.setattr(selection, "FLAGS_AT_ONCE", 64)
    monkeypatch.setattr(selection, "GAP", 3)


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=12),
    st.integers(0, 2**12 - 1),
    st.none() | st.integers(1, 80),
)
def test_each_kept_row_of_the_chosen_contexts_comes_once_in_order(lengths, bits, limit):
    contexts = laid_out(lengths)
    chosen = np.flatnonzero([bits >> n & 1 for n in range(len(lengths))])
    store = Store(int(contexts[-1].sum()))
    found = list(blocks(store, contexts, chosen, limit=limit))
    expected = [
        (row, context)
        for context in chosen
        for row in range(contexts[context, 0], contexts[context].sum())
        if row % 5
    ][:limit]
    rows = [
        (row, owner)
        for block in found
        for row, owner in zip(block.rows, block.contexts, strict=True)
    ]
    assert rows == expected
    for block in found:
        assert len(set(block.rows // 16)) == 1
        assert list(read(block)) == list(block.rows)


def test_a_row_shares_its_block_with_the_same_rows_whatever_the_limit():
    contexts = laid_out([30, 30, 30])
    store, every = Store(90), np.arange(3)
    whole = list(blocks(store, contexts, every, limit=None))
    some = list(blocks(store, contexts, every, limit=40))
    assert all((one.rows == other.rows).all() for one, other in zip(some[:-1], whole, strict=False))


@given(st.integers(1, 200), st.integers(1, 250))
def test_an_even_spread_has_even_gaps(items, wanted):
    places = spread(items, wanted)
    assert len(set(places)) == len(places) == min(items, wanted)
    assert ((places >= 0) & (places < items)).all()
    if len(places) > 1:
        assert np.ptp(np.diff(places)) <= 1


def test_contexts_are_chosen_from_the_whole_split():
    contexts = laid_out([10] * 100)
    split = np.arange(100) % 2 == 1
    assert list(choose(contexts, split, None)) == list(range(1, 100, 2))
    some = choose(contexts, split, 100)
    assert len(some) == 10
    assert some.min() < 10
    assert some.max() >= 90
    assert len(choose(contexts, split, 3)) == 1


def test_far_rows_are_read_apart_and_near_ones_together():
    rows = np.array([4, 5, 8, 12, 13])
    block = Block.of(rows, np.zeros(5, np.int64))
    assert block.runs == ((4, 9), (12, 14))
    assert list(block.places) == [0, 1, 4, 5, 6]
