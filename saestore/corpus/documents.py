"""A document, and what a source of documents must be."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

import pyarrow as pa
from typing_extensions import override


Position: TypeAlias = Any
"""JSON by which a source finds a place again; None where the number of documents says it all."""


@dataclass(frozen=True)
class Document:
    """One text.

    Attributes:
        id: Given by the source; the same in every run.
        source: Which source it came from.
        text: The whole text; may be empty.
        metadata: Values of the columns named in the source's `metadata` schema.
    """

    id: str
    source: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


class Reading(Iterator[Document]):
    """Documents in order, and where in the source the next one begins.

    A position is what a source needs to come back without reading what lies before: a file and a byte
    offset, say. It is JSON, so that it can be saved, and only that source understands it.
    """

    def __init__(self, documents: Iterator[Document], position: Callable[[], Position]) -> None:
        """Read nothing yet.

        Args:
            documents: The documents.
            position: Returns where the one after the last one taken begins.
        """
        self._documents = documents
        self._position = position

    @override
    def __next__(self) -> Document:
        """Return the next document."""
        return next(self._documents)

    def position(self) -> Position:
        """Return where the next document begins; None where its number says it all."""
        return self._position()


@runtime_checkable
class DocumentSource(Protocol):
    """Documents in a fixed order, from any of them on.

    Laws: `list(documents(n)) == list(documents())[n:]` for every n, past the end too; and the same
    with the position at which another reading was after n documents.
    """

    @property
    def fingerprint(self) -> str:
        """Digest of the ordered contents; of big files only name, size and both ends are read."""
        ...

    @property
    def metadata(self) -> pa.Schema:
        """Metadata columns and their types; every document has a value or null for each."""
        ...

    def documents(self, start: int = 0, *, position: Position = None) -> Reading:
        """Read the documents from number `start` on.

        Args:
            start: The first.
            position: Where it begins, as a reading said; absent, it is looked for.

        Raises:
            ConfigError: A document cannot be read as the settings say; file and line are named.
        """
        ...
