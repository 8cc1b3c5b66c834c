"""The events of several files as one table, in which those of a feature are found at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from saestore_schemas.annotations import ANNOTATIONS


_FEW = 100
"""Events that are put between those that are held already, without sorting them all again."""


@dataclass(frozen=True)
class Held:
    """What was read of a log.

    Attributes:
        batches: Each file's events, by name.
        table: All events, each once, by feature and event id.
        features: Its first sort column.
        newest: The largest event id.
    """

    batches: Mapping[str, pa.Table]
    table: pa.Table
    features: np.ndarray
    newest: str

    @classmethod
    def of(cls, batches: Mapping[str, pa.Table]) -> "Held":
        """Put files together."""
        schema = ANNOTATIONS.schema()
        whole = pa.concat_tables([schema.empty_table(), *batches.values()])
        frame = pl.from_arrow(whole)
        assert isinstance(frame, pl.DataFrame)  # noqa: S101 - of a table
        frame = frame.unique("event_id", keep="any").sort("feature", "event_id")
        newest = str(frame["event_id"].max()) if frame.height else ""
        return cls(batches, as_table(frame), frame["feature"].to_numpy(), newest)

    def then(self, batches: Mapping[str, pa.Table]) -> "Held":
        """Return it with the files that are there now; a few that only follow are put between.

        Args:
            batches: All files.
        """
        more = [table for name, table in batches.items() if name not in self.batches]
        few = sum(table.num_rows for table in more) <= _FEW
        if not few or not self.batches.keys() <= batches.keys():
            return Held.of(batches)
        fresh = Held.of({str(number): table for number, table in enumerate(more)})
        ids: list[Any] = fresh.table["event_id"].to_pylist()
        if min(ids, default="") <= self.newest:
            return Held.of(batches)
        places = np.searchsorted(self.features, fresh.features, side="right")
        pieces, last = [], 0
        for row, place in enumerate(places.tolist()):
            pieces += [self.table.slice(last, place - last), fresh.table.slice(row, 1)]
            last = place
        table = pa.concat_tables([*pieces, self.table.slice(last)])
        features = np.insert(self.features, places, fresh.features)
        return Held(batches, table, features, fresh.newest)

    def lines(self, feature: int) -> pa.Table:
        """Return the events of one feature."""
        start, stop = np.searchsorted(self.features, [feature, feature + 1]).tolist()
        return self.table.slice(start, stop - start)


def as_table(frame: pl.DataFrame) -> pa.Table:
    """Return a frame with the columns of `annotations` as Arrow says them."""
    return frame.to_arrow().cast(ANNOTATIONS.schema())
