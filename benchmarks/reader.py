"""Readers of stored activations, each in a process of its own that lives through all rounds.

`python -m benchmarks.reader KIND`, started by `Reader` with the interpreter that has the library: it
answers one JSON line with another. A round takes batches until enough rows came and is over when the
process is idle again, so that what a thread fetched ahead is paid for. Every batch is touched once
in each 4 KiB: a view of a mapped file that nobody looked at has not been read.

The readers of peers call the peers' own code, their writers too. Nothing but numpy and the standard
library is imported at the top: each environment lacks the others' libraries.
"""

# ruff: noqa: ARG001, PLC0415 - all readers are called alike; libraries are imported where they are

import importlib
import itertools
import mmap
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.activations import CONTEXT, HOOK, Activations, partners
from benchmarks.process import Process, serve


BATCH = 4096
"""Rows of a batch."""
_PAGE = 4096
_IDLE = 0.01
"""Seconds with next to no work after which a process counts as idle."""
_PATIENCE = 5.0
"""Seconds after which it counts as idle all the same."""
_PIECE = 4 << 20
_BUFFER = 64 << 20
"""The baseline reads 4 MiB a call into one buffer of 64 MiB, over and over."""

Settings = Mapping[str, Any]
Batches = Iterator[Any]
"""Torch tensors or arrays, [row, width] or [context, position, width]."""


def page_cache(data: Activations, given: Settings) -> Batches:
    """Read a store's files with plain `preadv`: the baseline."""
    files = [path for path in sorted(Path(given["path"]).glob("**/hooks/**/c.*")) if path.is_file()]
    opened = {os.open(path, os.O_RDONLY): path.stat().st_size for path in files}
    pieces = [
        (descriptor, offset, min(_PIECE, size - offset))
        for descriptor, size in opened.items()
        for offset in range(0, size, _PIECE)
    ]
    # Page-aligned, as numpy's own memory is not: some processors copy into page + 16 at half speed.
    buffer = np.frombuffer(mmap.mmap(-1, _BUFFER), np.uint8)
    at = 0
    for descriptor, offset, size in itertools.cycle(pieces[given["part"] :: given["parts"]]):
        piece = buffer[at : at + size]
        os.preadv(descriptor, [piece.data], offset)
        at = (at + _PIECE) % _BUFFER
        rows = size // data.row_bytes
        yield piece[: rows * data.row_bytes].view(np.float16).reshape(rows, data.width)


def saestore_shuffled(data: Activations, given: Settings) -> Batches:
    """Stream a store's rows as training does."""
    from saestore.activations import ActivationStore, ActivationStream
    from saestore.lake import Lake

    store = ActivationStore.open(Lake.at(given["path"]), given["name"])
    options = {key: value for key, value in given.items() if key not in {"path", "name"}}
    stream = ActivationStream(store, [HOOK], batch_rows=BATCH, seed=0, **options)
    for batch in stream:
        yield batch[HOOK]


def saestore_contexts(data: Activations, given: Settings) -> Batches:
    """Stream a store's contexts whole, one after the other, four to a batch."""
    from saestore.activations import ActivationStore, ContextStream
    from saestore.lake import Lake

    store = ActivationStore.open(Lake.at(given["path"]), given["name"])
    stream = ContextStream(
        store, [HOOK], batch_contexts=BATCH // CONTEXT, dtype="stored", epochs=None
    )
    for batch in stream:
        yield batch.hooks[HOOK].view(-1, CONTEXT, data.width)


