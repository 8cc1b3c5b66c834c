"""Compressed stores: found damage, and what is compressed."""

import numpy as np
import pytest

from saestore.activations import ActivationStore, shards, verify
from saestore.errors import DamagedArtefactError
from saestore.testing.stores import HOOKPOINT, synthetic_store
from saestore_schemas.activations import StoreSettings


SHARD = f"hooks/{HOOKPOINT}/c.0.0"
SHAPE = StoreSettings(chunk_kib=1, shard_mib=0.02, codec="zstd", zstd_level=9)


@pytest.fixture
def store(lake):
    return synthetic_store(lake, rows=1500, store=SHAPE)


def changed(store, at, to=None):
    path = store._artefact.path(SHARD)
    data = bytearray(path.read_bytes())
    data[at] = data[at] ^ 1 if to is None else to
    path.write_bytes(data)


def test_only_activations_are_compressed(store):
    packed = {path for path, array in store.spec.arrays().items() if array.zstd_level == 9}
    assert packed == {f"hooks/{HOOKPOINT}"}


@pytest.mark.parametrize("at", [0, 500, -5, -30, -2000], ids=str)
def test_a_flipped_bit_anywhere_is_found_by_reading_and_by_verify(lake, store, at):
    changed(store, at)
    with pytest.raises(DamagedArtefactError, match=r"c\.0\.0: "):
        ActivationStore.open(lake, "synthetic").read(HOOKPOINT, 0, 1500)
    assert any("c.0.0" in line for line in verify.damage(lake, "synthetic"))


def test_lengths_must_fill_the_file_without_a_gap():
    grid = shards.Grid(4, 16, 8)
    lengths = [30, 20, 36]
    tail = grid.tail(10, [1, 2, 3], lengths)
    assert grid.lengths(tail, 10, 86 + len(tail)).tolist() == lengths
    for size in (85, 87):
        with pytest.raises(ValueError, match="its chunk index is not what it must be"):
            grid.lengths(tail, 10, size + len(tail))
    entries = np.frombuffer(tail[12:-4], "<u8").copy()
    entries[2] += 1  # a hole before the second chunk
    with pytest.raises(ValueError, match="its chunk index is not what it must be"):
        grid.lengths(tail[:12] + entries.tobytes() + tail[-4:], 10, 86 + len(tail))


def test_what_is_no_zstd_or_of_another_length_is_refused():
    packed = shards.pack(np.arange(64, dtype=np.uint8), 3)
    out = bytearray(64)
    shards.unpack(packed, memoryview(out))
    assert out == bytes(range(64))
    with pytest.raises(ValueError, match="64 bytes unpacked, expected 60"):
        shards.unpack(packed, memoryview(bytearray(60)))
    with pytest.raises(ValueError, match=r"(?i)zstd"):
        shards.unpack(b"no zstd at all", memoryview(out))
