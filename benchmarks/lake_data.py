"""A large analysis of made-up firings, through the real writer, and the same firings in a plain file.

Features fire at Zipf-distributed rates, values are log-normal, tokens Zipf-distributed; nothing measured on
them depends on what they mean. The plain file is what a script without a plan writes: int64 and float64,
in no order, with pyarrow's own choice of everything else.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from saestore import dictionaries
from saestore.activations import ActivationStore
from saestore.analyze import encode
from saestore.analyze.context_tables import context_rows, document_rows, vocabulary_rows
from saestore.analyze.joint import Sampler
from saestore.analyze.known import Known
from saestore.analyze.logits import LogitHistogram
from saestore.analyze.sort import Firings
from saestore.analyze.survey import survey
from saestore.analyze.write import SAMPLE, Output, collected, sorted_by_context
from saestore.features import Analysis, views
from saestore.lake import Lake, Ref, manifest as manifests
from saestore.lake.lock import writing
from saestore.progress import Progress, Silent
from saestore.testing.analyses import synthetic_dictionary
from saestore.testing.stores import HOOKPOINT, VOCABULARY, synthetic_store
from saestore_schemas import tables
from saestore_schemas.analyze import AnalyzeSettings, TopSubsample
from saestore_schemas.dictionary import Relu


NAME = "bench/zipf"
_BITS = 14
FEATURES, CONTEXT, L0 = 1 << _BITS, 128, 32
_BLOCK = 1 << 17
"""Rows whose firings are drawn at a time."""
_FLAT = 64
"""Rank from which rates fall like 1/rank: no feature fires on every row."""
ALL_TABLES = 2 * 10**8
"""Firings up to which all tables are written; of more, statistics and the strongest examples only."""
_SHUFFLED = 1 << 24
"""Firings of the plain file that are brought into disorder at a time."""


@dataclass(frozen=True)
class Built:
    """Both layouts, and how long the real writer took.

    Attributes:
        lake: The lake that holds the analysis `NAME`.
        plain: The plain file.
        firings: Firings in each.
        seconds: Time of writing in context order and sorting, and of the other order with all tables.
    """

    lake: Lake
    plain: Path
    firings: int
    seconds: tuple[float, float]

    @cached_property
    def analysis(self) -> Analysis:
        """The analysis."""
        return Analysis.open(self.lake, NAME)

    def connect(self) -> duckdb.DuckDBPyConnection:
        """Return the analysis's views, with the firings of the plain file."""
        analysis = self.analysis
        source = views.Source(
            analysis.ref, analysis.manifest, views.folder_of(self.lake, analysis.ref)
        )
        connection = duckdb.connect()
        file = views.literal(str(self.plain))
        plain = f"SELECT * FROM read_parquet({file})"  # noqa: S608 - a path of ours, quoted
        known = views.analysis_views([source])
        orders = dict.fromkeys(("firings", "firings_by_feature", "firings_by_context"), plain)
        for name, sql in {**known, **orders}.items():
            connection.execute(f"CREATE VIEW {name} AS {sql}")
        return connection


