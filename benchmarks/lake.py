"""Questions to a large analysis, beside the same questions to its firings in a plain file.

Each goal of the tables has a pair of contenders: SQL that is the same word for word, over the lake's
layout and over the plain one; a feature's page, which the plain side pieces together from SQL; and what the
lake has ready, all features' statistics and the most correlated features of each, against its SQL. Features and tokens are asked about from the rarest to the
most frequent, evenly by rank. Files are read before, so they lie in memory: the layout is measured, not a disk.
"""

import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import saestore
from benchmarks import lake_data
from benchmarks.harness import Amount, Contender, Goal, Note, Options, Setup, timed
from benchmarks.lake_data import NAME, Built
from saestore.features import SqlSession, named_queries
from saestore.features.parquet import TableWriter
from saestore.lake import Storage
from saestore_schemas import tables


WHOLE, QUICK = 8_000_000, 200_000
ASKED, TOKENS = 12, 5
"""Features and tokens asked about."""
READY = "SELECT feature, n_firings, n_contexts, sum, mean, min, q01, q50, q99, max FROM features"
QUANTILES = (
    "SELECT quantile_disc(value, [0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999]) "
    "FROM firings WHERE feature = $feature"
)
_STATISTICS = (
    "SELECT feature, count(*), count(DISTINCT context), sum(value), min(value), max(value), "
    "quantile_disc(value, [0.01, 0.5, 0.99]) FROM firings GROUP BY feature ORDER BY feature"
)
"""What the named query tells, without relying on an order."""
PAGE = (
    (
        "SELECT count(*), count(DISTINCT context), sum(value), sum(value * value), min(value), max(value), "
        "quantile_disc(value, [0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999]) "
        "FROM firings WHERE feature = $feature"
    ),
    "SELECT floor(log2(value) * 4) AS bin, count(*) FROM firings WHERE feature = $feature GROUP BY bin",
    (
        "SELECT floor(value / (SELECT max(value) FROM firings WHERE feature = $feature) * 50) AS bin, "
        "count(*) FROM firings WHERE feature = $feature GROUP BY bin"
    ),
    (
        "SELECT s.shift, t.token_id, count(*) AS n, sum(value), max(value) FROM firings, "
        "(VALUES (-1), (0), (1)) s(shift) JOIN tokens t ON t.context = firings.context "
        "AND t.position = firings.position + s.shift WHERE feature = $feature GROUP BY ALL "
        "ORDER BY n DESC LIMIT 96"
    ),
)
"""What a page shows beside examples and co-active features, from the firings."""
KEPT = (
    "SELECT other, n_both, jaccard, era, phi FROM coactivation WHERE feature = $feature "
    "ORDER BY rank LIMIT 20"
)
"""What `coactivation` has ready of the 20 most correlated features, those with ten rows or more in common."""
DECODED = "SELECT sum(feature), sum(context), sum(position) FROM firings_by_context"
"""What no question about every row group can do without."""
SHOWN = "SELECT text, char_offsets, token_ids, segments FROM contexts WHERE context IN (SELECT unnest($c))"

Ask = Callable[[str, dict[str, Any]], pa.Table]


class LakeBench:
    """The benchmark."""

    name = "lake"
    doc = "questions to a large analysis against the same to its firings in a plain Parquet file"

    @contextmanager
    def setup(self, options: Options) -> Iterator[Setup]:
        """Write both layouts; they are gone afterwards, unless a folder was given."""
        firings = options.firings or (QUICK if options.quick else WHOLE)
        with ExitStack() as stack:
            folder = options.place
            if folder is None:
                made = tempfile.TemporaryDirectory(prefix="saestore-bench-")
                folder = Path(stack.enter_context(made))
            folder.mkdir(parents=True, exist_ok=True)
            built = lake_data.build(folder, firings)
            session = stack.enter_context(SqlSession(built.lake, analysis=NAME))
            plain = stack.enter_context(built.connect())
            yield prepare(built, session, plain)


