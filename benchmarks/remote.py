"""Filling a window from an object store: one request after another, zarr-python, and ours.

The store is moto's S3 server on loopback; a proxy in front of it lets every request wait 30 ms and
every connection have 90 MB/s, as measured on real ones. All read the same randomly chosen chunks of
the same shards. The limit is plain HTTP through the proxy: the ranges that neighbouring chunks make,
on as many connections as we use, and nothing done with the bytes. Its time is the server's, which is a
Python program and slow to answer, and the proxy's.
"""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from importlib.metadata import version

import fsspec
import numpy as np
import zarr
from zarr.storage import FsspecStore

from benchmarks.harness import Contender, Goal, Limit, Options, Setup
from saestore.activations import ActivationStore
from saestore.lake import Lake, layout
from saestore.lake.ranges import IN_FLIGHT
from saestore.testing.s3 import BUCKET, SlowNetwork, s3_server
from saestore.testing.stores import HOOKPOINT, synthetic_store
from saestore_schemas.activations import StoreSettings


WIDTH = 768
DELAY_S = 0.03
BYTES_PER_S = 90e6
URL = f"s3://{BUCKET}/bench"


@dataclass
class Window:
    """The chunks that all contenders read, and the buffer they fill.

    Attributes:
        store: Ours, opened through the proxy.
        chunks: Numbers of the chunks, ascending.
        out: Where their rows go.
    """

    store: ActivationStore
    chunks: np.ndarray
    out: np.ndarray

    @property
    def path(self) -> str:
        """The array."""
        return self.store.array_of(HOOKPOINT)

    @property
    def rows(self) -> int:
        """Rows of a chunk."""
        return self.store.spec.arrays()[self.path].grid.chunk_rows

    def timed(self, read) -> tuple[float, float]:
        """Return the bytes of the window and the seconds that a way of reading them takes."""
        self.out[:] = 0
        began = time.perf_counter()
        read()
        seconds = time.perf_counter() - began
        assert self.out.any(axis=1).all()
        return float(self.out.nbytes), seconds

    def ours(self) -> None:
        """Read through the store, all at once, each chunk compared with its checksum."""
        size = self.rows
        starts = [int(chunk) * size for chunk in self.chunks]
        self.store.read_many(
            (self.path, start, start + size, self.out[at * size : (at + 1) * size])
            for at, start in enumerate(starts)
        )

    def one_by_one(self) -> None:
        """Read each chunk by one ranged request of fsspec, and wait for it."""
        grid = self.store.spec.arrays()[self.path].grid
        artefact = self.store._artefact
        for at, chunk in enumerate(self.chunks):
            shard, inside = divmod(int(chunk), grid.chunks)
            name = artefact.join(layout.shard_file(self.path, shard, ndim=2))
            start = grid.offset(inside)
            data = artefact.fs.cat_file(name, start=start, end=start + grid.chunk_bytes)
            rows = np.frombuffer(data, self.out.dtype).reshape(-1, WIDTH)
            self.out[at * self.rows : (at + 1) * self.rows] = rows

    def zarr(self) -> None:
        """Read all rows by one selection of zarr-python, as many requests at once as we use."""
        fs = fsspec.filesystem("s3", asynchronous=True)
        place = f"{self.store._artefact.url}/{self.path}"
        with zarr.config.set({"async.concurrency": IN_FLIGHT}):
            array = zarr.open_array(FsspecStore(fs, path=place), mode="r")
            rows = (self.chunks[:, None] * self.rows + np.arange(self.rows)).ravel()
            self.out[:] = array.get_orthogonal_selection((rows, slice(None)))


