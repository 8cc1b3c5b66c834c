"""Stores of other types, chunks and shards are read side by side: a batch has the same rows of each."""

from itertools import islice

import numpy as np
import pytest

from saestore.activations import ActivationStream, JoinedStore, read_ahead
from saestore.activations.window import Resident, Ring
from saestore.errors import UnsupportedError
from saestore.testing.stores import HOOKPOINT, scratch_lake, synthetic_rows, synthetic_store
from saestore_schemas.activations import HeadSettings, StoreSettings


ROWS = 300
SCALE = np.linspace(0.5, 9, ROWS, dtype=np.float32)
SHAPES = {
    "fine": (16, "float32", StoreSettings(chunk_kib=1, shard_mib=0.05)),  # chunks of 16 rows
    "sharded": (24, "bfloat16", StoreSettings(chunk_kib=4, shard_mib=0.0016)),  # shards of 32
    "long": (8, "int8", StoreSettings(chunk_kib=1, shard_mib=0.05)),  # chunks, and so units, of 128
    "packed": (5, "float16", StoreSettings(chunk_kib=1, shard_mib=0.05, codec="zstd")),
}


@pytest.fixture(scope="module")
def joined():
    with scratch_lake() as lake:
        for seed, (name, (width, dtype, store)) in enumerate(SHAPES.items()):
            values = {HOOKPOINT: synthetic_rows(ROWS, width, seed=seed)}
            scale = SCALE if name == "packed" else None
            synthetic_store(lake, name, values=values, dtype=dtype, store=store, norm_scale=scale)
        heads = [HeadSettings(name=f"of {s}", store=s, hookpoint=HOOKPOINT) for s in SHAPES]
        yield JoinedStore.of(lake, heads)


def streamed(joined, most=None, position=None, **options):
    """The row numbers of each batch, after its rows were found to be those of the stores."""
    columns = ("rows", "tokens")
    stream = ActivationStream(
        joined, list(joined.hookpoints), batch_rows=40, seed=3, columns=columns, **options
    )
    if position is not None:
        stream.load_state_dict(position)
    found = []
    for batch in islice(stream, most):
        rows = batch["rows"].numpy()
        assert np.array_equal(batch["tokens"].numpy(), joined.tokens()[rows])
        for head, (store, hook) in joined.heads.items():
            assert np.array_equal(batch[head].numpy(), store.read(hook, 0, ROWS)[rows])
        found.append(rows.tolist())
    windows = {type(window) for window in stream._feed._windows.values()}
    return found, stream.state_dict(), windows


@pytest.mark.parametrize(("window", "kind"), [(128, Ring), (None, Resident)])
def test_a_batch_has_the_same_rows_of_every_store(joined, window, kind):
    options = {"window_rows": window, "lanes": 2, "epochs": 1}
    whole, _, windows = streamed(joined, **options)
    assert windows == {kind}
    times = np.bincount(np.concatenate(whole), minlength=ROWS)
    assert times.tolist() == joined.kept().astype(int).tolist()
    first, state, _ = streamed(joined, most=3, **options)
    rest, _, _ = streamed(joined, position=state, **options)
    assert first + rest == whole
    for rank in (0, 1):
        mine, _, _ = streamed(joined, rank=rank, world=2, **options)
        assert mine == whole[rank::2]


def test_what_one_store_captured_is_that_of_all_unless_they_are_of_several_models(joined):
    assert joined.captures == ("final_norm_scale",)
    assert np.array_equal(joined.captured("final_norm_scale", 7, 90), SCALE[7:90])
    with scratch_lake() as lake:
        synthetic_store(lake, "a", rows=64, norm_scale=SCALE[:64])
        synthetic_store(lake, "b", rows=64, norm_scale=SCALE[:64], lm="another")
        heads = [HeadSettings(name=f"of {s}", store=s, hookpoint=HOOKPOINT) for s in "ab"]
        several = JoinedStore.of(lake, heads)
        assert several.captures == ()
        with pytest.raises(UnsupportedError, match="several language models"):
            several.captured("final_norm_scale")


def test_ranges_are_read_from_every_store(joined):
    runs = [((3, 40), (200, 290)), ((0, 1),)]
    heads = list(joined.heads)
    for wanted, read in zip(runs, read_ahead(joined, heads, runs, most=128), strict=True):
        rows = np.concatenate([np.arange(*run) for run in wanted])
        for head, (store, hook) in joined.heads.items():
            assert np.array_equal(read[head].numpy(), store.read(hook, 0, ROWS)[rows])
            assert np.array_equal(joined.read(head, 3, 40), store.read(hook, 3, 40))
            assert joined.moments(head).count == store.moments(hook).count