def prepare(built: Built, session: SqlSession, plain: duckdb.DuckDBPyConnection) -> Setup:
    """Return the contenders."""
    of = _Questions(built, session, plain)
    asked = of.pairs()
    contenders = tuple(
        Contender(f"{name}, {side}", partial(_timed, work, n), _release())
        for name, (n, *both) in asked.items()
        for side, work in zip(("lake", "plain"), both, strict=True)
    )
    bounds = {
        "T3 top 20": 20, "T5 top 20": 250, "T5 quantiles": 250, "T4 page": 100, "T6 quantiles": 10, "T7 on a token": 150,
        "T7 co-active": 150,
    }  # fmt: skip
    return Setup(
        contenders=contenders,
        goals=tuple(Goal(f"{each}, lake", f"{each}, plain", "rate", ">=", 5) for each in asked),
        unit="question",
        sizes={
            "firings": f"{built.firings:,} of {lake_data.FEATURES:,} features, contexts of "
            f"{lake_data.CONTEXT}",
            "asked about": f"{ASKED} features, of {of.counts[0]:,} to {of.counts[-1]:,} firings",
        },
        rounds=3,
        amounts=(
            *_sizes(built),
            *(
                Amount(
                    name, "ms", partial(_milliseconds, asked[name][1], asked[name][0]), "<=", bound
                )
                for name, bound in bounds.items()
                if name in asked
            ),
            *(
                (Amount("T8 statistics by SQL", "M firings/s", of.grouped, ">=", 25),)
                if "T8 statistics" in asked
                else ()
            ),
            Amount("T9 write an order", "M firings/s", partial(_written, built), ">=", 10),
        ),
        notes=(
            Note("opening the views", partial(_opened, built)),
            *((Note("slowest page", partial(_slowest, of)),) if "T4 page" in asked else ()),
            Note("decoding alone", of.decoded),
            *((Note("co-active features kept", of.kept),) if "T7 co-active" in asked else ()),
            Note("written", partial(_whole, built)),
        ),
    )


class _Questions:
    """What is asked, of both layouts."""

    def __init__(self, built: Built, session: SqlSession, plain: duckdb.DuckDBPyConnection) -> None:
        self._session = session
        self._plain = plain
        self.analysis = built.analysis
        self.n_firings = built.firings
        lines = session.answer(
            "SELECT feature, n_firings FROM features WHERE n_firings > 0 ORDER BY 2, 1"
        )
        at = np.linspace(0, len(lines) - 1, ASKED).astype(int)
        self.features: list[int] = lines["feature"].take(at).to_pylist()
        self.counts: list[int] = lines["n_firings"].take(at).to_pylist()
        words = session.answer(
            "SELECT token FROM vocabulary WHERE n_rows > 0 ORDER BY n_rows, token_id"
        )
        places = np.linspace(0, len(words) - 1, TOKENS).astype(int)
        self._tokens: list[str] = words["token"].take(places).to_pylist()

    def pairs(self) -> dict[str, tuple[int, Callable[[], object], Callable[[], object]]]:
        """Return how many questions each is, and both sides."""
        sql = {name: query.sql for name, query in named_queries().items()}
        top, coactive = sql["top_contexts"], sql["coactive"]
        on_token = sql["features_on_token"]
        strongest = self._both(top, [{"feature": f, "n": 20} for f in self.features])
        quantiles = self._both(QUANTILES, [{"feature": f} for f in self.features])
        if self.n_firings > lake_data.ALL_TABLES:
            return {"T5 top 20": strongest, "T5 quantiles": quantiles}
        common = [{"feature": f, "min_n": 10, "n": 20} for f in self.features]
        return {
            "T3 top 20": strongest,
            "T4 page": (
                ASKED,
                lambda: [self.analysis.feature(f) for f in self.features],
                lambda: [self.pieced(f, self._ask) for f in self.features],
            ),
            "T6 quantiles": quantiles,
            "T7 on a token": self._both(
                on_token, [{"token": t, "min_n": 5, "n": 20} for t in self._tokens]
            ),
            "T7 co-active": self._both(
                coactive, [{"feature": f, "min_n": 5, "n": 20} for f in self.features]
            ),
            "T7 co-active, ready": (
                ASKED,
                lambda: [self._session.answer(KEPT, {"feature": f}) for f in self.features],
                lambda: [self._ask(coactive, each) for each in common],
            ),
            "T8 statistics": (
                1,
                lambda: self._session.answer(READY),
                lambda: self._ask(_STATISTICS, {}),
            ),
        }

    def pieced(self, feature: int, ask: Ask) -> None:
        """Ask for what a page shows."""
        sql = {name: query.sql for name, query in named_queries().items()}
        for question in PAGE:
            ask(question, {"feature": feature})
        shown = [
            ask(sql["top_contexts"], {"feature": feature, "n": 20}),
            ask(sql["quantile_strata"], {"feature": feature, "q": 10, "n": 5}),
            ask(sql["silent"], {"feature": feature, "n": 20}),
        ]
        ask(SHOWN, {"c": [c for each in shown for c in each["context"].to_pylist()]})
        ask(sql["coactive"], {"feature": feature, "min_n": 10, "n": 64})

    def grouped(self) -> float:
        """Return millions of firings a second that go into the statistics of all features."""
        sql = named_queries()["statistics"].sql
        return (
            self.n_firings / min(timed(lambda: self._session.answer(sql)) for _ in range(3)) / 1e6
        )

    def decoded(self) -> str:
        """Return how long it takes to decode three columns of every firing, in words."""
        ours, plain = (
            min(timed(partial(ask, DECODED, {})) for _ in range(3)) * 1000
            for ask in (self._session.answer, self._ask)
        )
        return (
            f"feature, context and position of every firing take {ours:.0f} ms of the lake, {plain:.0f} ms of "
            "the plain file: a token or a feature that lies in every row group needs them"
        )

    def kept(self) -> str:
        """Return whether what is ready is what SQL finds, in words."""
        sql = named_queries()["coactive"].sql
        same = sum(
            self._session.answer(KEPT, {"feature": f}).select(["other", "n_both"]).to_pylist()
            == self._session.answer(sql, {"feature": f, "min_n": 10, "n": 20})
            .select(["other", "n_both"])
            .to_pylist()
            for f in self.features
        )
        return f"the same as by SQL for {same} of {ASKED} features"

    def _both(
        self, sql: str, params: Sequence[dict[str, Any]]
    ) -> tuple[int, Callable[[], object], Callable[[], object]]:
        return (
            len(params),
            lambda: [self._session.answer(sql, each) for each in params],
            lambda: [self._ask(sql, each) for each in params],
        )

    def _ask(self, sql: str, params: dict[str, Any]) -> pa.Table:
        return self._plain.sql(sql, params=params).to_arrow_table()


