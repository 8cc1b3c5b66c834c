"""A stored table of all analyses as one lazy Polars frame, with the columns that tell them apart.

What SQL's views add to a table (`row` of a firing, the text of a token) is a join away; see their SQL.
"""

from collections.abc import Mapping

import polars as pl

from saestore.errors import QueryError, nearest
from saestore.features import views
from saestore.features.analysis import Analysis
from saestore.features.find import analysis_named
from saestore.lake import Lake
from saestore_schemas.table import Table


STORED: Mapping[str, Table] = {table.name: table for table in views.VIEW_TABLES.values()}
"""Tables that an analysis may have, by the names of their folders."""


def scan(lake: Lake, table: str, *, analysis: str | None = None) -> pl.LazyFrame:
    """Return a table of all analyses, lazily: `series`, `dictionary`, `analysis`, then its columns.

    Args:
        lake: The lake.
        table: Which; where no analysis has it, the frame is empty.
        analysis: The only analysis to read, `SERIES/NAME` or `SERIES/NAME/ANALYSIS`; absent, all.

    Raises:
        QueryError: No analysis ever has such a table; the nearest are named.
        ArtefactNotFoundError: No such analysis.
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
    opened = [Analysis.open(lake, ref.name) for ref in refs]
    frames = [_keyed(each, table) for each in opened if table in each.tables]
    if not frames:
        keys = dict.fromkeys(views.KEYS, pl.String())
        columns = pl.DataFrame(STORED[table].schema().empty_table()).schema
        return pl.LazyFrame(schema={**keys, **columns})
    # relaxed: values may be float16 in one analysis and float32 in another
    return pl.concat(frames, how="diagonal_relaxed")


def _keyed(analysis: Analysis, table: str) -> pl.LazyFrame:
    names = zip(views.KEYS, analysis.ref.name.split("/"), strict=True)
    return analysis.lazy(table).select(
        *(pl.lit(value).alias(key) for key, value in names), pl.all()
    )
