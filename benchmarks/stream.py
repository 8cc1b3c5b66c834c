"""Reading activations for training: ours against plain reading, SAELens and Llamascopium.

One data set, d 768 in float16, lies on disk three times: as a store of ours, as SAELens caches
activations and as Llamascopium does, each written by the library's own writer and warm in the page
cache. Each reader is a process of its own (`benchmarks.reader`) and delivers batches of 4096 rows as
torch tensors; what is compared is bytes of stored data delivered a second. The baseline is the
cheapest way to get a file's bytes into memory: one thread's `preadv` in 4 MiB calls into a reused
64 MiB buffer. Mixing, printed beside the speed, is counted on the delivered batches: other rows of
its context that a row has in its batch, 0 for perfect.

Two processes read disjoint halves with one reading thread each, and are compared with one process
that has one too: with two threads, one process keeps both cores of a small machine busy.

The peers run with the best settings that `python -m benchmarks stream --tune` found; see there.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

import saestore
from benchmarks import stream_peers as peers
from benchmarks.activations import CONTEXT, HOOK, Activations
from benchmarks.harness import Amount, Contender, Goal, Limit, Note, Options, Setup
from benchmarks.reader import BATCH, Reader
from saestore.activations import Cursor, RowBatch, Spec, StoreWriter
from saestore.lake import Lake, Ref, manifest as manifests
from saestore.lake.lock import writing
from saestore.testing.stores import synthetic_vocabulary
from saestore_schemas.corpus import CorpusSettings, StdlibSource
from saestore_schemas.generate import GenerateSettings
from saestore_schemas.lm import LmSettings


CONTEXTS = 1536
"""1.5 Mi rows, 2.4 GB: one and a half default windows, so that rows are read again each epoch."""
QUICK_CONTEXTS = 128
WINDOW = 1 << 20
"""Rows of the default window on a machine with enough memory."""
QUICK_WINDOW = 1 << 16
STORE = "synthetic"
_APPENDED = 16
"""Contexts handed to a writer at once."""


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        contexts: Contexts of the data set.
        window: Rows of our window; None for the default.
        ours: Rows a round of ours.
        theirs: Rows a round of a peer.
    """

    contexts: int = CONTEXTS
    window: int | None = None
    ours: int = 2 * CONTEXTS * CONTEXT
    theirs: int = CONTEXTS * CONTEXT // 2

    @property
    def window_rows(self) -> int:
        """Rows of the window in use."""
        return self.window or WINDOW


QUICK = Size(
    QUICK_CONTEXTS, QUICK_WINDOW, ours=4 * QUICK_CONTEXTS * CONTEXT, theirs=QUICK_CONTEXTS * CONTEXT
)


TUNING = Size(256, theirs=256 * CONTEXT)


