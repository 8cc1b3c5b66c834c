"""A document, and what a source of documents must be."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa


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


@runtime_checkable
class DocumentSource(Protocol):
    """Documents in a fixed order, from any of them on.

    Law: `list(documents(n)) == list(documents())[n:]` for every n, past the end too.
    """

    @property
    def fingerprint(self) -> str:
        """Digest of the ordered contents; of big files only name, size and both ends are read."""
        ...

    @property
    def metadata(self) -> pa.Schema:
        """Metadata columns and their types; every document has a value or null for each."""
        ...

    def documents(self, start: int = 0) -> Iterator[Document]:
        """Yield the documents from number `start` on.

        Raises:
            ConfigError: A document cannot be read as the settings say; file and line are named.
        """
        ...
