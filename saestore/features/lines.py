"""What an analysis says of one feature, wherever it lies: in the tables of a lake, or in an index."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.compute as pc

from saestore.features.pieces import Columns, Shown, Vocabulary


Line = Mapping[str, Any]
"""A row of a table: column to value."""


@runtime_checkable
class Lines(Protocol):
    """What an analysis says of one feature."""

    def rows(self, table: str) -> Sequence[Line]:
        """Return its lines of a table in stored order; none where the analysis has no such table.

        Those of `annotations` are the events of the log, or only what holds now; those of
        `interpretations` and `interpretation_scores` are of all runs, the newest last, each with its `run`.
        """
        ...

    def columns(self, table: str) -> Columns:
        """Return the same by columns, which is quicker for many; none where there is no such table."""
        ...

    def examples(self, subsamples: Collection[str] | None) -> Columns:
        """Return the columns of its `examples` that belong to some subsamples; absent, to any."""
        ...

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens that its lines name."""
        ...

    def shown(self, examples: Columns) -> Shown:
        """Return what some of its lines of `examples` show of their contexts."""
        ...

    def piece(self, context: int, position: int) -> str:
        """Return the text at a position that its `attention` reads."""
        ...


def of_subsamples(examples: Any, subsamples: Collection[str] | None) -> Any:
    """Return the lines of `examples` that belong to some subsamples; absent, all.

    Args:
        examples: A table, or an array of structs.
        subsamples: Which.
    """
    if subsamples is None:
        return examples
    wanted = pa.array(sorted(subsamples), pa.string())
    names = (
        pc.struct_field(examples, "subsample")
        if isinstance(examples, pa.Array)
        else examples["subsample"]
    )
    return examples.filter(pc.is_in(names, wanted))
