"""JSON Lines, plain or gzipped: one document per line."""

import gzip
import json
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO, NamedTuple, cast

import pyarrow as pa

from saestore.corpus import columns, files
from saestore.corpus.documents import Document, Position, Reading
from saestore.errors import ConfigError
from saestore.fingerprint import fingerprint
from saestore_schemas.corpus import JsonlSource


SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
PEEK = 1000
"""Lines read to learn the types of metadata columns."""


class _Line(NamedTuple):
    file: files.Found
    number: int
    data: bytes

    @property
    def where(self) -> str:
        return f"{self.file.path}:{self.number}"


@dataclass
class _Place:
    """Which file, and how many of its bytes and lines were read."""

    file: int = 0
    offset: int = 0
    line: int = 0


class JsonlDocuments:
    """The lines of a `jsonl` source, file after file; empty lines are no documents."""

    def __init__(self, settings: JsonlSource, field: str) -> None:
        self._settings = settings
        self._field = field
        self._files = files.find(settings.path, SUFFIXES, field=f"{field}.path")
        self._name = f"jsonl:{settings.path}"
        peeked = islice(self._lines(_Place()), PEEK) if settings.metadata else ()
        self._metadata = columns.infer(settings.metadata, (self._parsed(line) for line in peeked))

    @property
    def fingerprint(self) -> str:
        """Digest of the files and of which keys are read."""
        s = self._settings
        return fingerprint("jsonl", s.field, s.id_field, s.metadata, files.digest(self._files))

    @property
    def metadata(self) -> pa.Schema:
        """Types as the first lines show them."""
        return self._metadata

    def documents(self, start: int = 0, *, position: Position = None) -> Reading:
        """Read one document per line; lines before `start` are not parsed, and from a position not read.

        In a gzipped file what lies before the position is unpacked.

        Raises:
            ConfigError: A line is not a JSON object, lacks a key, or a value has the wrong type.
        """
        at = _Place() if position is None else _Place(**cast("dict[str, int]", position))
        skipped = start if position is None else 0

        def read() -> Iterator[Document]:
            with closing(self._lines(at)) as lines:  # a broken line closes the file at once
                for line in islice(lines, skipped, None):
                    yield self._document(line)

        return Reading(read(), lambda: dict(vars(at)))

    def _lines(self, at: _Place) -> Generator[_Line, None, None]:
        for number, each in enumerate(self._files[at.file :], at.file):
            if number != at.file:
                at.file, at.offset, at.line = number, 0, 0
            opener = gzip.open if each.name.endswith(".gz") else open
            with cast("BinaryIO", opener(each.path, "rb")) as file:
                try:
                    file.seek(at.offset)
                    for data in file:
                        at.offset += len(data)
                        at.line += 1
                        if not data.isspace():
                            yield _Line(each, at.line, data)
                except (EOFError, gzip.BadGzipFile) as error:
                    raise ConfigError(
                        file=str(each.path),
                        field=f"{self._field}.path",
                        found=str(error),
                        expected="a whole gzip file",
                        hint="fetch or write the file again",
                    ) from error

    def _parsed(self, line: _Line) -> dict[str, Any]:
        try:
            value = json.loads(line.data)
        except ValueError as error:  # JSONDecodeError, UnicodeDecodeError
            raise ConfigError(
                file=line.where,
                field=f"{self._field}.path",
                found=line.data[:60].decode(errors="replace").rstrip(),
                expected="one JSON object per line",
                hint=f"line {line.number} is broken: {error}",
            ) from error
        if not isinstance(value, dict):
            raise ConfigError(
                file=line.where,
                field=f"{self._field}.path",
                found=type(value).__name__,
                expected="one JSON object per line",
                hint='each line looks like {"text": "…"}',
            )
        return value

    def _document(self, line: _Line) -> Document:
        row = self._parsed(line)
        s = self._settings
        columns.require((s.field,), tuple(row), field=f"{self._field}.field", file=line.where)
        if s.id_field is not None:
            columns.require(
                (s.id_field,), tuple(row), field=f"{self._field}.id_field", file=line.where
            )
        return Document(
            id=f"{line.file.name}:{line.number}" if s.id_field is None else str(row[s.id_field]),
            source=self._name,
            text=columns.text_of(row[s.field], field=f"{self._field}.field", file=line.where),
            metadata={
                name: columns.fitted(
                    name, kind, row.get(name), where=line.where, setting=f"{self._field}.metadata"
                )
                for name, kind in zip(self._metadata.names, self._metadata.types, strict=True)
            },
        )