@dataclass
class Bench:
    """Data and readers of one run.

    Attributes:
        folder: Where the data lie.
        data: What is in them.
        size: How much is measured.
        stack: Ends the processes at last.
        notes: What is to be printed, in the order of the contenders.
    """

    folder: Path
    data: Activations
    size: Size
    stack: ExitStack
    notes: list[Note] = field(default_factory=list)

    def reader(
        self, kind: str, settings: Mapping[str, object], *, stack: ExitStack | None = None
    ) -> Reader:
        """Return a new process with an open stream."""
        process = Reader(kind)
        (stack or self.stack).callback(process.close)
        return process.open(self.data, settings)

    def contender(
        self, name: str, reader: Reader, version: str, *, rows: int, skip: int | None = None
    ) -> Contender:
        """Return a contender, and note how it mixes after `skip` batches, if that is asked."""
        if skip is not None:
            self.notes.append(Note(f"mixing of {name}", partial(self._mixing, reader, skip)))
        return Contender(name, lambda: self.rate([reader], rows), version)

    def together(self, name: str, readers: list[Reader], version: str, *, rows: int) -> Contender:
        """Return the contender of several processes that read at the same time."""
        return Contender(name, lambda: self.rate(readers, rows), version)

    def rate(self, readers: list[Reader], rows: int) -> tuple[float, float]:
        """Return MB and seconds, from the first process's start to the last one's end."""
        for reader in readers:
            reader.send("round", rows=rows // len(readers))
        answers = [reader.receive() for reader in readers]
        began = min(answer["began"] for answer in answers)
        ended = max(answer["began"] + answer["seconds"] for answer in answers)
        return sum(answer["rows"] for answer in answers) * self.data.row_bytes / 1e6, ended - began

    def _mixing(self, reader: Reader, skip: int) -> str:
        found = reader.ask("mixing", batches=32, skip=skip)
        return (
            f"{found['partners']:.2f} rows of the same context per row, over {found['batches']} "
            "batches; their values are those that were written"
        )


def write_store(data: Activations, lake: Lake) -> None:
    """Write the data set as a store of ours."""
    settings = GenerateSettings(
        name=STORE,
        lm=LmSettings(model="synthetic"),
        corpus=CorpusSettings(sources=(StdlibSource(),), context_size=CONTEXT),
        hookpoints=(HOOK,),
        dtype="float16",
    )
    ref = Ref("activations", STORE)
    artefact = lake.artefact(ref)
    run = manifests.Run.of(ref, settings)
    spec = Spec({HOOK: data.width}, settings.record())
    with writing(artefact, name=ref.name):
        manifests.begin(artefact, run)
        with StoreWriter(artefact, spec) as writer:
            for number, block in enumerate(data.blocks(_APPENDED)):
                writer.append(_rows(block, first=number == 0), Cursor(0, number), tally={})
            writer.finish(run, vocabulary=synthetic_vocabulary(), facts={})


def _rows(block: np.ndarray, *, first: bool) -> RowBatch:
    contexts, length, width = block.shape
    index, zeros = np.arange(contexts), np.zeros(contexts, np.int64)
    lengths = np.full(contexts, length)
    document = {"document": 0, "document_id": "0", "source": "synthetic", "n_tokens": length}
    document |= {"n_chars": 0, "text": None}
    return RowBatch(
        hooks={HOOK: block.reshape(-1, width).astype(np.float32)},
        tokens=np.ones(contexts * length, np.int32),
        flags=np.zeros(contexts * length, np.uint8),
        lengths=lengths,
        segments=np.stack([index, zeros, lengths, zeros, zeros, zeros], axis=1),
        documents=[document] if first else [],
    )


class Stream:
    """The benchmark."""

    name = "stream"
    doc = f"shuffled {BATCH}-row batches from disk, against plain reading and the peers' loaders"

    @contextmanager
    def setup(self, options: Options) -> Iterator[Setup]:
        """Write the data and start the readers; processes and data are gone afterwards."""
        size = TUNING if options.tune else QUICK if options.quick else Size()
        with tempfile.TemporaryDirectory(prefix="saestore-bench-") as place, ExitStack() as stack:
            data = Activations(size.contexts)
            bench = Bench(Path(place), data, size, stack)
            yield prepare_tuning(bench) if options.tune else prepare(bench)


def prepare(bench: Bench) -> Setup:
    """Return the contenders."""
    data, size = bench.data, bench.size
    write_store(data, Lake.at(bench.folder / "lake"))
    ours = {"path": str(bench.folder / "lake"), "name": STORE}
    stored = {**ours, "dtype": "stored"}
    if size.window is not None:
        stored["window_rows"] = size.window
    release = f"saestore {saestore.__version__}, torch {version('torch')}"
    half = {**stored, "window_rows": size.window_rows // 2, "threads": 1, "world": 2}

    def shuffled(**changes: object) -> Reader:
        return bench.reader("saestore_shuffled", {**stored, **changes})

    def plain(part: int, parts: int) -> Reader:
        return bench.reader("page_cache", {**ours, "part": part, "parts": parts})

    contenders = [
        bench.contender("page cache", plain(0, 1), "preadv", rows=size.ours),
        bench.together(
            "page cache, 2 processes",
            [plain(0, 2), plain(1, 2)],
            "preadv",
            rows=size.ours,
        ),
        bench.contender("saestore shuffled", shuffled(), release, rows=size.ours, skip=0),
        bench.contender(
            "saestore as float32", shuffled(dtype="float32"), release, rows=size.ours
        ),
        bench.contender(
            "saestore contexts", bench.reader("saestore_contexts", ours), release, rows=size.ours
        ),
        bench.contender("saestore, 1 thread", shuffled(threads=1), release, rows=size.ours),
        bench.together(
            "saestore, 2 processes",
            [bench.reader("saestore_shuffled", {**half, "rank": rank}) for rank in range(2)],
            f"{release}, 1 thread each",
            rows=size.ours,
        ),
    ]  # fmt: skip
    absent: dict[str, str] = {}
    for peer in peers.ALL:
        try:
            contenders.append(_peer(bench, peer))
        except Exception as error:  # noqa: BLE001 - what keeps a peer away stands in the table
            absent[peer.name] = f"{type(error).__name__}: {error}"
    os.sync()  # so that writing back does not disturb
    return Setup(
        contenders=tuple(contenders),
        goals=(
            Goal("saestore shuffled", "page cache", "rate", ">=", 0.8),
            Goal("saestore contexts", "page cache", "rate", ">=", 0.8),
            Goal("saestore shuffled", "sae-lens", "rate", ">=", 4.5),
            Goal("saestore shuffled", "llamascopium", "rate", ">=", 3.0),
            Goal("saestore, 2 processes", "saestore, 1 thread", "rate", ">=", 1.5),
        ),
        unit="MB",
        sizes={
            "data": f"{data.rows:,} rows x {data.width} float16, {data.rows * data.row_bytes / 1e9:.2f}"
            f" GB in contexts of {CONTEXT}, in the page cache",
            "window": f"{size.window_rows:,} rows; 2 processes have half of it each",
            "delivered": "float16 as stored, unless it says float32; 2 reading threads, unless it says 1",
        },
        limit=Limit("page cache, 2 processes", "plain reading on both cores, nothing else"),
        absent=absent,
        amounts=(
            Amount(
                "peak memory of a fresh process", "MB", partial(_memory, bench, stored),
                "<=", (size.window_rows + 3 * BATCH) * data.row_bytes / 1e6 + 200,
            ),
        ),
        notes=(*bench.notes, Note("cold", partial(_cold, bench, stored))),
    )  # fmt: skip


def _peer(bench: Bench, peer: peers.Compared) -> Contender:
    process = peer.start()
    bench.stack.callback(process.close)
    process.open(bench.data, peer.write(process, bench.data, bench.folder, peer.best))
    return bench.contender(peer.name, process, peer.version, rows=bench.size.theirs, skip=16)


def prepare_tuning(bench: Bench) -> Setup:
    """Return every candidate of every peer as a contender, told by what differs from the best."""
    contenders = []
    for peer in peers.ALL:
        process = peer.start()
        bench.stack.callback(process.close)
        for settings in peer.candidates():
            ready = peer.write(process, bench.data, bench.folder, settings)
            other = {key: value for key, value in settings.items() if peer.best[key] != value}
            name = ", ".join(f"{key} {value}" for key, value in other.items()) or "best"
            run = partial(_tried, bench, process, ready)
            contenders.append(Contender(f"{peer.name}: {name}", run, peer.version))
    os.sync()
    return Setup(contenders=tuple(contenders), goals=(), unit="MB", rounds=3)


def _tried(bench: Bench, process: Reader, settings: Mapping[str, object]) -> tuple[float, float]:
    process.open(bench.data, settings)
    process.ask("round", rows=bench.size.theirs // 4)
    return bench.rate([process], bench.size.theirs)


def _memory(bench: Bench, settings: Mapping[str, object]) -> float:
    """Return the peak of an epoch and a half in a fresh process, in MB above its imports."""
    with ExitStack() as stack:
        process = bench.reader("saestore_shuffled", settings, stack=stack)
        process.ask("round", rows=bench.data.rows * 3 // 2)
        return float(process.ask("memory")["peak"])


def _cold(bench: Bench, settings: Mapping[str, object]) -> str:
    """Say how fast an epoch is, from the first batch asked for, when nothing is in the page cache."""
    said = []
    readers = (
        ("plain reading", "page_cache", {**settings, "part": 0, "parts": 1}),
        ("saestore shuffled", "saestore_shuffled", settings),
    )
    for name, kind, given in readers:
        with ExitStack() as stack:
            process = bench.reader(kind, given, stack=stack)
            for path in (bench.folder / "lake").rglob("*"):
                _forget(path)
            amount, seconds = bench.rate([process], bench.data.rows)
        said.append(f"{name} {amount / seconds:,.0f} MB/s")
    return "; ".join(said)


def _forget(path: Path) -> None:
    """Drop a file from the page cache; it has been synced."""
    if path.is_file():
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


BENCH = Stream()
