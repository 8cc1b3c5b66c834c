"""What is written is read, bit for bit, by us and by zarr-python."""

import numpy as np
import pytest
import zarr
from hypothesis import given, settings, strategies as st

from saestore.activations import ActivationStore, codecs, halves, verify
from saestore.errors import (
    ArtefactNotFoundError,
    ConfigError,
    HookpointNotFoundError,
    OverflowRowError,
)
from saestore.lake import Lake, layout
from saestore.testing.stores import HOOKPOINT, scratch_lake, synthetic_rows, synthetic_store
from saestore_schemas.activations import StoreSettings


FLOATS = ["float32", "float16", "bfloat16"]
DTYPES = [*FLOATS, "int8"]


def rounded(values, dtype):
    """What a type keeps of float32 values, by torch, which we did not write."""
    import torch

    return torch.from_numpy(values).to(getattr(torch, dtype)).float().numpy()


def standardised(rows, flags):
    """Rows as int8 keeps them, by the formula of the specification."""
    kept = rows[flags == 0].astype(np.float64)
    deviations = kept.std(axis=0).astype(np.float32) if len(kept) else np.ones(rows.shape[1])
    deviations = np.where(deviations == 0, 1, deviations).astype(np.float32)
    wide = rows / deviations
    scales = np.abs(wide).max(axis=1, keepdims=True) / np.float32(127)
    scales[scales == 0] = 1
    stored = np.clip(np.round(wide / scales), -127, 127)
    return stored.astype(np.float32) * scales * deviations


def by_zarr(store, hookpoint):
    """The rows as zarr-python reads them, as float32, decoded as the array's attributes say."""
    group = zarr.open_group(store._artefact.path(), mode="r")
    values = group[layout.hook_array(hookpoint)][...]
    if store.spec.dtype == "bfloat16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    if store.spec.dtype == "int8":
        scales = group[f"hooks/{hookpoint}.scale"][...]
        deviations = group[f"deviations/{hookpoint}"][...]
        return values.astype(np.float32) * scales[:, None] * deviations
    return values.astype(np.float32)


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_every_row_comes_back_bit_for_bit(data):
    dtype = data.draw(st.sampled_from(DTYPES))
    rows = data.draw(st.integers(1, 300))
    width = data.draw(st.sampled_from([1, 2, 7, 24, 65]))
    shard_rows = data.draw(st.sampled_from([1, 16, 64, 256]))
    context_size = data.draw(st.sampled_from([1, 3, 32, 400]))
    size = {"float32": 4, "int8": 1}.get(dtype, 2)
    shape = StoreSettings(
        chunk_kib=data.draw(st.sampled_from([1, 2])),
        shard_mib=shard_rows * width * size / 2**20,
        codec=data.draw(st.sampled_from(["none", "zstd"])),
    )
    values = {
        "blocks.0.hook_resid_post": synthetic_rows(rows, width, seed=rows),
        "blocks.0.attn.hook_z": synthetic_rows(rows, max(width // 2, 1), seed=rows + 1),
    }
    start = data.draw(st.integers(0, rows))
    stop = data.draw(st.integers(start, rows))
    with scratch_lake() as lake:
        store = synthetic_store(
            lake, values=values, dtype=dtype, context_size=context_size, store=shape
        )
        assert store.spec.shard_rows == shard_rows
        for name, whole in values.items():
            expected = (
                standardised(whole, store.flags()) if dtype == "int8" else rounded(whole, dtype)
            )
            assert np.array_equal(store.read(name, 0, rows), expected)
            assert np.array_equal(store.read(name, start, stop), expected[start:stop])
            assert np.array_equal(by_zarr(store, name), expected)
        group = zarr.open_group(store._artefact.path(), mode="r")
        assert np.array_equal(group["tokens"][...], store.tokens())
        assert np.array_equal(group["flags"][...], store.flags())
        assert np.array_equal(group["contexts"][...], store.contexts())
        assert np.array_equal(group["segments"][...], store.segments())
        assert np.array_equal(store.tokens(start, stop), store.tokens()[start:stop])
        assert store.contexts()[:, 1].sum() == rows
        assert verify.damage(lake, "synthetic") == []


def test_zarr_python_reads_what_is_there_and_nan_where_nothing_is(lake):
    store = synthetic_store(lake, rows=50, dtype="bfloat16")
    array = zarr.open_group(store._artefact.path(), mode="r")[f"hooks/{HOOKPOINT}"]
    assert array.attrs["dtype"] == "bfloat16"
    assert array.attrs["hookpoint"] == HOOKPOINT
    assert array.fill_value == 0x7FC0
    assert array.metadata.dimension_names == ("row", "d")
    floats = synthetic_store(lake, "floats", rows=50, dtype="float16")
    array = zarr.open_group(floats._artefact.path(), mode="r")[f"hooks/{HOOKPOINT}"]
    assert np.isnan(array.fill_value)


def test_a_shard_holds_the_same_rows_in_every_array(lake):
    wide, narrow = "blocks.0.mlp.hook_out", "blocks.0.hook_resid_post"
    values = {wide: synthetic_rows(200, 50, seed=0), narrow: synthetic_rows(200, 3, seed=0)}
    store = synthetic_store(
        lake, values=values, store=StoreSettings(chunk_kib=1, shard_mib=64 * 200 / 2**20)
    )
    artefact = lake.artefact(store.ref)
    for array in (f"hooks/{wide}", f"hooks/{narrow}", "tokens", "flags"):
        shards = [name for name in artefact.names(array) if name.startswith("c.")]
        assert len(shards) == 4
    for array in store.spec.arrays().values():
        assert array.grid.shard_rows == 64
        assert array.grid.chunk_rows & (array.grid.chunk_rows - 1) == 0
        assert array.grid.chunk_bytes <= 1024 or array.grid.chunk_rows == 1


def test_reading_is_by_any_storage(lake):
    """A store copied to storage that is not a local folder reads the same."""
    import fsspec

    store = synthetic_store(lake, rows=90, dtype="bfloat16")
    memory = fsspec.filesystem("memory")
    memory.put(lake.storage.url, "/copy", recursive=True)
    try:
        other = ActivationStore.open(Lake.at("memory://copy"), "synthetic")
        assert np.array_equal(other.read(HOOKPOINT, 5, 77), store.read(HOOKPOINT, 5, 77))
        assert np.array_equal(other.contexts(), store.contexts())
        assert other.documents().equals(store.documents())
        assert other.moments(HOOKPOINT).count == store.moments(HOOKPOINT).count
    finally:
        memory.rm("/copy", recursive=True)


def test_names_that_are_not_there_are_answered_with_the_nearest(lake):
    store = synthetic_store(lake, rows=20)
    with pytest.raises(HookpointNotFoundError, match="hook_resid_pots") as caught:
        store.read("blocks.1.hook_resid_pots", 0, 1)
    assert HOOKPOINT in caught.value.hint
    with pytest.raises(ArtefactNotFoundError) as missing:
        ActivationStore.open(lake, "synthetik")
    assert "synthetic" in missing.value.hint
    with pytest.raises(IndexError, match="rows 0 to 21 of a store with 20 rows"):
        store.read(HOOKPOINT, 0, 21)


def test_a_store_says_which_language_model_it_is_of_or_that_nobody_said(lake):
    made = synthetic_store(lake, rows=40)
    assert made.language_model(None, field="splice.lm").model == "synthetic"
    assert made.record.context_size == 32
    imported = synthetic_store(lake, "imported", rows=20, imported=True)
    assert imported.record.lm is None
    assert imported.language_model("gpt2", field="splice.lm").model == "gpt2"
    with pytest.raises(
        ConfigError, match=r"splice\.lm: activations 'imported' do not say"
    ) as error:
        imported.language_model(None, field="splice.lm")
    assert "set splice.lm" in error.value.hint


@settings(max_examples=60)
@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=8),
    st.sampled_from(FLOATS),
    st.booleans(),
)
def test_values_are_rounded_as_torch_rounds_them_or_refused(values, dtype, by_numpy):
    rows = np.array([values], np.float32)
    expected = rounded(rows, dtype)
    with pytest.MonkeyPatch.context() as patch:
        if by_numpy:
            patch.setattr(halves, "knows_float16", lambda: False)
        as_expected(rows, dtype, expected)


