"""Zarr libraries that know nothing of us read the values we read."""

import numpy as np
import pytest
import zarr

from saestore.testing.stores import HOOKPOINT, synthetic_store
from saestore_schemas.activations import StoreSettings


PATHS = (f"hooks/{HOOKPOINT}", "tokens", "flags", "contexts", "segments")


def by_zarr(folder, path):
    return zarr.open_group(folder, mode="r")[path][...]


def by_tensorstore(folder, path):
    ts = pytest.importorskip("tensorstore", reason="tensorstore is not installed")
    kvstore = {"driver": "file", "path": str(folder / path)}
    opened = ts.open({"driver": "zarr3", "kvstore": kvstore}, read=True, open=True).result()
    return np.asarray(opened.read().result())


@pytest.mark.parametrize("read", [by_zarr, by_tensorstore])
@pytest.mark.parametrize("codec", ["none", "zstd"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_another_library_reads_the_same_values(lake, dtype, codec, read):
    shape = StoreSettings(chunk_kib=1, shard_mib=0.02, codec=codec)
    store = synthetic_store(lake, rows=1500, dtype=dtype, store=shape)
    folder = store._artefact.path()
    found = {path: read(folder, path) for path in PATHS}
    values = found[f"hooks/{HOOKPOINT}"]
    if dtype == "bfloat16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    elif dtype == "int8":
        scales = read(folder, f"hooks/{HOOKPOINT}.scale")
        deviations = read(folder, f"deviations/{HOOKPOINT}")
        values = values.astype(np.float32) * scales[:, None] * deviations
    assert np.array_equal(values.astype(np.float32), store.read(HOOKPOINT, 0, 1500))
    assert np.array_equal(found["tokens"], store.tokens())
    assert np.array_equal(found["flags"], store.flags())
    assert np.array_equal(found["contexts"], store.contexts())
    assert np.array_equal(found["segments"], store.segments())


@pytest.mark.parametrize("read", [by_zarr, by_tensorstore])
@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_another_library_finds_a_flipped_bit(lake, codec, read):
    shape = StoreSettings(chunk_kib=1, shard_mib=0.02, codec=codec)
    folder = synthetic_store(lake, rows=400, store=shape)._artefact.path()
    path = folder / "hooks" / HOOKPOINT / "c.0.0"
    data = bytearray(path.read_bytes())
    data[100] ^= 4
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"(?i)crc|checksum|digest"):
        read(folder, f"hooks/{HOOKPOINT}")


@pytest.fixture
def lake():
    from saestore.testing.stores import scratch_lake

    with scratch_lake() as lake:
        yield lake