def build(folder: Path, firings: int, *, progress: Progress | None = None) -> Built:
    """Write both layouts, or find them written.

    Args:
        folder: Where.
        firings: How many, about.
        progress: Where to report.
    """
    lake, rows = Lake.at(folder / "lake"), max(firings // L0, 4 * CONTEXT)
    plain, told = folder / "plain.parquet", folder / "built.json"
    if told.exists() and (known := json.loads(told.read_text()))["rows"] == rows:
        return Built(lake, plain, known["firings"], tuple(known["seconds"]))
    tokens = np.random.default_rng(0).zipf(1.3, rows) % (VOCABULARY - 1) + 1  # 0 is a BOS
    store = synthetic_store(
        lake, "rows", values={HOOKPOINT: np.zeros((rows, 1), np.float32)},
        tokens=tokens.astype(np.int64), dtype="float16", context_size=CONTEXT,
    )  # fmt: skip
    synthetic_dictionary(lake, NAME, store, activation=Relu(), d_sae=FEATURES)
    n, seconds = _analysis(lake, store, progress or Silent())
    _plain(Analysis.open(lake, NAME), plain)
    told.write_text(json.dumps({"rows": rows, "firings": n, "seconds": seconds}))
    return Built(lake, plain, n, seconds)


def drawn(rows: int, *, seed: int = 0, bits: int = _BITS) -> Iterator[tuple[int, Firings]]:
    """Yield rows and their firings, in context order.

    Args:
        rows: How many.
        seed: Of everything random.
        bits: There are as many features as a number of so many bits can name.
    """
    features = 1 << bits
    rates = 1 / (np.arange(features) + _FLAT)
    ends = np.cumsum(rates / rates.sum())
    # rates must not go with the number of the feature
    names = np.random.default_rng(seed).permutation(features).astype(np.uint64)
    for low in range(0, rows, _BLOCK):
        n = min(_BLOCK, rows - low)
        rng = np.random.default_rng((seed, low))
        feature = names[np.minimum(np.searchsorted(ends, rng.random(n * L0)), features - 1)]
        keys = np.repeat(np.arange(low, low + n, dtype=np.uint64), L0) << np.uint64(bits)
        keys |= feature
        keys.sort()
        keys = keys[np.diff(keys, prepend=np.uint64(1 << 63)) != 0]  # a feature fires once on a row
        feature = (keys & np.uint64(features - 1)).astype(np.uint32)
        row = keys >> np.uint64(bits)
        context, position = row // np.uint64(CONTEXT), row % np.uint64(CONTEXT)
        yield (
            n,
            Firings(
                feature,
                context.astype(np.uint32),
                position.astype(np.uint16),
                np.exp(rng.standard_normal(len(row), dtype=np.float32)),
            ),
        )


def _analysis(
    lake: Lake, store: ActivationStore, progress: Progress
) -> tuple[int, tuple[float, float]]:
    """Write the analysis; return its firings, and the seconds of both halves."""
    settings = AnalyzeSettings(dictionary=NAME, logits=None, neighbours=None, memory_mib=2048)
    if store.n_rows * L0 > ALL_TABLES:
        fewer = {"subsamples": {"top": TopSubsample()}, "token_stats": None, "coactivation": None}
        settings = settings.model_copy(update=fewer)
    return written(lake, store, settings, drawn(store.n_rows), progress=progress)


@dataclass(frozen=True)
class Planted:
    """What is said of features beside their firings.

    Attributes:
        histograms: Histograms of logit scores, for the table `histograms`.
        write: Writes further tables.
    """

    histograms: tuple[LogitHistogram, ...] = ()
    write: Callable[[Output], None] = lambda _: None


def written(
    lake: Lake,
    store: ActivationStore,
    settings: AnalyzeSettings,
    source: Iterable[tuple[int, Firings]],
    *,
    planted: Planted = Planted(),
    progress: Progress,
) -> tuple[int, tuple[float, float]]:
    """Write an analysis of given firings; return how many they are, and the seconds of both halves.

    Args:
        lake: Where.
        store: Whose rows they are.
        settings: Its name and the dictionary; what to collect.
        source: Rows and their firings, in context order.
        planted: What is said beside them.
        progress: Where to report.
    """
    ref = Ref("features", f"{settings.dictionary}/{settings.name}")
    artefact = lake.artefact(ref)
    trained = lake.manifest(Ref("dictionary", settings.dictionary))
    weights = encode.weight_facts(dictionaries.load(lake, settings.dictionary).in_raw_units())
    features = len(weights.b_enc)
    run = manifests.Run.of(ref, settings, (manifests.parent_of(trained), *store.parents))
    with writing(artefact, name=ref.name):
        manifests.begin(artefact, run)
        scope = survey(store, settings, artefact.scratch(".progress/scope"))
        output = Output(artefact, run.fingerprint)
        output.write(tables.CONTEXTS, context_rows(store, scope))
        output.write(tables.VOCABULARY, [vocabulary_rows(store, scope)])
        documents = document_rows(store, scope)
        output.write(tables.DOCUMENTS, [documents], schema=documents.schema)
        sampler = None
        if settings.coactivation is not None:
            sampler = Sampler(
                scope, settings.coactivation, artefact.scratch(SAMPLE), features=features,
                memory_mib=settings.memory_mib,
            )  # fmt: skip
        began = time.perf_counter()
        sorter = sorted_by_context(
            source, output, settings, features=features, rows=len(scope.tokens), progress=progress,
            sampler=sampler,
        )  # fmt: skip
        sorted_at = time.perf_counter()
        sample = None if sampler is None else sampler.sample()
        known = Known(settings, scope, weights, sample, planted.histograms)
        dead = collected(sorter, output, known, progress=progress)
        seconds = sorted_at - began, time.perf_counter() - sorted_at
        planted.write(output)
        counts = {
            "rows": scope.n_rows, "contexts": scope.n_contexts, "features": features,
            "firings": sorter.n_firings, "dead": dead,
        }  # fmt: skip
        facts = {
            "activations": store.ref.name, "hookpoints": [HOOKPOINT], "context_size": CONTEXT,
        }  # fmt: skip
        arrays = dict(sorted(output.arrays.items()))
        manifests.finish(artefact, run, arrays=arrays, counts=counts, facts=facts)
    return sorter.n_firings, seconds


def _plain(analysis: Analysis, path: Path) -> None:
    """Write the firings as int64 and float64, in no order, with pyarrow's defaults."""
    kinds = {
        "feature": pa.int64(),
        "context": pa.int64(),
        "position": pa.int64(),
        "value": pa.float64(),
    }
    schema = pa.schema(kinds)
    storage = analysis.lake.artefact(analysis.ref)
    # by context: each piece has firings of all features
    files = [p for p in storage.files("firings_by_context") if p.endswith(".parquet")]
    rng = np.random.default_rng(1)
    with pq.ParquetWriter(path, schema) as writer:
        for file in files:
            for batch in pq.ParquetFile(storage.path(file)).iter_batches(_SHUFFLED):
                table = pa.Table.from_batches([batch]).cast(schema)
                writer.write_table(table.take(rng.permutation(len(table))))