def sae_lens(data: Activations, given: Settings) -> Batches:
    """Return SAELens' own stream from cached activations: its loader and its mixing buffer."""
    import torch
    from sae_lens.training.activations_store import ActivationsStore

    torch.set_num_threads(given["threads"])
    return iter(
        ActivationsStore(
            model=None,
            dataset=None,
            streaming=False,
            hook_name=HOOK,
            hook_head_index=None,
            context_size=CONTEXT,
            d_in=data.width,
            n_batches_in_buffer=given["n_batches_in_buffer"],
            total_training_tokens=data.rows,
            store_batch_size_prompts=given["store_batch_size_prompts"],
            train_batch_size_tokens=BATCH,
            prepend_bos=False,
            normalize_activations="none",
            device=torch.device("cpu"),
            dtype="float16",
            cached_activations_path=given["path"],
            activations_mixing_fraction=given["mixing_fraction"],
        )
    )


def write_sae_lens(data: Activations, given: Settings) -> None:
    """Write the data set as SAELens caches it, with the code of its runner."""
    import torch
    from datasets import Array2D, Features, Sequence, Value
    from sae_lens.cache_activations_runner import CacheActivationsRunner

    done = Path(given["path"])
    drafts = done / ".tmp_shards"
    contexts = 64
    for number, block in enumerate(data.blocks(contexts)):
        runner = SimpleNamespace(
            cfg=SimpleNamespace(hook_name=HOOK, d_in=data.width, n_seq_in_buffer=len(block)),
            context_size=CONTEXT,
            features=Features(
                {
                    HOOK: Array2D(shape=(CONTEXT, data.width), dtype="float16"),
                    "token_ids": Sequence(Value("int32"), length=CONTEXT),
                }
            ),
        )
        rows = torch.from_numpy(block.reshape(-1, data.width))
        tokens = torch.zeros(len(rows), dtype=torch.int64)
        shard = CacheActivationsRunner._create_shard(runner, (rows, tokens))
        shard.save_to_disk(str(drafts / f"shard_{number:05d}"), num_shards=1)
    CacheActivationsRunner._consolidate_shards(drafts, done, copy_files=False)


def llamascopium(data: Activations, given: Settings) -> Batches:
    """Return Llamascopium's own stream of cached chunks, pass after pass."""
    import torch
    from llamascopium.activation.factory import (
        ActivationFactory,
        ActivationFactoryActivationsSource,
        ActivationFactoryConfig,
        ActivationFactoryTarget,
    )

    torch.set_num_threads(given["threads"])
    flat = given["target"] == "1d"
    target = (
        ActivationFactoryTarget.ACTIVATIONS_1D if flat else ActivationFactoryTarget.ACTIVATIONS_2D
    )
    factory = ActivationFactory(
        ActivationFactoryConfig(
            sources=[
                ActivationFactoryActivationsSource(
                    name="cached",
                    path=given["path"],
                    num_workers=given["num_workers"],
                    prefetch=given["prefetch"],
                )
            ],
            target=target,
            hook_points=[HOOK],
            batch_size=BATCH if flat else BATCH // CONTEXT,
            buffer_size=given["buffer_size"],
        )
    )
    while True:
        for batch in factory.process():
            yield batch[HOOK]


def write_llamascopium(data: Activations, given: Settings) -> None:
    """Write the data set as Llamascopium's generate does, with its writer."""
    import torch
    from llamascopium.activation.writer import ActivationWriter, ActivationWriterConfig

    def chunks() -> Iterator[dict[str, Any]]:
        for block in data.blocks(given["chunk_contexts"]):
            ones = torch.ones(block.shape[:2], dtype=torch.int64)
            yield {HOOK: torch.from_numpy(block), "tokens": torch.zeros_like(ones),
                   "mask": ones, "attention_mask": ones.clone()}  # fmt: skip

    config = ActivationWriterConfig(hook_points=[HOOK], cache_dir=given["path"])
    ActivationWriter(config).process(chunks())


