"""The annotation log of an analysis: what people say about its features.

    <analysis>/annotations/manifest.json    which analysis it is about
    <analysis>/annotations/ULID.parquet     events that were written together
    <analysis>/annotations/ULID.json        its manifest: size and checksum, written after it

Nothing is ever changed: whoever says something adds a file, whose events exist when its manifest does. So
any number of processes write at once, and none waits. What holds now is the last event of each feature,
field and author. Event ids are ULIDs larger than all that were in the log before, whatever the clocks say.

`compact` writes all events into one file and then removes the others; an event that is in two files
counts once, so a reader sees the same before, meanwhile and after, wherever it is killed.
"""

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, final

import polars as pl
import pyarrow as pa
from pydantic import JsonValue, ValidationError

from saestore.errors import (
    ConfigError,
    DamagedArtefactError,
    FeatureNotFoundError,
    nearest,
)
from saestore.features.annotation_files import LogFiles
from saestore.features.annotation_table import Held, as_table
from saestore.features.lines import Line
from saestore.features.ulid import milliseconds_of, ulid
from saestore.fingerprint import canonical, fingerprint
from saestore.lake import Lake, layout
from saestore_schemas.annotations import (
    ANNOTATIONS,
    FIELDS,
    AnnotationEvent,
    check_value,
)
from saestore_schemas.manifest import Manifest


Said = Mapping[str, JsonValue]
"""Field to what it is now; None takes it back."""

_ATTEMPTS = 20
"""Listings until one stands still: each is another compaction that finished meanwhile."""
_PLACE = {field: place for place, field in enumerate(FIELDS)}


@dataclass(frozen=True)
class Compacted:
    """What a compaction did.

    Attributes:
        events: Events of the log, the same before and after.
        files_before: Files that held them.
        files_after: Files that hold them now.
        removed: Files removed that killed writers had left.
    """

    events: int
    files_before: int
    files_after: int
    removed: int


