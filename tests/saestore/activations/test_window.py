"""What a window keeps, whichever of its reads ends first."""

import time

import numpy as np
import pytest

from saestore.activations import ActivationStore, ActivationStream
from saestore.activations.window import Fill, Ring
from saestore.testing.stores import HOOKPOINT, synthetic_store
from saestore_schemas.activations import StoreSettings


SMALL = StoreSettings(chunk_kib=1, shard_mib=0.02)


@pytest.mark.parametrize("slow", [7, 16])
@pytest.mark.parametrize("world", [1, 2, 4, 7])
def test_a_slow_read_overwrites_nothing(lake, monkeypatch, world, slow):
    """Reads overlap; one that comes late writes only where no later row is yet."""
    rows = 700
    values = {HOOKPOINT: np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)}
    lengths = np.full(rows // 10, 10)
    synthetic_store(lake, "rows", values=values, lengths=lengths, store=SMALL)
    store = ActivationStore.open(lake, "rows")

    def batches(**ranks):
        stream = ActivationStream(
            store, [HOOKPOINT], seed=3, batch_rows=23, window_rows=256, epochs=2, lanes=1, **ranks
        )
        return [batch[HOOKPOINT][:, 0].tolist() for batch in stream]

    whole = batches()
    read = Ring._read

    def late(ring: Ring, fill: Fill) -> None:
        if fill.number % slow == 0:
            time.sleep(0.02)
        read(ring, fill)

    monkeypatch.setattr(Ring, "_read", late)
    for rank in range(world):
        assert batches(rank=rank, world=world) == whole[rank::world]
