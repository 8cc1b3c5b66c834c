"""A shard's bytes are a function of its rows, however they are written."""

from concurrent.futures import ThreadPoolExecutor

import crc32c
import numpy as np
import pytest

from saestore.activations.arrays import ArrayWriter, _File
from saestore.activations.layout import Spec
from saestore.errors import StorageError
from saestore.lake import Storage
from saestore.testing.stores import scratch_lake
from saestore_schemas.activations import StoreRecord, StoreSettings


PATH = "hooks/h"


def array_of(width=40, shard_rows=512):
    shape = StoreSettings(chunk_kib=1, shard_mib=shard_rows * width * 2 / 2**20)
    record = StoreRecord(dtype="float16", store=shape, lm=None, context_size=8)
    return Spec({"h": width}, record).arrays()[PATH]


def expected(array, rows):
    """The file, put together by the format's own rules."""
    grid = array.grid
    padding = np.full((-len(rows) % grid.chunk_rows, *array.tail), np.nan, np.float16)
    chunks = np.split(np.concatenate([rows, padding]), grid.used(len(rows)))
    crcs = [crc32c.crc32c(chunk.tobytes()) for chunk in chunks]
    pairs = zip(chunks, crcs, strict=True)
    body = b"".join(chunk.tobytes() + crc.to_bytes(4, "little") for chunk, crc in pairs)
    return body + grid.tail(len(rows), crcs)


@pytest.mark.parametrize("memory", [True, False], ids=["memory", "disk"])
@pytest.mark.parametrize("staging", [4096, 8192, 1 << 20])
@pytest.mark.parametrize("threads", [0, 1])
def test_a_shard_s_bytes_do_not_show_how_it_was_written(tmp_path, memory, staging, threads):
    array = array_of()
    rng = np.random.default_rng(staging)
    with scratch_lake() as lake, ThreadPoolExecutor(1) as pool:
        artefact = lake.storage if memory else Storage.at(tmp_path)
        disk = pool if threads else None
        writer = ArrayWriter(artefact, PATH, array, staging=staging, disk=disk)
        for shard, count in enumerate((512, 12, 13, 511)):
            rows = rng.normal(size=(count, 40)).astype(np.float16)
            writer.open(shard)
            for piece in np.split(rows, np.sort(rng.integers(0, count, 5))):
                writer.append(piece)
            name, (size, _) = writer.close()
            data = artefact.read(name)
            assert data == expected(array, rows)
            assert size == len(data)


def test_what_the_disk_s_thread_met_is_raised_and_leaves_nothing(tmp_path, monkeypatch):
    def full(self, data):
        raise OSError(28, "no space left")

    monkeypatch.setattr(_File, "write", full)
    with ThreadPoolExecutor(1) as disk:
        writer = ArrayWriter(Storage.at(tmp_path), PATH, array_of(), staging=4096, disk=disk)
        writer.open(0)
        with pytest.raises(StorageError, match=r"writing hooks/h/c\.0\.0"):
            writer.append(np.zeros((512, 40), np.float16))
        writer.abandon()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
