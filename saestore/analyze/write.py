"""From firings to tables: both orders, then every collector on complete features.

Needs no model and no torch: whoever has firings in context order can write an analysis.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from saestore.analyze.block import FeatureBlock
from saestore.analyze.collectors import COLLECTORS
from saestore.analyze.joint import Sampler
from saestore.analyze.known import Known
from saestore.analyze.sort import Firings, Sorter
from saestore.analyze.values import ARROW
from saestore.features import arrow
from saestore.features.parquet import TableWriter
from saestore.lake import Storage, layout
from saestore.progress import Progress
from saestore_schemas import tables
from saestore_schemas.analyze import AnalyzeSettings
from saestore_schemas.manifest import ArrayInfo
from saestore_schemas.table import Table


Seen = Callable[[str, pa.Table], None]
"""Takes a table's name and some of its lines, as they are written."""

RUNS = f"{layout.PROGRESS}/runs"
"""Where sorted runs are spilled."""
SAMPLE = f"{layout.PROGRESS}/sample"
"""Where firings lie on which features are counted together."""
NEGATIVES = f"{layout.PROGRESS}/negatives"
"""Where lies what hard negatives are found with."""
HEAD_RUNS = f"{layout.PROGRESS}/head_runs"
"""Where those of firings at each head are."""

_TABLES = {
    "features": tables.FEATURES,
    "histograms": tables.HISTOGRAMS,
    "token_stats": tables.TOKEN_STATS,
    "coactivation": tables.COACTIVATION,
    "examples": tables.EXAMPLES,
}


@dataclass
class Output:
    """Where an analysis is written, and what has been written so far.

    Attributes:
        artefact: The artefact's folder.
        fingerprint: Its fingerprint.
        arrays: Shape of every table written.
    """

    artefact: Storage
    fingerprint: str
    arrays: dict[str, ArrayInfo] = field(default_factory=dict)

    def writer(self, table: Table, schema: pa.Schema | None = None) -> TableWriter:
        """Return a writer for one table."""
        return TableWriter(self.artefact, table, fingerprint=self.fingerprint, schema=schema)

    def wrote(self, table: str, writer: TableWriter) -> None:
        """Note the shape of a table."""
        self.arrays[table] = ArrayInfo(shape=(writer.rows, writer.columns), dtype="table")

    def write(
        self, table: Table, pieces: Iterable[pa.Table], schema: pa.Schema | None = None
    ) -> None:
        """Write a whole table from its pieces."""
        with self.writer(table, schema) as writer:
            for piece in pieces:
                writer.write(piece)
        self.wrote(table.name, writer)


def sorted_by_context(
    source: Iterable[tuple[int, Firings]],
    output: Output,
    settings: AnalyzeSettings,
    *,
    features: int,
    rows: int,
    progress: Progress,
    sampler: Sampler | None = None,
) -> Sorter:
    """Write the by-context order as firings come; return them held for the other order.

    Args:
        source: Rows done and their firings, in context order.
        output: Where to write.
        settings: Which orders, which type of value, how much memory.
        features: Features of the dictionary.
        rows: Rows that will be done, for the progress bar.
        progress: Where to report.
        sampler: Takes the firings on which features are counted together.
    """
    sorter = Sorter(
        output.artefact.scratch(RUNS), features=features, memory_mib=settings.memory_mib
    )
    table = tables.firings(ARROW[settings.value_dtype], "context")
    with ExitStack() as stack:
        writer = None
        if settings.firings == "both":
            writer = stack.enter_context(output.writer(table))
        task = stack.enter_context(progress.task("sort", total=rows, unit="rows"))
        last = -1
        for done, firings in source:
            sorter.add(firings)
            if sampler is not None:
                sampler.add(firings)
            if writer is not None and len(firings):
                context = firings.context.astype(np.int64)
                cuts = np.flatnonzero(np.diff(context, prepend=last))
                writer.write(_lines(table, firings.feature, firings), cuts=cuts)
                last = int(context[-1])
            task.advance(done)
    if writer is not None:
        output.wrote(table.name, writer)
    return sorter