def plain(window: Window, network: SlowNetwork) -> tuple[float, float]:
    """Read the window's ranges over plain HTTP, many at once; return bytes and seconds."""
    grid = window.store.spec.arrays()[window.path].grid
    shards = window.chunks // grid.chunks
    apart = (np.diff(window.chunks) != 1) | (np.diff(shards) != 0)
    ranges = []
    for run in np.split(window.chunks, np.flatnonzero(apart) + 1):
        shard, inside = divmod(int(run[0]), grid.chunks)
        name = window.store._artefact.join(layout.shard_file(window.path, shard, ndim=2))
        link = window.store._artefact.fs.sign(name).removeprefix(network.endpoint)
        start = grid.offset(inside)
        ranges.append((link, start, start + len(run) * (grid.chunk_bytes + 4)))
    host = network.endpoint.removeprefix("http://")

    def get(wanted: tuple[str, int, int]) -> int:
        path, start, stop = wanted
        with closing(HTTPConnection(host)) as connection:
            connection.request("GET", path, headers={"Range": f"bytes={start}-{stop - 1}"})
            return len(connection.getresponse().read())

    with ThreadPoolExecutor(IN_FLIGHT) as threads:
        began = time.perf_counter()
        total = sum(threads.map(get, ranges))
        return float(total), time.perf_counter() - began


@dataclass
class Remote:
    """The benchmark."""

    name: str = "remote"
    doc: str = "filling a window from an object store 30 ms away"

    @contextmanager
    def setup(self, options: Options) -> Iterator[Setup]:
        """Fill a bucket, put the slow network before it, choose the chunks."""
        window_mb = 24 if options.quick else 96
        before = dict(os.environ)
        try:
            with s3_server() as server, SlowNetwork(server.port, DELAY_S, BYTES_PER_S) as network:
                os.environ.update(server.environment())
                rows = window_mb * (1 << 20) // (WIDTH * 2) * 2
                settings = StoreSettings(shard_mib=16)
                lake = Lake.at(URL)
                name = synthetic_store(
                    lake, rows=rows, width=WIDTH, dtype="float16", context_size=256, store=settings
                ).ref.name
                os.environ.update(server.environment(network.endpoint))
                fsspec.get_filesystem_class("s3").clear_instance_cache()
                window = _window(ActivationStore.open(Lake.at(URL), name))
                yield _setup(window, network)
        finally:
            os.environ.clear()
            os.environ.update(before)
            fsspec.get_filesystem_class("s3").clear_instance_cache()


def _window(store: ActivationStore) -> Window:
    grid = store.spec.arrays()[store.array_of(HOOKPOINT)].grid
    whole = store.n_rows // grid.chunk_rows
    chunks = np.sort(np.random.default_rng(0).choice(whole, whole // 2, replace=False))
    out = np.empty((len(chunks) * grid.chunk_rows, WIDTH), np.float16)
    window = Window(store, chunks, out)
    window.ours()  # shards are open, connections are there
    return window


def _setup(window: Window, network: SlowNetwork) -> Setup:
    return Setup(
        contenders=(
            Contender("saestore", lambda: window.timed(window.ours), f"obstore {version('obstore')}"),
            Contender("one by one", lambda: window.timed(window.one_by_one), f"s3fs {version('s3fs')}"),
            Contender("zarr-python", lambda: window.timed(window.zarr), version("zarr")),
            Contender("plain HTTP", lambda: plain(window, network), "http.client"),
        ),
        goals=(
            Goal("saestore", "one by one", "rate", ">=", 5.0),
            Goal("saestore", "zarr-python", "rate", ">=", 2.0),
            Goal("saestore", "plain HTTP", "rate", ">=", 0.5),
        ),
        unit="bytes",
        sizes={
            "window": f"{len(window.chunks)} chunks of {window.rows} rows, d {WIDTH}, float16",
            "latency": f"{DELAY_S * 1e3:.0f} ms",
            "bandwidth": f"{BYTES_PER_S / 1e6:.0f} MB/s a connection",
            "in flight": IN_FLIGHT,
        },
        limit=Limit("plain HTTP", f"the same ranges, {IN_FLIGHT} connections, nothing else done"),
        rounds=3,
    )  # fmt: skip


BENCH = Remote()
