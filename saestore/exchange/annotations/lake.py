"""The log itself, for another lake: as Parquet or as JSON. Nothing is lost, and nothing is there twice."""

from collections.abc import Sequence

import pyarrow as pa

from saestore.exchange.annotations.format import About, Found, event_of, parsed
from saestore.features.annotations import table_of
from saestore.lake import table_file
from saestore_schemas.annotations import ANNOTATIONS, AnnotationEvent


class _Whole:
    """A file that holds every event."""

    history = True

    def holds(self, events: Sequence[AnnotationEvent]) -> Sequence[AnnotationEvent]:
        """Return all of them."""
        return events


class LakeParquet(_Whole):
    """Lines of the table `annotations`."""

    name = "parquet"

    def read(self, data: bytes, about: About) -> Found:
        """Return its events.

        Raises:
            ConfigError: It is no Parquet file, has other columns, or a line is no event.
        """
        try:
            table = table_file.from_bytes(data)
        except pa.ArrowException as error:
            raise about.wrong("file", str(error), "a Parquet file") from error
        wanted = ANNOTATIONS.schema()
        lacking = [name for name in wanted.names if name not in table.schema.names]
        if lacking:
            raise about.wrong("columns", table.schema.names, f"also {', '.join(lacking)}")
        found = Found()
        for number, line in enumerate(table.select(wanted.names).to_pylist()):
            where = f"line {number}"
            value = line["value"]
            text = value.encode() if isinstance(value, str) else b"null"
            line["value"] = parsed(text, about, where=f"{where}.value")
            found.events.append(event_of(line, about, where))
        return found

    def write(self, events: Sequence[AnnotationEvent], about: About) -> bytes:
        """Return the file, which names the dictionary in its metadata."""
        table = table_of(events)
        metadata = dict(table.schema.metadata or {})
        metadata[b"saestore.dictionary"] = f"{about.series}/{about.dictionary}".encode()
        return table_file.to_bytes(table.replace_schema_metadata(metadata))


class LakeJson(_Whole):
    """A list of events."""

    name = "json"

    def read(self, data: bytes, about: About) -> Found:
        """Return its events.

        Raises:
            ConfigError: It is no list of events.
        """
        lines = parsed(data, about)
        if not isinstance(lines, list):
            raise about.wrong(
                "file",
                type(lines).__name__,
                "a list of events",
                "of a registry give --format mlxterp",
            )
        found = Found()
        for number, line in enumerate(lines):
            if not isinstance(line, dict):
                raise about.wrong(f"[{number}]", line, "an event")
            found.events.append(event_of(line, about, f"[{number}]"))
        return found

    def write(self, events: Sequence[AnnotationEvent], about: About) -> bytes:
        """Return the list, one event a line."""
        del about
        lines = ",\n".join(event.model_dump_json() for event in events)
        return f"[\n{lines}\n]\n".encode() if lines else b"[]\n"
