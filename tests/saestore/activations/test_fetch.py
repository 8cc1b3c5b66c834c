"""Machine code reads what the interpreter reads, and leaves it to that to say what is wrong."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from saestore.activations import ActivationStore, ActivationStream, ContextStream, fetch
from saestore.errors import DamagedArtefactError
from saestore.lake import layout
from saestore.testing.stores import scratch_lake, synthetic_store
from saestore_schemas.activations import StoreSettings


H = "blocks.0.hook_resid_post"


@settings(max_examples=6)
@given(data=st.data())
def test_both_ways_give_the_same_rows(data):
    lengths = data.draw(st.lists(st.integers(2, 90), min_size=2, max_size=30))
    width = data.draw(st.sampled_from([1, 7, 16, 48]))
    dtype = data.draw(st.sampled_from(["float32", "float16", "bfloat16", "int8"]))
    rows, window = sum(lengths), data.draw(st.integers(1, 500))
    found = []
    with scratch_lake() as lake:
        store = synthetic_store(
            lake, lengths=np.array(lengths), rows=rows, width=width, hookpoints=(H,), dtype=dtype,
            store=StoreSettings(chunk_kib=1, shard_mib=data.draw(st.sampled_from([0.02, 1]))),
        )  # fmt: skip
        start = data.draw(st.integers(0, rows - 1))
        stop = data.draw(st.integers(start + 1, rows))
        for possible in (True, False):
            with pytest.MonkeyPatch.context() as patch:
                if not possible:
                    patch.setattr(fetch, "possible", lambda: False)
                assert store.direct(store.array_of(H)) == (possible and fetch.possible())
                stream = ActivationStream(store, [H], batch_rows=5, seed=1, window_rows=window,
                                          columns=("tokens", "rows"), epochs=2, last="short")  # fmt: skip
                batches = [{k: v.clone() for k, v in batch.items()} for batch in stream]
                contexts = ContextStream(store, [H], batch_contexts=3, seed=2)
                whole = [batch.hooks[H].clone() for batch in contexts]
                found.append((store.read(H, start, stop), batches, whole))
    (rows, batches, whole), (other_rows, other_batches, other_whole) = found
    assert np.array_equal(rows, other_rows)
    assert len(batches) == len(other_batches)
    for one, other in zip(batches, other_batches, strict=True):
        assert all((one[key] == other[key]).all() for key in one)
    assert all((one == other).all() for one, other in zip(whole, other_whole, strict=True))


def test_units_before_a_damaged_one_are_counted_and_the_rest_is_named(lake):
    if not fetch.possible():
        pytest.skip("this machine reads by the interpreter")
    store = synthetic_store(
        lake, rows=2000, width=16, hookpoints=(H,), store=StoreSettings(chunk_kib=1)
    )
    path = store.array_of(H)
    place = store.located(path, np.array([0, 32, 64]), 32)
    folder = lake.artefact(store.ref).local
    file = folder / layout.shard_file(path, 0, ndim=2)
    content = bytearray(file.read_bytes())
    content[int(place.offsets[1, 1]) + 3] ^= 1
    file.write_bytes(content)
    scatter = fetch.Scatter(16, 64)
    target = np.zeros((96, 64), np.uint8)
    places = np.arange(96).reshape(3, 32)
    place = ActivationStore.open(lake, store.ref.name).located(path, np.array([0, 32, 64]), 32)
    assert scatter.put(place.files, place.offsets, place.crcs, places, target) == 1
    assert np.array_equal(target[:32].view(np.float32), store.read(H, 0, 32))
    stream = ActivationStream(store, [H], batch_rows=8, seed=0, window_rows=64, epochs=1)
    with pytest.raises(DamagedArtefactError, match="chunk 3 does not match"):
        list(stream)
