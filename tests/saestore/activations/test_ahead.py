"""Ranges read ahead: the rows of the store, in the order asked for, whoever reads them."""

from concurrent.futures import Future
from threading import Event

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from saestore.activations import ActivationStore, read_ahead
from saestore.errors import DamagedArtefactError, HookpointNotFoundError
from saestore.lake import layout
from saestore.testing.stores import HOOKPOINT, scratch_lake, synthetic_store


ROWS = 3000


@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_each_item_is_its_ranges_one_after_the_other(data):
    run = st.tuples(st.integers(0, ROWS - 1), st.integers(1, 400))
    wanted = [
        [(start, min(start + length, ROWS)) for start, length in item]
        for item in data.draw(st.lists(st.lists(run, min_size=1, max_size=3), max_size=12))
    ]
    dtype = data.draw(st.sampled_from(["float32", "float16", "bfloat16", "int8"]))
    threads = data.draw(st.integers(1, 3))
    with scratch_lake() as lake:
        store = synthetic_store(lake, rows=ROWS, dtype=dtype)
        whole = store.read(HOOKPOINT, 0, ROWS)
        found = read_ahead(store, [HOOKPOINT], wanted, most=1200, threads=threads)
        for runs, item in zip(wanted, found, strict=True):
            expected = np.concatenate([whole[slice(*run)] for run in runs])
            assert item[HOOKPOINT].numpy().dtype == np.float32
            assert np.array_equal(item[HOOKPOINT].numpy(), expected)


def test_nothing_wanted_is_nothing_and_a_wrong_name_is_refused():
    with scratch_lake() as lake:
        store = synthetic_store(lake, rows=50)
        assert list(read_ahead(store, [HOOKPOINT], [], most=10)) == []
        with pytest.raises(HookpointNotFoundError):
            next(read_ahead(store, ["blocks.9.hook_mlp_out"], [[(0, 5)]], most=10))


def test_damage_is_found_on_the_way_and_readers_stop():
    with scratch_lake() as lake:
        store = synthetic_store(lake, rows=ROWS)
        path = lake.artefact(store.ref).path(
            layout.shard_file(layout.hook_array(HOOKPOINT), 0, ndim=2)
        )
        data = bytearray(path.read_bytes())
        data[17] ^= 4
        path.write_bytes(data)
        store = ActivationStore.open(lake, store.ref.name)
        items = read_ahead(
            store, [HOOKPOINT], [[(n, n + 100)] for n in range(0, ROWS, 100)], most=100
        )
        with pytest.raises(DamagedArtefactError):
            list(items)


def test_it_may_be_dropped_in_a_thread_that_reads(monkeypatch):
    """The garbage collector runs in whichever thread comes to need it."""
    looked_at, ended = Event(), Future()
    with scratch_lake() as lake:
        store = synthetic_store(lake, rows=ROWS)
        read = store.read_many

        def reading(parts):
            chosen = list(parts)
            if chosen[0][1] == 200:
                assert looked_at.wait(30)
                ended.set_result(items.close())
            return read(chosen)

        monkeypatch.setattr(store, "read_many", reading)
        items = read_ahead(
            store, [HOOKPOINT], [[(n, n + 100)] for n in range(0, ROWS, 100)], most=100
        )
        next(items)
        looked_at.set()
        assert ended.result(30) is None
        assert list(items) == []