def as_expected(rows, dtype, expected):
    if np.isfinite(expected).all():
        stored = codecs.encode(rows, dtype, hookpoint="h", first_row=0)
        assert stored.dtype == np.dtype(codecs.STORED[dtype])
        back = codecs.decode(stored, dtype)
        assert np.array_equal(back.view(np.uint32), expected.view(np.uint32))
    else:
        with pytest.raises(OverflowRowError, match=f"do not fit {dtype}"):
            codecs.encode(rows, dtype, hookpoint="h", first_row=0)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("by_numpy", [True, False])
@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7F800000])
def test_nan_and_infinity_are_the_model_s_fault_in_every_dtype(dtype, bits, by_numpy, monkeypatch):
    if by_numpy:
        monkeypatch.setattr(halves, "knows_float16", lambda: False)
    rows = np.ones((300_000, 1), np.float32)
    rows.view(np.uint32)[250_000] = bits
    with pytest.raises(OverflowRowError, match="row 250007, dimension 0") as caught:
        codecs.encode(rows, dtype, hookpoint="h", first_row=7)
    assert "lm.dtype" in caught.value.hint


def test_a_value_too_large_names_its_row_and_counts_the_others():
    rows = np.ones((4, 3), np.float32)
    rows[2] = [1, 70_000, -80_000]
    with pytest.raises(OverflowRowError, match="2 values of h do not fit float16: first 70000 at"):
        codecs.encode(rows, "float16", hookpoint="h", first_row=0)


def test_a_range_of_contexts_reads_its_own_chunks_only(lake, monkeypatch):
    from saestore.activations import layout as stores

    monkeypatch.setattr(stores, "CHUNK_CONTEXTS", 4)
    store = synthetic_store(lake, rows=330, context_size=16)
    contexts, segments = store.contexts(), store.segments()
    assert store.n_contexts == 21
    for start in range(22):
        for stop in range(start, 22):
            assert np.array_equal(store.contexts(start, stop), contexts[start:stop])
            inside = (segments[:, 0] >= start) & (segments[:, 0] < stop)
            assert np.array_equal(store.segments_of(start, stop), segments[inside])
    read = []
    file = store._file
    monkeypatch.setattr(store, "_file", lambda path: read.append(path) or file(path))
    store.contexts(9, 11)
    assert read == ["contexts/c.2.0"]
    with pytest.raises(IndexError, match="contexts 3 to 22 of a store with 21"):
        store.segments_of(3, 22)
    with pytest.raises(IndexError, match="contexts 22 to 21"):
        store.contexts(22)