def _timed(work: Callable[[], object], n: int) -> tuple[float, float]:
    return n, timed(work)


def _milliseconds(work: Callable[[], object], n: int) -> float:
    """Return the time of one question, the median of five rounds."""
    return statistics.median(timed(work) for _ in range(5)) * 1000 / n


def _sizes(built: Built) -> tuple[Amount, ...]:
    there = built.lake.artefact(built.analysis.ref).sizes()
    found = []
    for order in ("feature", "context"):
        size = sum(n for path, n in there.items() if path.startswith(f"firings_by_{order}/"))
        each = size / built.firings
        found.append(Amount(f"T2 a firing by {order}", "bytes", lambda each=each: each, "<=", 5.35))  # type: ignore[misc]
    return tuple(found)


def _written(built: Built) -> float:
    """Return millions of firings a second that are written in feature order, from memory."""
    storage = built.lake.artefact(built.analysis.ref)
    path = next(p for p in storage.files("firings_by_feature") if p.endswith(".parquet"))
    table = pq.read_table(storage.path(path), memory_map=True).slice(0, WHOLE)
    features = np.asarray(table["feature"])
    cuts = np.flatnonzero(np.diff(features, prepend=features[:1]))
    with tempfile.TemporaryDirectory(prefix="saestore-bench-") as place:

        def write() -> None:
            with TableWriter(
                Storage.at(Path(place)), tables.FIRINGS_BY_FEATURE, fingerprint=""
            ) as writer:
                writer.write(table, cuts=cuts)

        return len(table) / min(timed(write) for _ in range(3)) / 1e6


def _opened(built: Built) -> str:
    """Return how long a connection takes, in words."""

    def opened() -> None:
        with SqlSession(built.lake, analysis=NAME):
            pass

    return f"{min(timed(opened) for _ in range(3)) * 1000:.0f} ms, once for any number of questions"


def _slowest(of: _Questions) -> str:
    """Return the slowest page of those asked for, in words."""
    each = {f: min(timed(partial(of.analysis.feature, f)) for _ in range(2)) for f in of.features}
    worst = max(each, key=lambda f: each[f])
    count = of.counts[of.features.index(worst)]
    return f"{each[worst] * 1000:.0f} ms, of a feature with {count:,} firings"


def _whole(built: Built) -> str:
    """Return how long the whole analysis took to write, in words."""
    first, second = built.seconds
    plain = built.plain.stat().st_size / built.firings
    drawn = {"firings_by_context", "firings_by_feature", "contexts", "vocabulary", "documents"}
    made = ", ".join(name for name in built.analysis.tables if name not in drawn)
    return (
        f"in {first:.0f} s drawn, sorted and written by context, in {second:.0f} s by feature with {made}; "
        f"{plain:.2f} bytes a firing in the plain file"
    )


def _release() -> str:
    return f"saestore {saestore.__version__}, duckdb {duckdb.__version__}"


BENCH = LakeBench()