@final
class AnnotationLog:
    """One analysis's log: add to it, and read what holds now. Safe to share between threads.

    Files are read once and kept; each question lists the folder, so what others wrote is seen.
    """

    def __init__(self, lake: Lake, manifest: Manifest) -> None:
        """Prepare to read or write; nothing is touched.

        Args:
            lake: The lake.
            manifest: Manifest of the analysis.
        """
        self._manifest = manifest
        self._files = LogFiles(lake, manifest)
        self._lock = threading.Lock()
        self._held: Held | None = None

    def say(
        self, said: Mapping[int, Said], *, author: str, source: str
    ) -> tuple[AnnotationEvent, ...]:
        """Write what somebody says about some features, all at once or not at all; return the events.

        Args:
            said: Feature to fields to values.
            author: Who says it.
            source: By which way it comes.

        Raises:
            FeatureNotFoundError: The dictionary has no such feature.
            ConfigError: There is no such field, or it cannot have the value; nothing is written.
            StorageError: The lake cannot be written.
        """
        lines = [
            (feature, field, value)
            for feature, fields in said.items()
            for field, value in fields.items()
        ]
        moment = datetime.now(UTC)
        first, tail = self._files.after(len(lines))
        events = [
            self._event(
                event_id=ulid(first, tail + number),
                feature=feature,
                field=field,
                value=value,
                author=author,
                source=source,
                created=moment,
            )
            for number, (feature, field, value) in enumerate(lines)
        ]
        self._write(events, first)
        return tuple(events)

    def add(self, events: Iterable[AnnotationEvent]) -> tuple[AnnotationEvent, ...]:
        """Write events that have their ids already, such as of another lake; return those not yet there.

        Raises:
            FeatureNotFoundError: The dictionary has no such feature.
            ConfigError: The log has an event of that id which says something else.
            StorageError: The lake cannot be written.
        """
        there = {event.event_id: event for event in events_of(self.events().to_pylist())}
        fresh: dict[str, AnnotationEvent] = {}
        for event in events:
            self._check(event.feature)
            known = there.get(event.event_id) or fresh.get(event.event_id)
            if known is None:
                fresh[event.event_id] = event
            elif known != event:
                raise ConfigError(
                    field=f"event {event.event_id}",
                    problem=f"says {event.field} = {canonical(event.value)} of feature {event.feature}",
                    found=event.event_id,
                    expected=f"what the log has under this id: {known.field} = "
                    f"{canonical(known.value)} of feature {known.feature}",
                    hint="an event never changes: give what is said now another event_id",
                )
        if fresh:
            latest = max(milliseconds_of(name) for name in fresh)
            self._write(list(fresh.values()), max(latest, self._files.after(0)[0]))
        return tuple(fresh.values())

    def events(self, feature: int | None = None) -> pa.Table:
        """Return every event, those of a feature together, in the order of their ids.

        Args:
            feature: Of which feature alone.

        Raises:
            DamagedArtefactError: A file does not match its manifest.
        """
        held = self._read()
        return held.table if feature is None else held.lines(feature)

    def current(self) -> pa.Table:
        """Return what holds now, in the order of features, fields and authors; same columns.

        Raises:
            DamagedArtefactError: A file does not match its manifest.
        """
        frame = pl.from_arrow(self.events())
        assert isinstance(frame, pl.DataFrame)  # noqa: S101 - of a table
        last = frame.unique(["feature", "field", "author"], keep="last", maintain_order=True)
        place = pl.col("field").replace_strict(_PLACE, return_dtype=pl.UInt8)
        return as_table(last.filter(~pl.col("deleted")).sort("feature", place, "author"))

    def of(self, feature: int) -> tuple[AnnotationEvent, ...]:
        """Return what holds now of a feature, in the order of fields and authors.

        Raises:
            DamagedArtefactError: A file does not match its manifest.
        """
        return latest(events_of(self.events(feature).to_pylist()))

    def lines(self, features: Iterable[int]) -> dict[int, Sequence[Line]]:
        """Return every event of some features as lines of the table, all of the same moment.

        Raises:
            DamagedArtefactError: A file does not match its manifest.
        """
        held = self._read()
        return {feature: held.lines(feature).to_pylist() for feature in features}

    def __len__(self) -> int:
        """Return how many events there are."""
        return self._read().table.num_rows

    @property
    def version(self) -> str:
        """What changes when something is said: a digest of the names of the log's files."""
        return fingerprint(self._files.names())[:16]

    def compact(self) -> Compacted:
        """Put all events into one file, and remove what killed writers left.

        Others may read and write meanwhile.

        Raises:
            DamagedArtefactError: A file does not match its manifest; nothing is changed.
            StorageError: The lake cannot be written.
        """
        held = self._read()
        many = len(held.batches) > 1
        if many:
            self._files.replace(held.table.sort_by("event_id"), list(held.batches))
        return Compacted(
            events=held.table.num_rows,
            files_before=len(held.batches),
            files_after=1 if many else len(held.batches),
            removed=self._files.sweep(),
        )

    def damage(self, *, quick: bool = False) -> list[str]:
        """Return one line per damaged, missing or foreign file; none when all is well.

        Args:
            quick: Compare sizes only.
        """
        return list(self._files.damage(quick=quick))

    def _event(self, **given: Any) -> AnnotationEvent:
        feature, field, value = (given[name] for name in ("feature", "field", "value"))
        self._check(feature)
        where = f"feature {feature}, {field}"
        if field not in FIELDS:
            close = nearest(field, FIELDS)
            raise ConfigError(
                field=where,
                problem=f"there is no field {field!r}",
                found=field,
                expected=f"one of {', '.join(FIELDS)}",
                hint=f"did you mean {', '.join(close)}?"
                if close
                else "whatever fits no other field is `notes`",
            )
        try:
            if value is not None:
                check_value(field, value)
            return AnnotationEvent(**given, deleted=value is None)
        except ValidationError as error:
            problem = error.errors()[0]
            raise ConfigError(
                field=".".join(str(step) for step in problem["loc"]),
                found=problem["input"],
                problem=f"found {problem['input']!r}: {problem['msg'].removeprefix('Value error, ')}",
                expected="one line of at most 200 characters",
                hint="say who and by which way in one short line",
            ) from error
        except ValueError as error:
            problem_said, _, expected = str(error).partition("; expected ")
            raise ConfigError(
                field=f"feature {feature}",
                found=value,
                problem=problem_said,
                expected=expected,
                hint="null takes a field back",
            ) from error

    def _check(self, feature: int) -> None:
        n_features = self._manifest.counts["features"]
        if not 0 <= feature < n_features:
            name = self._manifest.name.rpartition("/")[0]
            raise FeatureNotFoundError(dictionary=name, feature=feature, n_features=n_features)

    def _write(self, events: Sequence[AnnotationEvent], milliseconds: int) -> None:
        """Write events as one file, whose name is not smaller than their ids."""
        if events:
            table = table_of(sorted(events, key=lambda event: event.event_id))
            self._files.add(table, milliseconds)

    def _read(self) -> Held:
        """Return the events of all files that are there.

        Raises:
            DamagedArtefactError: A file does not match its manifest.
        """
        with self._lock:
            for _ in range(_ATTEMPTS):
                held = self._held
                names = self._files.names()
                if held is not None and list(held.batches) == names:
                    return held
                kept = {} if held is None else held.batches
                try:
                    batches = {name: kept.get(name) or self._files.load(name) for name in names}
                except FileNotFoundError:
                    continue  # a compaction removed one: its events are in a file that is listed next
                self._held = Held.of(batches) if held is None else held.then(batches)
                return self._held
        raise DamagedArtefactError(
            name=self._manifest.name,
            damage=(f"{layout.ANNOTATIONS}: files vanish as fast as they are listed",),
            hint="wait for the compactions that are running, and ask again",
        )


def latest(events: Iterable[AnnotationEvent]) -> tuple[AnnotationEvent, ...]:
    """Return what holds after some events: of each feature, field and author the last, if it is said."""
    last: dict[tuple[int, str, str], AnnotationEvent] = {}
    for event in sorted(events, key=lambda event: event.event_id):
        last[event.feature, event.field, event.author] = event
    held = (event for event in last.values() if not event.deleted)
    return tuple(sorted(held, key=lambda e: (e.feature, _PLACE[e.field], e.author)))


def table_of(events: Sequence[AnnotationEvent]) -> pa.Table:
    """Return events as lines of `annotations`, in the same order."""
    columns = {
        name: [getattr(event, name) for event in events]
        for name in ANNOTATIONS.schema().names
        if name != "value"
    }
    columns["value"] = [canonical(event.value) for event in events]
    return pa.table(columns, schema=ANNOTATIONS.schema())


def events_of(lines: Iterable[Line]) -> list[AnnotationEvent]:
    """Return lines of `annotations` as events; they were checked when they were written."""
    return [
        AnnotationEvent.model_construct(**{**line, "value": json.loads(line["value"])})
        for line in lines
    ]
