"""A lake in an object store: moto's S3 server, in a process of its own."""

import json
import sys
import time
from functools import partial

import fsspec
import numpy as np
import pytest

from saestore.activations import ActivationStore, ActivationStream, commits, verify
from saestore.errors import (
    ArtefactBusyError,
    DamagedArtefactError,
    MissingExtraError,
    StorageError,
)
from saestore.lake import Lake, Storage, layout, lease, manifest as manifests, ranges
from saestore.lake.cache import Cache
from saestore.lake.lock import writing
from saestore.lake.remote import remote_errors
from saestore.testing.s3 import SlowNetwork
from saestore.testing.stores import HOOKPOINT, synthetic_rows, synthetic_store
from saestore_schemas.activations import StoreSettings


pytestmark = pytest.mark.serve

SMALL = StoreSettings(chunk_kib=1, shard_mib=4096 / 2**20)
"""Shards of 64 rows of 16 floats, four chunks each."""


@pytest.fixture
def storage(s3_url):
    return Storage.at(s3_url)


SHARED = "s3://lake/shared"


@pytest.fixture
def store(s3_url):
    """One store for all tests that leave it as it was."""
    lake = Lake.at(SHARED)
    if not lake.refs():
        synthetic_store(lake, rows=600, width=16, store=SMALL)
    return ActivationStore.open(lake, "synthetic")


def test_files_come_back_and_are_listed_without_memory(storage, s3_url):
    assert storage.names() == []
    assert not storage.exists("a/b")
    storage.write("a/b", b"one")
    other = Storage.at(s3_url)
    assert (other.read("a/b"), other.size("a/b"), other.files()) == (b"one", 3, ["a/b"])
    with other.replacing("a/c") as path:
        path.write_bytes(b"three")
    assert storage.names("a") == ["b", "c"]
    assert storage.sizes() == {"a/b": 3, "a/c": 5}
    storage.move("a", "z")
    assert storage.files() == ["z/b", "z/c"]
    storage.remove("z")
    assert storage.files() == []
    storage.write("empty", b"")
    assert storage.read("empty") == b""


def test_of_two_creators_the_store_refuses_the_second(storage, s3_url):
    storage.create("x", b"first")
    with pytest.raises(FileExistsError):
        Storage.at(s3_url).create("x", b"second")
    assert storage.read("x") == b"first"


