"""The documents of a corpus: all its sources, one after the other."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, cast

import pyarrow as pa

from saestore.corpus.dataset import DatasetDocuments
from saestore.corpus.documents import Document, DocumentSource, Position, Reading
from saestore.corpus.jsonl import JsonlDocuments
from saestore.corpus.parquet import ParquetDocuments
from saestore.corpus.stdlib import StdlibDocuments
from saestore.corpus.text import TextDocuments
from saestore.errors import ConfigError
from saestore.fingerprint import fingerprint
from saestore_schemas.corpus import CorpusSettings


OPENERS: Mapping[str, Callable[[Any, str], DocumentSource]] = {
    "text": TextDocuments,
    "jsonl": JsonlDocuments,
    "parquet": ParquetDocuments,
    "dataset": DatasetDocuments,
    "stdlib": StdlibDocuments,
}
"""Kind of source to what reads it, given its settings and their dotted path."""


def open_corpus(settings: CorpusSettings) -> DocumentSource:
    """Return the corpus: every source in turn, cut off at `limit_documents`.

    Raises:
        ConfigError: A path, file, column or line is not as the settings say, or two sources give
            one metadata column two types.
        MissingExtraError: A data set is wanted and `datasets` is not installed.
    """
    opened = [
        OPENERS[source.kind](source, f"corpus.sources[{number}]")
        for number, source in enumerate(settings.sources)
    ]
    return Chain(opened, limit=settings.limit_documents)


class Chain:
    """Several sources as one, the first `limit` documents of them."""

    def __init__(self, sources: Sequence[DocumentSource], *, limit: int | None = None) -> None:
        self._sources = tuple(sources)
        self._limit = limit
        self._metadata = _joined([source.metadata for source in sources])
        self._counts: dict[int, int] = {}

    @property
    def fingerprint(self) -> str:
        """Digest of the sources' digests and the limit."""
        return fingerprint([source.fingerprint for source in self._sources], self._limit)

    @property
    def metadata(self) -> pa.Schema:
        """The columns of all sources; a source without one gives null."""
        return self._metadata

    def documents(self, start: int = 0, *, position: Position = None) -> Reading:
        """Read documents from number `start` on.

        Without a position, a source that lies before `start` whole is counted once, by reading it.

        Raises:
            ConfigError: A document cannot be read.
        """
        stop = None if self._limit is None else max(0, self._limit - start)
        at = _Place()
        if position is not None:
            at = _Place(**cast("dict[str, Any]", position))
        elif start:
            at = self._find(start)
        return Reading(islice(self._from(at), stop), at.position)

    def _find(self, start: int) -> "_Place":
        """Return where a document lies; past the end, behind the last source's."""
        last = len(self._sources) - 1
        for number in range(last):
            size = self._count(number)
            if start < size:
                return _Place(number, start)
            start -= size
        return _Place(last, start)

    def _from(self, at: "_Place") -> Iterator[Document]:
        for number, source in enumerate(self._sources[at.source :], at.source):
            if number != at.source:
                at.source, at.read, at.inside = number, 0, None
            at.reading = source.documents(at.read, position=at.inside)
            for document in at.reading:
                at.read += 1
                metadata = {name: document.metadata.get(name) for name in self._metadata.names}
                yield Document(document.id, document.source, document.text, metadata)

    def _count(self, number: int) -> int:
        if number not in self._counts:
            self._counts[number] = sum(1 for _ in self._sources[number].documents())
        return self._counts[number]


@dataclass
class _Place:
    """Which source, how many of its documents were read, and where in it the next one begins."""

    source: int = 0
    read: int = 0
    inside: Position = None
    reading: Reading | None = field(default=None, repr=False)

    def position(self) -> Position:
        """Return it as JSON."""
        inside = self.inside if self.reading is None else self.reading.position()
        return {"source": self.source, "read": self.read, "inside": inside}


def _joined(schemas: Sequence[pa.Schema]) -> pa.Schema:
    known: dict[str, pa.Field[Any]] = {}
    for schema in schemas:
        for column in schema:
            if known.setdefault(column.name, column).type != column.type:
                raise ConfigError(
                    field="corpus.sources",
                    found=f"{column.name}: {known[column.name].type} and {column.type}",
                    expected="one type for each metadata column in all sources",
                    hint=f"leave {column.name!r} out of one source's metadata",
                )
    return pa.schema(list(known.values()))
