"""What a collector is: complete features in, one table out."""

from typing import Any, Protocol, runtime_checkable

import pyarrow as pa

from saestore.analyze.block import FeatureBlock


@runtime_checkable
class Collector(Protocol):
    """Turns the complete firings of features into rows of one table.

    Laws: features may be given in any blocks and any order; collectors that saw different features
    merge into one that saw them all; `table` is sorted as the table says and does not depend on
    how its features were split.
    """

    def update(self, block: FeatureBlock) -> None:
        """Take features that it has not seen."""
        ...

    def merge(self, other: Any) -> None:
        """Take everything another collector of the same analysis has seen; it is not changed."""
        ...

    def table(self) -> pa.Table:
        """Return the rows of all features seen so far."""
        ...


class Pieces:
    """The rows of features seen so far, kept by their first feature: what collectors build on."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self.by_first: dict[int, pa.Table] = {}

    def add(self, first: int, piece: pa.Table) -> None:
        """Keep the rows of the features that start at `first`."""
        self.by_first[first] = piece

    def merge(self, other: "Pieces") -> None:
        """Keep another's rows too."""
        self.by_first.update(other.by_first)

    def table(self) -> pa.Table:
        """Return all rows by feature."""
        pieces = [self.by_first[first] for first in sorted(self.by_first)]
        return pa.concat_tables([self.schema.empty_table(), *pieces]).combine_chunks()