def collected(
    sorter: Sorter,
    output: Output,
    known: Known,
    *,
    progress: Progress,
    seen: Sequence[Seen] = (),
) -> int:
    """Write the by-feature order and every collector's table; return how many features are dead.

    Examples that lie near other features are collected in a second reading: the first finds which
    features fire together, and where each of them does.

    Args:
        sorter: All firings.
        output: Where to write.
        known: What to collect, and from what.
        progress: Where to report.
        seen: Called each with a collector's name and each piece of its table.
    """
    alike = known.negatives.alike
    names = [name for name, make in COLLECTORS.items() if make(known) is not None]
    later = [] if alike is None else [tables.EXAMPLES.name]
    told = [*seen, *([] if alike is None else [alike.take])]
    dead, table = 0, tables.firings(ARROW[known.settings.value_dtype], "feature")
    with (
        output.writer(table) as by_feature,
        _filling(set(names).difference(later), output, known, told) as fill,
        progress.task("count", total=sorter.n_firings, unit="firings") as task,
    ):
        for block in sorter.blocks(again=bool(later)):
            feature = np.repeat(block.features, block.counts)
            starts = block.offsets[:-1][block.counts > 0]
            by_feature.write(_lines(table, feature, block), cuts=starts)
            fill(block)
            if alike is not None:
                alike.add(block)
            dead += int((block.counts == 0).sum())
            task.advance(len(block.value))
    output.wrote(table.name, by_feature)
    if alike is not None:
        known = replace(known, negatives=replace(known.negatives, contexts=alike.contexts()))
        with (
            _filling(later, output, known, told) as fill,
            progress.task("examples", total=sorter.n_firings, unit="firings") as task,
        ):
            for block in sorter.blocks():
                fill(block)
                task.advance(len(block.value))
    return dead


def write_tallied(
    pieces: Iterable[tuple[str, pa.Table]],
    output: Output,
    *,
    seen: Sequence[Seen] = (),
) -> None:
    """Write tables from their pieces, which come in any order of tables.

    Args:
        pieces: Name of a table and next lines of it.
        output: Where to write.
        seen: Called each with every piece.
    """
    writers: dict[str, TableWriter] = {}
    with ExitStack() as stack:
        for name, piece in pieces:
            if name not in writers:
                writers[name] = stack.enter_context(output.writer(_TABLES[name]))
            writers[name].write(piece)
            for each in seen:
                each(name, piece)
    for name, writer in writers.items():
        output.wrote(name, writer)


@contextmanager
def _filling(
    names: Iterable[str],
    output: Output,
    known: Known,
    told: Sequence[Seen],
) -> Iterator[Callable[[FeatureBlock], None]]:
    """Open tables, and give what fills them all from a block of features."""
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(output.writer(_TABLES[name])) for name in sorted(names)
        }

        def fill(block: FeatureBlock) -> None:
            for name, writer in writers.items():
                if (collector := COLLECTORS[name](known)) is None:
                    continue
                collector.update(block)
                piece = collector.table()
                writer.write(piece)
                for tell in told:
                    tell(name, piece)

        yield fill
    for name, writer in writers.items():
        output.wrote(name, writer)


def write_at_heads(
    sorter: Sorter, output: Output, settings: AnalyzeSettings, *, gates: int
) -> None:
    """Write the firings at each head.

    Args:
        sorter: They, at head l of feature i as number i gates + l.
        output: Where to write.
        settings: Which type of value.
        gates: How many heads there are.
    """
    table = tables.head_firings(ARROW[settings.value_dtype])
    with output.writer(table) as writer:
        for block in sorter.blocks():
            number = np.repeat(block.features, block.counts)
            lines = _lines(table, number // gates, block, head=number % gates)
            writer.write(lines, cuts=block.offsets[:-1][block.counts > 0])
    output.wrote(table.name, writer)


def _lines(
    table: Table, feature: np.ndarray, columns: Firings | FeatureBlock, **more: np.ndarray
) -> pa.Table:
    schema = table.schema()
    value = columns.value
    if pa.types.is_float16(schema.field("value").type):
        value = value.astype(np.float16)
    return arrow.rows(
        schema,
        {
            "feature": feature,
            "context": columns.context,
            "position": columns.position,
            "value": value,
            **{name: each.astype(np.uint16) for name, each in more.items()},
        },
    )
