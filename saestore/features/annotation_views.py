"""What people say about features, for SQL.

The logs are read before a question is asked, not by the engine while it answers: files of a log may be
put together at any moment, and an event that is in two files counts once.
"""

from collections.abc import Iterable

import duckdb
import pyarrow as pa

from saestore.features.annotations import AnnotationLog
from saestore.features.views import KEYS, Source
from saestore.lake import Lake
from saestore_schemas.annotations import ANNOTATIONS


EVENTS = "annotations"
CURRENT = "current_annotations"

_CURRENT = """
CREATE VIEW current_annotations AS SELECT * EXCLUDE (deleted) FROM annotations QUALIFY NOT deleted
AND row_number() OVER (
    PARTITION BY series, dictionary, analysis, feature, field, author ORDER BY event_id DESC
) = 1
"""


def create(connection: duckdb.DuckDBPyConnection, lake: Lake, sources: Iterable[Source]) -> None:
    """Make both of them, of some analyses.

    Raises:
        DamagedArtefactError: A file of a log does not match its manifest.
    """
    keys = [pa.field(name, pa.string()) for name in KEYS]
    tables = [pa.schema([*keys, *ANNOTATIONS.schema()]).empty_table()]
    for source in sources:
        events = AnnotationLog(lake, source.manifest).events()
        names = [pa.repeat(each, events.num_rows) for each in source.ref.name.split("/")]
        tables.append(pa.table([*names, *events.columns], schema=tables[0].schema))
    connection.register("_annotations", pa.concat_tables(tables))
    connection.execute(
        "CREATE TABLE annotations AS FROM _annotations ORDER BY series, dictionary, analysis, event_id"
    )
    connection.unregister("_annotations")
    connection.execute(_CURRENT)
