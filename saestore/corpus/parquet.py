"""Parquet files: one document per row."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from saestore.corpus import columns, files
from saestore.corpus.documents import Document, Position, Reading
from saestore.errors import ConfigError
from saestore.fingerprint import fingerprint
from saestore_schemas.corpus import ParquetSource


SUFFIXES = (".parquet",)
BATCH = 256
"""Rows decoded at a time."""


@dataclass
class _Place:
    """Which file, and how many of its rows were read."""

    file: int = 0
    row: int = 0


class ParquetDocuments:
    """The rows of a `parquet` source, file after file; only the columns asked for are read."""

    def __init__(self, settings: ParquetSource, field: str) -> None:
        self._settings = settings
        self._field = field
        self._files = files.find(settings.path, SUFFIXES, field=f"{field}.path")
        self._name = f"parquet:{settings.path}"
        self._metadata = self._schema(self._files[0])

    @property
    def fingerprint(self) -> str:
        """Digest of the files and of which columns are read."""
        s = self._settings
        return fingerprint("parquet", s.field, s.id_field, s.metadata, files.digest(self._files))

    @property
    def metadata(self) -> pa.Schema:
        """Types of the first file's columns."""
        return self._metadata

    def documents(self, start: int = 0, *, position: Position = None) -> Reading:
        """Read one document per row; row groups before `start` are not read.

        Raises:
            ConfigError: A file lacks a column or is not Parquet, or a text is not text.
        """
        at = _Place() if position is None else _Place(**cast("dict[str, int]", position))
        skipped = start if position is None else 0
        return Reading(self._documents(skipped, at), lambda: dict(vars(at)))

    def _documents(self, skipped: int, at: _Place) -> Iterator[Document]:
        for number, each in enumerate(self._files[at.file :], at.file):
            if number != at.file:
                at.file, at.row = number, 0
            if self._schema(each) != self._metadata:
                raise ConfigError(
                    file=str(each.path),
                    field=f"{self._field}.metadata",
                    found=str(self._schema(each)),
                    expected=str(self._metadata),
                    hint="all files of a source must have the same metadata columns",
                )
            with self._open(each) as file:
                at.row, rows = at.row + skipped, file.metadata.num_rows
                skipped = max(0, at.row - rows)
                if at.row < rows:
                    for document in self._rows(each, file, at.row):
                        at.row += 1
                        yield document

    def _open(self, file: files.Found) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(file.path)
        except pa.ArrowInvalid as error:
            raise ConfigError(
                file=str(file.path),
                field=f"{self._field}.path",
                found=str(error),
                expected="a Parquet file",
                hint="fetch or write the file again",
            ) from error

    def _schema(self, file: files.Found) -> pa.Schema:
        s = self._settings
        with self._open(file) as opened:
            schema = opened.schema_arrow
        for setting, names in (
            ("field", (s.field,)),
            ("id_field", () if s.id_field is None else (s.id_field,)),
            ("metadata", s.metadata),
        ):
            columns.require(
                names, schema.names, field=f"{self._field}.{setting}", file=str(file.path)
            )
        return pa.schema([pa.field(name, _plain(schema.field(name).type)) for name in s.metadata])

    def _rows(self, found: files.Found, file: pq.ParquetFile, start: int) -> Iterator[Document]:
        s = self._settings
        group = row = 0
        while row + file.metadata.row_group(group).num_rows <= start:
            row += file.metadata.row_group(group).num_rows
            group += 1
        wanted = list(dict.fromkeys((s.field, *((s.id_field,) if s.id_field else ()), *s.metadata)))
        groups = list(range(group, file.num_row_groups))
        for batch in file.iter_batches(BATCH, row_groups=groups, columns=wanted):
            skipped = min(batch.num_rows, max(0, start - row))
            for number, values in enumerate(batch.slice(skipped).to_pylist(), row + skipped):
                yield self._document(found, number, values)
            row += batch.num_rows

    def _document(self, file: files.Found, row: int, values: Mapping[str, Any]) -> Document:
        s = self._settings
        return Document(
            id=f"{file.name}:{row}" if s.id_field is None else str(values[s.id_field]),
            source=self._name,
            text=columns.text_of(
                values[s.field], field=f"{self._field}.field", file=f"{file.path}, row {row}"
            ),
            metadata={name: values[name] for name in s.metadata},
        )


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind
