"""Mixes: exact shares over any prefix, each source in its own order, from any position."""

from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from saestore.activations import MixedStream, RowChoice, Source
from saestore.activations.mix import pattern
from saestore.errors import ConfigError
from saestore.testing.stores import HOOKPOINT, scratch_lake, synthetic_store


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 40).map(float), min_size=1, max_size=6))
def test_shares_are_exact_within_one_row_over_any_prefix(weights):
    order = pattern(weights)
    counts = np.cumsum(order[:, None] == np.arange(len(weights)), axis=0)
    exact = np.arange(1, len(order) + 1)[:, None] * np.array(weights) / sum(weights)
    assert np.abs(counts - exact).max() < 1
    assert np.array_equal(counts[-1] * sum(weights), len(order) * np.array(weights))


def test_weights_without_a_short_pattern_are_refused():
    assert pattern([0.7, 0.3]).tolist().count(0) == 7
    with pytest.raises(ConfigError, match="repeat within"):
        pattern([0.123456789, 1.0])
    with pytest.raises(ConfigError, match="weights above 0"):
        pattern([1.0, 0.0])


def store_of(lake, name, rows, base, **options):
    """A store whose rows say which they are."""
    values = np.stack([np.arange(rows), np.full(rows, base)], axis=1).astype(np.float32)
    return synthetic_store(lake, name, values={HOOKPOINT: values}, **options)


@settings(max_examples=8, deadline=None)
@given(
    rows=st.tuples(st.integers(30, 500), st.integers(30, 500)),
    weights=st.sampled_from([(1.0, 1.0), (3.0, 1.0), (0.9, 0.1)]),
    batch=st.integers(1, 50),
    window=st.sampled_from([None, 300]),
    at=st.integers(0, 12),
)
def test_each_source_comes_in_epochs_of_its_own_and_a_resumed_mix_is_the_rest(
    rows, weights, batch, window, at
):
    with scratch_lake() as lake:
        stores = [store_of(lake, f"s{n}", rows[n], n, context_size=10) for n in (0, 1)]
        sources = [Source(store, weight) for store, weight in zip(stores, weights, strict=True)]
        make = {"batch_rows": batch, "seed": 2, "window_rows": window}
        stream = MixedStream(sources, [HOOKPOINT], **make)
        steps = min(-(-int(2.2 * sum(rows)) // batch), 150)
        everything = [batch[HOOKPOINT].clone() for batch in islice(stream, steps)]
        whole = torch.cat(everything).numpy().astype(int)
        for index, store in enumerate(stores):
            mine = whole[whole[:, 1] == index, 0]
            assert len(mine) == stream.before(steps * batch)[index]
            kept = np.flatnonzero(store.kept())
            for epoch in range(len(mine) // len(kept)):
                here = mine[epoch * len(kept) : (epoch + 1) * len(kept)]
                assert np.array_equal(np.sort(here), kept)
        first = MixedStream(sources, [HOOKPOINT], **make)
        list(islice(first, at))
        second = MixedStream(sources, [HOOKPOINT], **(make | {"window_rows": 77}))
        second.load_state_dict(first.state_dict())
        rest = [batch[HOOKPOINT].clone() for batch in islice(second, 6)]
        assert all(map(torch.equal, rest, everything[at : at + 6]))


def test_sources_may_have_other_types_and_ranges(lake):
    one = store_of(lake, "one", 200, 0, dtype="float16")
    two = store_of(lake, "two", 200, 1, dtype="bfloat16")
    sources = [Source(one, 1.0), Source(two, 1.0, RowChoice(rows=(100, 180)))]
    stream = MixedStream(sources, [HOOKPOINT], batch_rows=10, seed=0)
    assert stream.source_rows[1] < 80
    assert stream.rows_per_epoch == sum(stream.source_rows)
    for batch in islice(stream, 20):
        rows = batch[HOOKPOINT].numpy().astype(int)
        assert (rows[:, 1] == 1).sum() == 5
        assert ((rows[rows[:, 1] == 1, 0] >= 100) & (rows[rows[:, 1] == 1, 0] < 180)).all()


def test_stores_that_do_not_fit_together_are_refused(lake):
    one, two = (synthetic_store(lake, f"w{w}", rows=64, width=w) for w in (3, 4))
    with pytest.raises(ConfigError, match="one width"):
        MixedStream([Source(one, 1.0), Source(two, 1.0)], [HOOKPOINT], batch_rows=4, seed=0)
    state = MixedStream([Source(one, 1.0)], [HOOKPOINT], batch_rows=4, seed=0).state_dict()
    with pytest.raises(ConfigError, match="as when the position was saved"):
        MixedStream([Source(one, 1.0)], [HOOKPOINT], batch_rows=5, seed=0).load_state_dict(state)
