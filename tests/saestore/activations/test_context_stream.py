"""Whole contexts: each once an epoch, with everything that belongs to it, from any position."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from saestore.activations import ContextStream
from saestore.errors import ConfigError, DamagedArtefactError
from saestore.lake import layout
from saestore.testing.stores import HOOKPOINT, scratch_lake, synthetic_store


def check(store, batch):
    """Everything in a batch is what the store says of its contexts."""
    table, segments = store.contexts(), store.segments()
    for index, context in enumerate(batch.contexts):
        start, length = table[context]
        here = slice(int(batch.offsets[index]), int(batch.offsets[index + 1]))
        rows = store.read(HOOKPOINT, int(start), int(start + length))
        assert np.array_equal(batch.hooks[HOOKPOINT][here].float().numpy(), rows)
        assert np.array_equal(batch.tokens[here], store.tokens(int(start), int(start + length)))
        assert np.array_equal(batch.flags[here], store.flags(int(start), int(start + length)))
        assert batch.positions[here].tolist() == list(range(length))
        mine = batch.segments[batch.segments[:, 0] == index]
        assert np.array_equal(mine[:, 1:], segments[segments[:, 0] == context][:, 1:])
    assert batch.offsets[-1] == len(batch.tokens)


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_each_epoch_has_every_context_of_the_split_once_and_any_rest_is_the_rest(data):
    lengths = np.array(data.draw(st.lists(st.integers(1, 60), min_size=2, max_size=25)))
    size = data.draw(st.integers(1, 6))
    seed = data.draw(st.sampled_from([None, 0, 3]))
    split = data.draw(st.sampled_from(["all", "train"]))
    dtype = data.draw(st.sampled_from(["float32", "float16", "bfloat16", "int8"]))
    with scratch_lake() as lake:
        store = synthetic_store(lake, rows=int(lengths.sum()), lengths=lengths, dtype=dtype)
        make = {"batch_contexts": size, "seed": seed, "split": split, "held_out": 0.3, "epochs": 2}
        try:
            stream = ContextStream(store, [HOOKPOINT], **make)
        except ConfigError:
            return
        seen, at = [], stream.contexts_per_epoch
        for batch in stream:
            check(store, batch)
            seen.append(batch.contexts)
        order = np.concatenate(seen)
        assert len(order) == 2 * at
        assert len(set(order[:at])) == len(set(order[at:])) == at
        if seed is None:
            assert np.array_equal(order[:at], np.sort(order[:at]))
        cut = data.draw(st.integers(0, len(seen)))
        first = ContextStream(store, [HOOKPOINT], **make)
        list(islice(first, cut))
        second = ContextStream(store, [HOOKPOINT], **make)
        list(islice(second, 1))
        second.load_state_dict(first.state_dict())
        rest = [batch.contexts for batch in second]
        assert all(map(np.array_equal, rest, seen[cut:]))
        assert len(rest) == len(seen) - cut
        for rank in range(2):
            half = ContextStream(store, [HOOKPOINT], rank=rank, world=2, **make)
            assert all(map(np.array_equal, [b.contexts for b in half], seen[rank::2]))


def test_the_batch_before_the_newest_stays_valid(lake):
    store = synthetic_store(lake, rows=600)
    stream = ContextStream(store, [HOOKPOINT], batch_contexts=2, epochs=None)
    before = next(stream)
    for batch in islice(stream, 12):
        check(store, before)
        before = batch


def test_damage_is_raised_with_the_file_named(lake):
    store = synthetic_store(lake, rows=900)
    path = lake.artefact(store.ref).path(layout.shard_file(layout.hook_array(HOOKPOINT), 0, ndim=2))
    data = bytearray(path.read_bytes())
    data[17] ^= 4
    path.write_bytes(data)
    with pytest.raises(DamagedArtefactError, match="chunk 0 does not match"):
        list(ContextStream(store, [HOOKPOINT], batch_contexts=3))


def test_a_range_has_only_contexts_that_lie_in_it_whole(lake):
    store = synthetic_store(lake, rows=320, context_size=32)
    stream = ContextStream(store, [HOOKPOINT], batch_contexts=2, rows=(30, 130))
    assert [batch.contexts.tolist() for batch in stream] == [[1, 2], [3]]
    with pytest.raises(ConfigError, match="no context"):
        ContextStream(store, [HOOKPOINT], batch_contexts=2, rows=(1, 40))


def test_a_state_of_another_sequence_is_refused(lake):
    store = synthetic_store(lake, rows=320)
    state = ContextStream(store, [HOOKPOINT], batch_contexts=2).state_dict()
    with pytest.raises(ConfigError, match="as when the position was saved"):
        ContextStream(store, [HOOKPOINT], batch_contexts=3).load_state_dict(state)
