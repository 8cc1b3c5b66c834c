"""What a table of the lake is: its columns, their meaning, and the order of its rows."""

from dataclasses import dataclass

import pyarrow as pa


TABLE_VERSION = 1
"""Major version of all tables; stands in every file's metadata as `saestore.table_version`."""


@dataclass(frozen=True)
class Column:
    """One column: its name, Arrow type and meaning."""

    name: str
    type: pa.DataType
    doc: str
    nullable: bool = False


@dataclass(frozen=True)
class Table:
    """One table: its columns in order, and the columns its rows are sorted by.

    A column in `sort` followed by ` descending` stands for the largest first.
    """

    name: str
    doc: str
    sort: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def order(self) -> tuple[tuple[str, bool], ...]:
        """The columns its rows are sorted by, each with whether it is descending."""
        parts = [name.partition(" ") for name in self.sort]
        return tuple((name, direction == "descending") for name, _, direction in parts)

    def schema(self) -> pa.Schema:
        """Return the Arrow schema, column meanings in the field metadata."""
        return pa.schema(
            [
                pa.field(c.name, c.type, nullable=c.nullable, metadata={"doc": c.doc})
                for c in self.columns
            ],
            metadata={
                "saestore.table": self.name,
                "saestore.table_version": str(TABLE_VERSION),
            },
        )