def test_a_failed_upload_leaves_no_object_and_no_scratch(storage):
    with pytest.raises(ZeroDivisionError), storage.replacing("a/c") as path:
        path.write_bytes(bytes(1 // len(storage.names())))
    assert not storage.exists("a/c")
    assert list(storage.scratch("a").iterdir()) == []


def test_a_large_file_goes_up_in_parts_and_comes_back(storage):
    data = np.random.default_rng(0).integers(0, 255, 40 << 20, np.uint8).tobytes()
    with storage.replacing("large") as path:
        path.write_bytes(data)
    assert storage.size("large") == len(data)
    assert manifests.digest_file(storage, "large") == (len(data), manifests.checksum_of(data))


def test_a_living_writer_keeps_the_second_out(storage, s3_url):
    with writing(storage, name="a"):
        assert storage.names(layout.PROGRESS) == ["lock.json"]
        with (
            pytest.raises(ArtefactBusyError, match="process"),
            writing(Storage.at(s3_url), name="a"),
        ):
            pass
        assert storage.names(layout.PROGRESS) == ["lock.json"]
    assert storage.files() == []


@pytest.mark.parametrize("dead", [1, 2])
def test_the_lock_of_dead_processes_is_taken_over(storage, dead):
    path = layout.LOCK
    for number in range(dead):
        owner = {"host": lease.owners.me()["host"], "pid": 2**22 - 1, "started": "1", "since": 0.0}
        storage.create(path, json.dumps({**owner, "token": f"t{number}"}).encode())
        path = layout.lock_after(f"t{number}")
    with writing(storage, name="a"):
        assert len(storage.names(layout.PROGRESS)) == dead + 1
        with pytest.raises(ArtefactBusyError), writing(storage, name="a"):
            pass
    assert storage.files() == []


def test_another_machines_lock_is_taken_over_when_it_was_silent_for_long(storage, monkeypatch):
    owner = {"host": "elsewhere", "pid": 1, "started": "1", "since": time.time(), "token": "t"}
    storage.create(layout.LOCK, json.dumps(owner).encode())
    with pytest.raises(ArtefactBusyError, match="elsewhere"), writing(storage, name="a"):
        pass
    monkeypatch.setattr(lease, "DEAD", 0.5)
    time.sleep(2.1)  # the server counts in seconds
    with writing(storage, name="a"):
        pass
    assert storage.files() == []


def test_a_committed_shard_is_never_committed_again(storage):
    record = commits.Commit(
        shard=0,
        total=commits.Totals(rows=1),
        files={},
        contexts=np.zeros((0, 2), np.int64),
        segments=np.zeros((0, 6), np.int64),
        moments={},
        resume=commits.Cursor(0, 0),
        tally={},
    )
    commits.write(storage, record)
    with pytest.raises(ArtefactBusyError, match="committed it first"):
        commits.write(storage, record)


def test_every_range_of_rows_is_what_was_written(store):
    values = synthetic_rows(600, 16, seed=0)
    for start, stop in [(0, 600), (5, 7), (63, 65), (100, 411), (599, 600), (8, 8)]:
        assert np.array_equal(store.read(HOOKPOINT, start, stop), values[start:stop])


def test_a_remote_stream_is_the_local_one(store, tmp_path):
    local = synthetic_store(Lake.at(tmp_path), rows=600, width=16, store=SMALL)
    here, there = (
        ActivationStream(each, [HOOKPOINT], batch_rows=50, seed=3, window_rows=192)
        for each in (local, store)
    )
    for _ in range(15):
        assert np.array_equal(next(here)[HOOKPOINT].numpy(), next(there)[HOOKPOINT].numpy())


@pytest.mark.parametrize("harm", ["flip", "truncate", "remove", "lengthen"])
def test_damage_is_found_by_reading_and_by_verify(store, harm, request):
    name = layout.shard_file(layout.hook_array(HOOKPOINT), 1, ndim=2)
    data = bytearray(store._artefact.read(name))
    request.addfinalizer(partial(store._artefact.write, name, bytes(data)))
    if harm == "flip":
        data[200] ^= 4
    elif harm == "truncate":
        del data[300:]
    elif harm == "lengthen":
        data += b"more"
    store._artefact.remove(name)
    if harm != "remove":
        store._artefact.write(name, bytes(data))
    again = ActivationStore.open(Lake.at(SHARED), store.ref.name)
    with pytest.raises(DamagedArtefactError, match=r"c\.1"):
        again.read(HOOKPOINT, 0, 600)
    found = verify.damage(Lake.at(SHARED), store.ref.name)
    assert found
    assert all(name in line for line in found)


def test_without_obstore_the_same_rows_come_through_fsspec(store, monkeypatch):
    monkeypatch.setattr(ranges, "_obstore", lambda _: None)
    plain = ActivationStore.open(Lake.at(SHARED), store.ref.name)
    assert np.array_equal(plain.read(HOOKPOINT, 3, 500), store.read(HOOKPOINT, 3, 500))


def test_any_other_fsspec_storage_holds_a_lake_too():
    fs = fsspec.filesystem("memory")
    try:
        lake = Lake.at("memory://any")
        store = synthetic_store(lake, rows=200, width=16, store=SMALL)
        assert np.array_equal(store.read(HOOKPOINT, 0, 200), synthetic_rows(200, 16, seed=0))
        assert verify.damage(lake, store.ref.name) == []
        lake.artefact(store.ref).remove()
        assert lake.refs() == []
    finally:
        fs.rm("/any", recursive=True)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SAESTORE_CACHE", str(tmp_path / "cache"))
    return Cache.chosen()


def test_what_was_read_once_is_read_from_the_cache(store, cache, s3_server, monkeypatch):
    values = synthetic_rows(600, 16, seed=0)
    first = ActivationStore.open(Lake.at(SHARED), store.ref.name)
    assert np.array_equal(first.read(HOOKPOINT, 100, 400), values[100:400])
    assert cache.held()[0] == 300 // 16 + 1
    with SlowNetwork(s3_server.port, delay_s=0.0) as network:
        second = _open_through(network, s3_server, SHARED, monkeypatch, store.ref.name)
        second.read(HOOKPOINT, 0, 1)
        before = len(network.requests)
        assert np.array_equal(second.read(HOOKPOINT, 128, 192), values[128:192])
        assert len(network.requests) == before + 1  # the shard's end, when it is first touched
    harmed = sorted(cache.folder.rglob("*-*"))
    for entry in harmed:
        entry.write_bytes(entry.read_bytes()[:-9] + b"different")
    assert np.array_equal(first.read(HOOKPOINT, 100, 400), values[100:400])


def test_damage_is_never_kept(store, cache, request):
    name = layout.shard_file(layout.hook_array(HOOKPOINT), 0, ndim=2)
    whole = store._artefact.read(name)
    request.addfinalizer(partial(store._artefact.write, name, whole))
    store._artefact.write(name, whole[:10] + bytes([whole[10] ^ 1]) + whole[11:])
    with pytest.raises(DamagedArtefactError):
        ActivationStore.open(Lake.at(SHARED), store.ref.name).read(HOOKPOINT, 0, 16)
    assert cache.held()[0] == 0
    store._artefact.write(name, whole)
    rows = ActivationStore.open(Lake.at(SHARED), store.ref.name).read(HOOKPOINT, 0, 16)
    assert np.array_equal(rows, synthetic_rows(600, 16, seed=0)[:16])


def _lead_to(s3_server, monkeypatch, network=None):
    """Let this process reach the server through a network, or at once."""
    for key, value in s3_server.environment(network and network.endpoint).items():
        monkeypatch.setenv(key, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def _open_through(network, s3_server, url, monkeypatch, name):
    _lead_to(s3_server, monkeypatch, network)
    return ActivationStore.open(Lake.at(url), name)


def test_filling_a_window_overlaps_its_requests(s3_server, store, monkeypatch):
    with SlowNetwork(s3_server.port, delay_s=0.1) as network:
        slow = _open_through(network, s3_server, SHARED, monkeypatch, store.ref.name)
        path = slow.array_of(HOOKPOINT)
        out = np.empty((600, 16), np.float32)
        slow.read_stored(path, 0, 16, out[:16])  # connections and credentials are there
        reads = [(path, row, row + 16, out[row : row + 16]) for row in range(0, 592, 16)]
        began = time.perf_counter()
        for read in reads:
            slow.read_many([read])
        one_by_one = time.perf_counter() - began
        out[:] = 0
        began = time.perf_counter()
        slow.read_many(reads)
        together = time.perf_counter() - began
    assert np.array_equal(out[:592], synthetic_rows(600, 16, seed=0)[:592])
    assert one_by_one > 5 * together, (one_by_one, together)


def test_opening_takes_as_many_requests_however_many_shards(s3_server, s3_url, monkeypatch):
    asked = []
    for shards in (1, 4):
        name = f"s{shards}"
        synthetic_store(Lake.at(s3_url), name, rows=64 * shards, width=16, store=SMALL)
        with SlowNetwork(s3_server.port, delay_s=0.0) as network:
            _open_through(network, s3_server, s3_url, monkeypatch, name)
            asked.append(len(network.requests))
        _lead_to(s3_server, monkeypatch)
    assert asked[0] == asked[1]
    assert asked[0] <= 8


def test_what_is_wrong_is_said(s3_url, monkeypatch, s3_server):
    fs_class = fsspec.get_filesystem_class("s3")
    with pytest.raises(StorageError, match="no such bucket") as caught:
        Storage.at("s3://nowhere/lake").write("a", b"")
    assert "create the bucket" in caught.value.hint
    with pytest.raises(StorageError, match="no such bucket"):
        Lake.at("s3://nowhere/lake").refs()
    with pytest.raises(StorageError, match="not known"):
        Storage.at("nothing://lake")
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    fs_class.clear_instance_cache()
    with pytest.raises(StorageError, match="credentials") as caught:
        Storage.at(s3_url).names()
    assert "AWS_ACCESS_KEY_ID" in caught.value.hint
    for key, value in s3_server.environment("http://127.0.0.1:9").items():
        monkeypatch.setenv(key, value)
    fs_class.clear_instance_cache()
    with pytest.raises(StorageError) as caught:
        Storage.at(s3_url).names()
    assert "AWS_ENDPOINT_URL" in caught.value.hint


@pytest.mark.parametrize(
    ("url", "status", "said"),
    [
        ("abfs://bucket/lake", 403, "AZURE_STORAGE_CONNECTION_STRING"),
        ("gs://bucket/lake", 401, "GOOGLE_APPLICATION_CREDENTIALS"),
        ("gs://bucket/lake", 503, "STORAGE_EMULATOR_HOST"),
        ("s3://bucket/lake", 403, "AWS_ACCESS_KEY_ID"),
        ("other://bucket/lake", 500, "check the network and the endpoint, then"),
    ],
)
def test_what_a_vendors_error_asks_for_goes_by_the_protocol(url, status, said):
    class HttpResponseError(Exception):  # as azure.core and gcsfs have it: no OSError
        status_code = status

    with pytest.raises(StorageError) as caught, remote_errors("reading", url):
        raise HttpResponseError("not today\nRequestId: 1")
    assert caught.value.message == f"reading {url}: not today"
    assert said in caught.value.hint


def test_only_writing_takes_what_is_not_there_for_the_bucket():
    with pytest.raises(FileNotFoundError), remote_errors("reading", "gs://b/x"):
        raise FileNotFoundError("b/x")
    with (
        pytest.raises(StorageError, match="no such bucket"),
        remote_errors("writing", "gs://b/x", writing=True),
    ):
        raise FileNotFoundError("b/x")
    with pytest.raises(TypeError), remote_errors("reading", "gs://b/x"):
        raise TypeError("a mistake of ours")


def test_a_package_that_lacks_its_own_is_not_called_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "aiobotocore", None)
    for name in [name for name in sys.modules if name.partition(".")[0] == "s3fs"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(StorageError, match="installed and cannot be loaded") as caught:
        Storage.at("s3://lake/x")
    assert "aiobotocore" in caught.value.message


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(MissingExtraError) as caught:
        Storage.at("s3://lake/x")
    assert caught.value.hint == "pip install 'saestore[remote]'"
