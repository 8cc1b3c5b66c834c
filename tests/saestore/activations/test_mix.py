"""Mixes: exact shares over any prefix, each source in its own order, from any position and rank."""

from itertools import chain, islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from saestore.activations import ActivationStream, MixedStream, RowChoice, Source
from saestore.activations.batches import Batches
from saestore.activations.mix import pattern
from saestore.activations.mixed_batches import SourceBatches
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


def by_hand(weights, rows, batches):
    """Each batch of a mix as the (source, number among the source's rows) of each of its rows."""
    order, had, sequence, size = pattern(weights), [0] * len(rows), 0, batches.batch_rows
    made = []
    for _ in range(batches.epochs):
        here = []
        length = sum(rows) if batches.last != "drop" else sum(rows) // size * size
        for row in range(length):
            place = row if batches.last == "short" else sequence
            source = order[place % len(order)]
            here.append((source, had[source]))
            had[source] += 1
            sequence += 1
        made.append(here)
    cut = made if batches.last == "short" else [list(chain(*made))]
    return [part[at : at + size] for part in cut for at in range(0, len(part), size)]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_source_falls_into_batches_and_lanes_as_by_hand(data):
    rows = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    weights = [float(data.draw(st.integers(1, 4))) for _ in rows]
    last = data.draw(st.sampled_from(["carry", "drop", "short"]))
    size = data.draw(st.integers(1, sum(rows)))
    lanes, epochs = data.draw(st.sampled_from([1, 2, 3, 4])), data.draw(st.integers(1, 5))
    mix = Batches(sum(rows), size, last, epochs, lanes)
    batches = by_hand(weights, rows, mix)
    assert mix.count == len(batches)
    for source, own in enumerate(rows):
        if last == "short" and source not in np.resize(pattern(weights), sum(rows)):
            continue  # too few rows for a share, as tested below
        cut = SourceBatches(mix, pattern(weights), source, own)
        laned = [[] for _ in range(lanes)]
        for number, batch in enumerate(batches):
            mine = [row for which, row in batch if which == source]
            lane, start, stop = cut.span(number)
            assert lane == number % lanes
            assert (start, stop - start) == (len(laned[lane]), len(mine))
            assert cut.batch_rows >= len(mine)
            assert cut.reaches(lane) or not mine
            if mine:
                assert cut.before(number) == mine[0]
                assert cut.epoch_of(number) == mine[0] // own
            laned[lane] += mine
        delivered = sum(map(len, laned))
        assert cut.epochs == -(-delivered // own)
        for epoch in range(delivered // own):  # the others are not whole here
            skip = 0
            for lane, has in enumerate(laned):
                inside = [row for row in has if row // own == epoch]
                before = sum(row < epoch * own for row in has)
                part = cut.lane(lane, epoch)
                assert (part.begin, part.rows, part.skip) == (before, len(inside), skip)
                skip += len(inside)
            assert skip == own


def test_a_source_without_a_row_in_every_short_epoch_is_refused():
    with pytest.raises(ConfigError, match="gives it none of 20 rows") as caught:
        SourceBatches(Batches(20, 6, "short"), pattern([99.0, 1.0]), 1, 10)
    assert "raise its weight" in caught.value.hint


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
            assert len(mine) == stream.before(steps)[index]
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


@pytest.mark.parametrize("window", [None, 300])
@pytest.mark.parametrize("last", ["carry", "short"])
def test_a_mix_of_one_store_is_the_stream_of_the_store(lake, window, last):
    store = store_of(lake, "one", 500, 0)
    make = {"batch_rows": 37, "seed": 4, "window_rows": window, "lanes": 2}
    make |= {"last": last, "epochs": 3}
    alone = [batch[HOOKPOINT].clone() for batch in ActivationStream(store, [HOOKPOINT], **make)]
    mixed = MixedStream([Source(store, 0.3)], [HOOKPOINT], **make)
    assert mixed.mixing == ActivationStream(store, [HOOKPOINT], **make).mixing
    assert all(map(torch.equal, alone, (batch[HOOKPOINT] for batch in mixed)))


@pytest.mark.parametrize("last", ["carry", "drop", "short"])
def test_an_epoch_has_as_many_rows_as_the_sources_together(lake, last):
    stores = [store_of(lake, f"s{n}", rows, n) for n, rows in enumerate((330, 140))]
    sources = [Source(store, weight) for store, weight in zip(stores, (1.0, 2.0), strict=True)]
    make = {"batch_rows": 150, "seed": 0, "last": last, "epochs": 2}
    stream = MixedStream(sources, [HOOKPOINT], **make)
    whole, rest = divmod(stream.rows_per_epoch, 150)
    assert 0 < rest * 2 <= 150
    sizes = [len(batch[HOOKPOINT]) for batch in stream]
    assert (
        sizes
        == {
            "carry": [150] * 2 * whole + [2 * rest],
            "drop": [150] * 2 * whole,
            "short": ([150] * whole + [rest]) * 2,
        }[last]
    )


@pytest.mark.parametrize("window", [None, 260], ids=["residents", "rings"])
def test_columns_say_of_which_rows_a_batch_is(lake, window):
    stores = [synthetic_store(lake, f"s{n}", rows=500, seed=n, width=30) for n in (0, 1)]
    sources = [Source(stores[0], 2.0), Source(stores[1], 1.0, RowChoice("all", 0.0, None, 1))]
    make = {"batch_rows": 33, "seed": 1, "window_rows": window, "lanes": 2}
    columns = ("rows", "sources", "flags", "tokens")
    plain = MixedStream(sources, [HOOKPOINT], **make)
    stream = MixedStream(sources, [HOOKPOINT], columns=columns, **make)
    for batch, same in zip(islice(stream, 40), plain, strict=False):
        assert torch.equal(batch[HOOKPOINT], same[HOOKPOINT])
        assert (
            batch["sources"] == torch.repeat_interleave(torch.arange(2), torch.tensor([22, 11]))
        ).all()
        for source, store in enumerate(stores):
            here = (batch["sources"] == source).numpy()
            rows = batch["rows"].numpy()[here]
            assert np.array_equal(
                batch[HOOKPOINT].numpy()[here], store.read(HOOKPOINT, 0, 500)[rows]
            )
            assert np.array_equal(batch["tokens"].numpy()[here], store.tokens()[rows])
            assert np.array_equal(batch["flags"].numpy()[here], store.flags()[rows])


def test_rows_as_they_are_stored_are_of_one_type(lake):
    one, two = (store_of(lake, t, 60, 0, dtype=t) for t in ("float16", "bfloat16"))
    make = {"batch_rows": 8, "seed": 0, "dtype": "stored"}
    batch = next(MixedStream([Source(one, 1.0), Source(one, 1.0)], [HOOKPOINT], **make))
    assert batch[HOOKPOINT].dtype == torch.float16
    with pytest.raises(ConfigError, match="bfloat16'; expected 'float32'"):
        MixedStream([Source(one, 1.0), Source(two, 1.0)], [HOOKPOINT], **make)


@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_ranks_deliver_one_mix_whatever_the_weights(data):
    rows = [data.draw(st.integers(40, 400)) for _ in range(data.draw(st.integers(2, 3)))]
    weights = [float(data.draw(st.sampled_from([1, 2, 7]))) for _ in rows]
    make = {
        "batch_rows": data.draw(st.integers(1, 40)),
        "window_rows": data.draw(st.sampled_from([None, 200])),
        "lanes": data.draw(st.sampled_from([1, 2, 3, 4])),
        "last": data.draw(st.sampled_from(["carry", "drop", "short"])),
        "columns": ("sources", "rows"),
    }
    make |= {"seed": 1, "epochs": 2}

    def batches(stream):
        return [torch.stack([batch["sources"], batch["rows"]]).tolist() for batch in stream]

    with scratch_lake() as lake:
        stores = [store_of(lake, f"s{n}", size, n) for n, size in enumerate(rows)]
        sources = [Source(*pair) for pair in zip(stores, weights, strict=True)]
        one = batches(MixedStream(sources, [HOOKPOINT], **make))
        world = data.draw(st.sampled_from([2, 3, 4]))
        for rank in range(world):
            stream = MixedStream(sources, [HOOKPOINT], rank=rank, world=world, **make)
            assert batches(stream) == one[rank::world]


def test_a_state_of_a_stream_of_another_kind_is_refused(lake):
    store = store_of(lake, "one", 60, 0)
    make = {"batch_rows": 8, "seed": 0}
    alone = ActivationStream(store, [HOOKPOINT], **make)
    mixed = MixedStream([Source(store, 1.0)], [HOOKPOINT], **make)
    with pytest.raises(ConfigError, match=r"activations\.source_rows: the saved position"):
        mixed.load_state_dict(alone.state_dict())
    with pytest.raises(ConfigError, match=r"rows_per_epoch: .*of this kind saved"):
        alone.load_state_dict(mixed.state_dict())
    state = {name: value for name, value in alone.state_dict().items() if name != "position"}
    with pytest.raises(ConfigError, match="position: found None; expected a whole number"):
        alone.load_state_dict(state)