READERS: dict[str, Callable[[Activations, Settings], Batches]] = {
    "page_cache": page_cache,
    "saestore_shuffled": saestore_shuffled,
    "saestore_contexts": saestore_contexts,
    "sae_lens": sae_lens,
    "llamascopium": llamascopium,
}
WRITERS: dict[str, Callable[[Activations, Settings], None]] = {
    "sae_lens": write_sae_lens,
    "llamascopium": write_llamascopium,
}
NEEDED: dict[str, tuple[str, ...]] = {
    "page_cache": (),
    "saestore_shuffled": ("saestore.activations.stream", "numba"),
    "saestore_contexts": ("saestore.activations.context_stream", "numba"),
    "sae_lens": ("sae_lens",),
    "llamascopium": ("llamascopium.activation.factory", "llamascopium.activation.writer"),
}
"""Imported before a process says it is ready."""


class Served:
    """What a reader's process does when asked."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        for name in NEEDED[kind]:
            importlib.import_module(name)
        self.imported = _memory("VmRSS")
        self.data = Activations(1)
        self.batches: Batches = iter(())

    def open(self, contexts: int, width: int, settings: Settings) -> dict[str, Any]:
        """Begin a stream with other settings."""
        self.data = Activations(contexts, width)
        self.batches = READERS[self.kind](self.data, settings)
        return {}

    def write(self, contexts: int, width: int, settings: Settings) -> dict[str, Any]:
        """Write the data set in the library's own format."""
        WRITERS[self.kind](Activations(contexts, width), settings)
        return {}

    def round(self, rows: int) -> dict[str, Any]:
        """Take batches until so many rows came; return rows and seconds."""
        taken = 0
        begun = time.perf_counter()
        used = resource.getrusage(resource.RUSAGE_SELF)
        while taken < rows:
            batch = next(self.batches)
            taken += batch.numel() // self.data.width if hasattr(batch, "numel") else len(batch)
            _touch(batch)
        ended = _idle_since()
        now = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "rows": taken,
            "seconds": ended - begun,
            "began": begun,
            "cpu": now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime,
            "faults": now.ru_minflt - used.ru_minflt,
        }

    def mixing(self, batches: int, skip: int) -> dict[str, Any]:
        """Check the values of some batches; return their mixing."""
        found = []
        for number, batch in enumerate(itertools.islice(self.batches, skip + batches)):
            if number >= skip:
                values = np.asarray(batch).reshape(-1, self.data.width).astype(np.float16)
                found.append(partners(self.data.check(values)))
        return {"partners": float(np.mean(found)), "batches": len(found)}

    def memory(self) -> dict[str, Any]:
        """Return the most memory the process had, above what it had after its imports, in MB."""
        return {"peak": (_memory("VmHWM") - self.imported) / 1e6}


class Reader(Process):
    """A reader's process, from outside."""

    def __init__(self, kind: str, python: str | Path = sys.executable) -> None:
        """Start it and wait until its imports are done.

        Raises:
            RuntimeError: It died; with the last it said.
        """
        super().__init__("benchmarks.reader", kind, python=python)

    def open(self, data: Activations, settings: Settings) -> "Reader":
        """Begin a stream; return the reader."""
        self.ask("open", contexts=data.contexts, width=data.width, settings=settings)
        return self


def _touch(batch: Any) -> None:
    """Look at one value in each page of a batch."""
    flat = batch.reshape(-1)
    flat[:: _PAGE // flat.itemsize].max()


def _idle_since() -> float:
    """Wait until the process and its workers do nothing; return when that began."""
    used = _worked()
    begun = since = time.perf_counter()
    while since - begun < _PATIENCE:
        time.sleep(_IDLE)
        now = _worked()
        if now - used < _IDLE / 4:  # looking costs something too
            break
        used, since = now, time.perf_counter()
    return since


def _worked() -> float:
    """Return the seconds of CPU that the process and its workers have used."""
    seconds = time.process_time()
    for worker in multiprocessing.active_children():
        for thread in Path(f"/proc/{worker.pid}/task").glob("*/schedstat"):
            seconds += int(thread.read_text().split()[0]) / 1e9
    return seconds


def _memory(field: str) -> int:
    """Return a line of the process's status, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


if __name__ == "__main__":
    serve(lambda: Served(sys.argv[1]))
