"""Writing a store: ours against a plain write of the same bytes, zarr-python and TensorStore.

Rows of d 768 in float16, in shards of the default size, 384 MiB, each written whole and synced.
`saestore` is all that generate's writing thread does: float32 rows are rounded and checked, moments
measured, chunks put together and checksummed, shards written, synced, renamed and committed.
`saestore, stored rows` is the same without rounding, as merge does it; `saestore, files only` is
neither rounding nor moments. The plain write is what the disk gives: 1 MiB pieces of one buffer
through the page cache, then fsync. The others write the same sharded array, chunks with crc32c, a
shard at a time.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec

import saestore
from benchmarks.harness import Contender, Goal, Limit, Options, Setup
from saestore.activations import Cursor, RowBatch, Spec, StoreWriter
from saestore.activations.arrays import ArrayWriter
from saestore.activations.writer import StoredBatch
from saestore.lake import Lake, Ref
from saestore_schemas.activations import StoreRecord, StoreSettings


WIDTH = 768
HOOK = "blocks.0.hook_resid_post"
CONTEXT = 1024
BATCH = 8 * CONTEXT
"""Rows handed over at once: a forward batch of eight contexts."""
SHARD = 1 << 18
"""Rows of a shard of the default 512 MiB."""
SHARDS, QUICK_SHARDS = 5, 1
PIECE = 1 << 20


@dataclass(frozen=True)
class Rows:
    """One batch, written again and again.

    Attributes:
        values: As a model gives them.
        stored: The same in float16.
    """

    values: np.ndarray
    stored: np.ndarray

    @classmethod
    def drawn(cls) -> "Rows":
        """Return normal values around a mean, as many as a batch has."""
        values = np.random.default_rng(0).normal(1.0, 3.0, (BATCH, WIDTH)).astype(np.float32)
        return cls(values, values.astype(np.float16))

    def batch(self) -> RowBatch:
        """Return it as generate hands it over."""
        return RowBatch({HOOK: self.values}, *self._others())

    def stored_batch(self) -> StoredBatch:
        """Return it as merge hands it over."""
        tokens, flags, lengths, segments = self._others()
        arrays = {f"hooks/{HOOK}": self.stored, "tokens": tokens, "flags": flags}
        return StoredBatch(arrays, lengths, segments)

    @staticmethod
    def _others() -> tuple[np.ndarray, ...]:
        lengths = np.full(BATCH // CONTEXT, CONTEXT, np.int64)
        index, zero = np.arange(len(lengths)), np.zeros(len(lengths), np.int64)
        segments = np.stack([index, zero, lengths, index, zero, zero], axis=1)
        return np.zeros(BATCH, np.int32), np.zeros(BATCH, np.uint8), lengths, segments


def _spec() -> Spec:
    shape = StoreSettings(shard_mib=SHARD * WIDTH * 2 / 2**20)
    record = StoreRecord(dtype="float16", store=shape, lm=None, context_size=CONTEXT)
    return Spec({HOOK: WIDTH}, record)


Write = Callable[[Path, Rows, int], None]
"""Writes so many shards below a folder."""


def ours(folder: Path, rows: Rows, shards: int, *, stored: bool = False) -> None:
    """Write with the store's own writer."""
    artefact = Lake.at(folder).artefact(Ref("activations", "written"))
    with StoreWriter(artefact, _spec()) as writer:
        for number in range(shards * SHARD // BATCH):
            at = Cursor(0, number)
            if stored:
                writer.append_stored(rows.stored_batch(), at, tally={})
            else:
                writer.append(rows.batch(), at, tally={})


def files_only(folder: Path, rows: Rows, shards: int) -> None:
    """Write the array's files as the store's writer does, and nothing else."""
    artefact = Lake.at(folder).artefact(Ref("activations", "written"))
    path = f"hooks/{HOOK}"
    with ThreadPoolExecutor(1) as disk, ThreadPoolExecutor(1) as naming:
        writer = ArrayWriter(artefact, path, _spec().arrays()[path], disk=disk)
        for shard in range(shards):
            writer.open(shard)
            for _ in range(SHARD // BATCH):
                writer.append(rows.stored)
            naming.submit(writer.seal().last.close)


def plain(folder: Path, rows: Rows, shards: int) -> None:
    """Write as many bytes in pieces of one buffer, and sync each file."""
    buffer = memoryview(rows.stored.reshape(-1).view(np.uint8))
    for shard in range(shards):
        descriptor = os.open(folder / str(shard), os.O_WRONLY | os.O_CREAT)
        left, at = SHARD * WIDTH * 2, 0
        while left:
            at = at if at + PIECE <= len(buffer) else 0
            done = os.write(descriptor, buffer[at : at + min(left, PIECE)])
            left, at = left - done, at + done
        os.fsync(descriptor)
        os.close(descriptor)


def zarr_python(folder: Path, rows: Rows, shards: int) -> None:
    """Write the array with zarr-python, a shard at a time, and sync its files."""
    whole = np.concatenate([rows.stored] * (SHARD // BATCH))
    array: Any = zarr.create_array(
        str(folder / "array"),
        shape=(shards * SHARD, WIDTH),
        dtype="float16",
        chunks=(256, WIDTH),
        shards=(SHARD, WIDTH),
        filters=None,
        serializer=BytesCodec(),
        compressors=Crc32cCodec(),
    )
    for shard in range(shards):
        array[shard * SHARD : (shard + 1) * SHARD] = whole
    _sync(folder)


def tensorstore(folder: Path, rows: Rows, shards: int) -> None:
    """Write the array with TensorStore, a shard at a time, and sync its files."""
    import tensorstore as ts  # noqa: PLC0415 - a peer

    whole = np.concatenate([rows.stored] * (SHARD // BATCH))
    inner = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    sharding = {"chunk_shape": [256, WIDTH], "codecs": inner, "index_location": "end"}
    array = ts.open(
        {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": str(folder / "array")},
            "metadata": {
                "shape": [shards * SHARD, WIDTH],
                "data_type": "float16",
                "chunk_grid": {
                    "name": "regular",
                    "configuration": {"chunk_shape": [SHARD, WIDTH]},
                },
                "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            },
        },
        create=True,
    ).result()
    for shard in range(shards):
        array[shard * SHARD : (shard + 1) * SHARD].write(whole).result()
    _sync(folder)


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)


def _timed(write: Write, home: Path, rows: Rows, shards: int) -> tuple[float, float]:
    with tempfile.TemporaryDirectory(dir=home) as folder:
        began = time.perf_counter()
        write(Path(folder), rows, shards)
        seconds = time.perf_counter() - began
        return shards * SHARD * WIDTH * 2 / 1e6, seconds


class Writing:
    """Ours against plain writes and other libraries."""

    name = "write"
    doc = "the store's writer against plain writes, zarr-python and TensorStore"

    @contextmanager
    def setup(self, options: Options) -> Iterator[Setup]:
        """Draw rows; files are written in the temporary folder, which should be on a disk."""
        torch.set_num_threads(options.threads or torch.get_num_threads())  # as in generate, loaded
        rows, shards = Rows.drawn(), QUICK_SHARDS if options.quick else SHARDS
        found: list[tuple[str, Write, str]] = [
            ("saestore", ours, saestore.__version__),
            ("saestore, stored rows", partial(ours, stored=True), saestore.__version__),
            ("saestore, files only", files_only, saestore.__version__),
            ("plain write", plain, ""),
            ("zarr-python", zarr_python, version("zarr")),
        ]
        absent = {}
        try:
            found.append(("TensorStore", tensorstore, version("tensorstore")))
        except PackageNotFoundError:
            absent["TensorStore"] = "not installed: pip install tensorstore"
        with tempfile.TemporaryDirectory() as home:
            yield Setup(
                contenders=tuple(
                    Contender(name, partial(_timed, write, Path(home), rows, shards), release)
                    for name, write, release in found
                ),
                goals=(
                    # Beside what does the same work, and all that is done beside what does less.
                    Goal("saestore, files only", "plain write", "rate", ">=", 1.0),
                    Goal("saestore, files only", "zarr-python", "rate", ">=", 3.0),
                    Goal("saestore", "plain write", "rate", ">=", 1.0),
                    Goal("saestore", "zarr-python", "rate", ">=", 3.0),
                ),
                unit="MB",
                sizes={
                    "rows": shards * SHARD,
                    "width": WIDTH,
                    "dtype": "float16",
                    "chunk rows": _spec().arrays()[f"hooks/{HOOK}"].grid.chunk_rows,
                    "shards": shards,
                    "folder": tempfile.gettempdir(),
                },
                limit=Limit("plain write", "write and fsync of the same bytes"),
                absent=absent,
            )


BENCH = Writing()
