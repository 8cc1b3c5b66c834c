"""What an analysis says of one feature, wherever it lies: in the tables of a lake, or in an index."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from saestore.features.pieces import Shown, Vocabulary


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

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens that its lines name."""
        ...

    def shown(self, lines: Sequence[Line]) -> Shown:
        """Return what some of its `examples` show of their contexts."""
        ...

    def piece(self, context: int, position: int) -> str:
        """Return the text at a position that its `attention` reads."""
        ...
