import os
import threading

import crc32c
import numpy as np
import pytest
from pydantic import ValidationError

from saestore.lake.cache import Cache


def entry(seed, size=1000):
    body = np.random.default_rng(seed).bytes(size - 4)
    return body + crc32c.crc32c(body).to_bytes(4, "little")


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache", cap_bytes=32_000)


def test_what_was_put_is_got_and_nothing_else(cache):
    cache.put("a", "x/c.0", 0, entry(1))
    assert cache.get("a", "x/c.0", 0, 1000) == entry(1)
    assert cache.get("b", "x/c.0", 0, 1000) is None
    assert cache.get("a", "x/c.1", 0, 1000) is None
    assert cache.get("a", "x/c.0", 1000, 1000) is None


def test_damaged_bytes_are_neither_kept_nor_given(cache):
    cache.put("a", "x", 0, entry(1)[:-1] + b"?")
    assert cache.held()[0] == 0 or cache.get("a", "x", 0, 1000) is None
    cache.put("a", "x", 0, entry(2))
    (kept,) = (path for path in cache.folder.rglob("*") if path.is_file())
    kept.write_bytes(b"!" + kept.read_bytes()[1:])
    assert cache.get("a", "x", 0, 1000) is None
    assert not kept.exists()


def test_the_cap_holds_and_the_least_recently_read_goes_first(cache):
    for number in range(20):
        cache.put("a", "x", number, entry(number))
        os.utime(cache._entry("a", "x", number, 1000), (number, number))
    assert cache.get("a", "x", 0, 1000) == entry(0)  # the oldest, read just now
    for number in range(20, 40):
        cache.put("a", "x", number, entry(number))
        assert cache.held()[1] <= cache.cap_bytes
    assert cache.get("a", "x", 0, 1000) == entry(0)
    assert cache.get("a", "x", 1, 1000) is None


def test_many_at_once_leave_only_whole_entries(cache):
    def work():
        for number in range(60):
            found = cache.get("a", "x", number, 1000)
            assert found is None or found == entry(number)
            cache.put("a", "x", number, entry(number))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not list(cache.folder.rglob(".tmp-*"))
    assert cache.held()[1] <= cache.cap_bytes * (1 + 4 / 16)


def test_a_disk_that_takes_nothing_is_no_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    cache = Cache(tmp_path / "file" / "cache", cap_bytes=1000)
    cache.put("a", "x", 0, entry(1))
    assert cache.get("a", "x", 0, 1000) is None


def test_the_environment_chooses(monkeypatch, tmp_path):
    monkeypatch.delenv("SAESTORE_CACHE", raising=False)
    assert Cache.chosen() is None
    monkeypatch.setenv("SAESTORE_CACHE", str(tmp_path))
    monkeypatch.setenv("SAESTORE_CACHE_GIB", "0.5")
    chosen = Cache.chosen()
    assert (chosen.folder, chosen.cap_bytes) == (tmp_path, 2**29)
    monkeypatch.setenv("SAESTORE_CACHE_GIB", "0")
    with pytest.raises(ValidationError):
        Cache.chosen()
