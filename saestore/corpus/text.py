"""Plain text files: one document per file."""

from collections.abc import Iterator

import pyarrow as pa

from saestore.corpus import files
from saestore.corpus.documents import Document, Position, Reading
from saestore.errors import ConfigError
from saestore.fingerprint import fingerprint
from saestore_schemas.corpus import TextSource


class TextDocuments:
    """The files of a `text` source in the order of their names; the name is the id."""

    metadata = pa.schema([])

    def __init__(self, settings: TextSource, field: str) -> None:
        self._files = files.find(settings.path, settings.suffixes, field=f"{field}.path")
        self._encoding = settings.encoding
        self._field = field
        self._name = f"text:{settings.path}"

    @property
    def fingerprint(self) -> str:
        """Digest of the files."""
        return fingerprint("text", self._encoding, files.digest(self._files))

    def documents(self, start: int = 0, *, position: Position = None) -> Reading:
        """Read one document per file; the number of a file is all there is to a position.

        Raises:
            ConfigError: A file is not in the encoding the settings name.
        """
        del position
        return Reading(self._documents(start), lambda: None)

    def _documents(self, start: int) -> Iterator[Document]:
        for each in self._files[start:]:
            yield Document(id=each.name, source=self._name, text=self._read(each))

    def _read(self, file: files.Found) -> str:
        try:
            # Line ends stay as they are: character offsets must mean the file's own.
            return file.path.read_bytes().decode(self._encoding)
        except UnicodeDecodeError as error:
            byte = file.path.read_bytes()[error.start : error.start + 1].hex()
            raise ConfigError(
                file=str(file.path),
                field=f"{self._field}.encoding",
                found=f"byte 0x{byte} at offset {error.start}",
                expected=f"text in {self._encoding}",
                hint="set the file's own encoding, such as encoding = 'latin-1'",
            ) from error
        except LookupError as error:
            raise ConfigError(
                field=f"{self._field}.encoding",
                found=self._encoding,
                expected="an encoding that Python knows",
                hint="the usual one is 'utf-8'",
            ) from error
