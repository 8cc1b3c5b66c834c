"""A stored table of all analyses as one lazy Polars frame, with the columns that tell them apart.

Tables of runs of `interpret` are among them: a run lies in the folder of an analysis.

What SQL's views add to a table (`row` of a firing, the text of a token) is a join away; see their SQL.
"""

from collections.abc import Mapping, Sequence

import polars as pl

from saestore.errors import QueryError, nearest
from saestore.features import views
from saestore.features.analysis import Analysis
from saestore.features.find import analysis_named
from saestore.features.interpretations import refs_of
from saestore.lake import Lake, Ref, layout, manifest as manifests
from saestore_schemas.interpretation_tables import TABLES
from saestore_schemas.table import Table


OF_RUNS: Mapping[str, Table] = {table.name: table for table in TABLES}
"""Tables that a run of `interpret` has."""

STORED: Mapping[str, Table] = {
    **{table.name: table for table in views.VIEW_TABLES.values()},
    **OF_RUNS,
}
"""Tables that an analysis or a run about it may have, by the names of their folders."""


def scan(lake: Lake, table: str, *, analysis: str | None = None) -> pl.LazyFrame:
    """Return a table of all analyses, lazily: `series`, `dictionary`, `analysis`, then its columns.

    Of a table of runs of `interpret`, `run` follows `analysis`.

    Args:
        lake: The lake.
        table: Which; where no analysis has it, the frame is empty.
        analysis: The only analysis to read, `SERIES/NAME` or `SERIES/NAME/ANALYSIS`; absent, all.

    Raises:
        QueryError: No analysis ever has such a table; the nearest are named.
        ArtefactNotFoundError: No such analysis.
        DamagedArtefactError: A run's table is missing or has another size.
    """
    if table not in STORED:
        close = nearest(table, list(STORED))
        raise QueryError(
            f"there is no table {table!r}",
            found=table,
            expected=f"one of {', '.join(STORED)}",
            hint=f"did you mean {', '.join(close)}?"
            if close
            else f"there are: {', '.join(STORED)}",
        )
    refs = lake.refs("features") if analysis is None else [analysis_named(lake, analysis)]
    names = views.RUN_KEYS if table in OF_RUNS else views.KEYS
    if table in OF_RUNS:
        runs = [run for ref in refs for run in refs_of(lake, ref)]
        frames = [frame for run in runs if (frame := _of_run(lake, run, table)) is not None]
    else:
        opened = [Analysis.open(lake, ref.name) for ref in refs]
        frames = [
            _keyed(each.lazy(table), each.ref, names) for each in opened if table in each.tables
        ]
    if not frames:
        keys = dict.fromkeys(names, pl.String())
        columns = pl.DataFrame(STORED[table].schema().empty_table()).schema
        return pl.LazyFrame(schema={**keys, **columns})
    # relaxed: values may be float16 in one analysis and float32 in another
    return pl.concat(frames, how="diagonal_relaxed")


def _of_run(lake: Lake, run: Ref, table: str) -> pl.LazyFrame | None:
    """Return one table of a run; None where it has none."""
    artefact, manifest = lake.artefact(run), lake.manifest(run)
    if table not in manifest.arrays:
        return None
    path = layout.part_file(table, 0)
    manifests.check_sizes(artefact, manifest, [path])
    if artefact.local is not None:
        return _keyed(pl.scan_parquet(artefact.path(path)), run, views.RUN_KEYS)
    return _keyed(pl.scan_parquet(artefact.fs.open(artefact.join(path))), run, views.RUN_KEYS)


def _keyed(frame: pl.LazyFrame, ref: Ref, keys: Sequence[str]) -> pl.LazyFrame:
    names = zip(keys, ref.name.split("/"), strict=True)
    return frame.select(*(pl.lit(value).alias(key) for key, value in names), pl.all())
