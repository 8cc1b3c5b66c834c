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
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, final

import numpy as np
import polars as pl
import pyarrow as pa
from pydantic import JsonValue, ValidationError

from saestore.errors import (
    ArtefactNotFoundError,
    ConfigError,
    DamagedArtefactError,
    FeatureNotFoundError,
    nearest,
)
from saestore.features.lines import Line
from saestore.features.ulid import RANDOM_BITS, milliseconds_of, ulid
from saestore.fingerprint import canonical, fingerprint
from saestore.lake import Lake, Ref, layout, manifest as manifests, table_file
from saestore.lake.storage import TEMPORARY
from saestore_schemas.annotations import (
    ANNOTATIONS,
    FIELDS,
    AnnotationBatch,
    AnnotationEvent,
    AnnotationLog as LogManifest,
    check_value,
)
from saestore_schemas.manifest import Manifest


Said = Mapping[str, JsonValue]
"""Field to what it is now; None takes it back."""

_ATTEMPTS = 20
"""Listings until one stands still: each is another compaction that finished meanwhile."""
_ABANDONED = timedelta(days=1)
"""Whoever writes a file writes its manifest by then, or was killed."""
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


@dataclass(frozen=True)
class _Held:
    """What was read.

    Attributes:
        batches: Each file's events, by name.
        table: All events, each once, by feature and event id.
        features: Its first sort column.
    """

    batches: Mapping[str, pa.Table]
    table: pa.Table
    features: np.ndarray

    @classmethod
    def of(cls, batches: Mapping[str, pa.Table]) -> "_Held":
        """Put files together."""
        schema = ANNOTATIONS.schema()
        whole = pa.concat_tables([schema.empty_table(), *batches.values()])
        frame = pl.from_arrow(whole)
        assert isinstance(frame, pl.DataFrame)  # noqa: S101 - of a table
        frame = frame.unique("event_id", keep="any").sort("feature", "event_id")
        return cls(batches, _as_table(frame), frame["feature"].to_numpy())

    def lines(self, feature: int) -> pa.Table:
        """Return the events of one feature."""
        start, stop = np.searchsorted(self.features, [feature, feature + 1]).tolist()
        return self.table.slice(start, stop - start)


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
        self._artefact = lake.artefact(Ref("features", manifest.name))
        self._lock = threading.Lock()
        self._held: _Held | None = None

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
        first, tail = self._after(len(lines))
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
            self._write(list(fresh.values()), max(latest, self._after(0)[0]))
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
        return _as_table(last.filter(~pl.col("deleted")).sort("feature", place, "author"))

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
        return fingerprint(self._batches())[:16]

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
            self._put(held.table.sort_by("event_id"), ulid(*self._after(1)))
            for batch in held.batches:
                self._remove(batch)
        return Compacted(
            events=held.table.num_rows,
            files_before=len(held.batches),
            files_after=1 if many else len(held.batches),
            removed=self._sweep(),
        )

    def damage(self, *, quick: bool = False) -> list[str]:
        """Return one line per damaged, missing or foreign file; none when all is well.

        Args:
            quick: Compare sizes only.
        """
        return list(self._damage(quick=quick))

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

    def _batches(self) -> list[str]:
        return layout.annotation_batches(self._artefact.names(layout.ANNOTATIONS))

    def _after(self, n: int) -> tuple[int, int]:
        """Return milliseconds and tail of the first of `n` ULIDs that follow all of the log."""
        latest = max((milliseconds_of(batch) for batch in self._batches()), default=0)
        now = max(time.time_ns() // 1_000_000, latest + 1)
        return now, secrets.randbelow((1 << RANDOM_BITS) - n)

    def _write(self, events: Sequence[AnnotationEvent], milliseconds: int) -> None:
        """Write events as one file, whose name is not smaller than their ids."""
        if not events:
            return
        self._check_there()
        log = layout.ANNOTATION_LOG
        if not self._artefact.exists(log):
            record = LogManifest(
                analysis=self._manifest.name,
                fingerprint=self._manifest.fingerprint,
                created=datetime.now(UTC),
            )
            with suppress(FileExistsError):  # written at the same moment: it says the same
                self._artefact.create(log, record.model_dump_json(indent=1).encode() + b"\n")
        table = table_of(sorted(events, key=lambda event: event.event_id))
        batch = ulid(milliseconds, secrets.randbits(RANDOM_BITS))
        self._put(table, batch)
        try:
            self._check_there()
        except ArtefactNotFoundError:
            self._remove(batch)
            if not self._batches():
                self._artefact.remove(layout.ANNOTATIONS)
            raise

    def _check_there(self) -> None:
        if not self._artefact.exists(layout.MANIFEST):
            raise ArtefactNotFoundError(
                kind="analysis",
                name=self._manifest.name,
                looked=self._artefact.url,
                hint="it was removed meanwhile, and its annotations with it",
            )

    def _put(self, table: pa.Table, batch: str) -> None:
        data = table_file.to_bytes(table)
        self._artefact.create(layout.annotation_file(batch), data)
        record = AnnotationBatch(
            rows=table.num_rows, bytes=len(data), checksum=manifests.checksum_of(data)
        )
        text = record.model_dump_json(indent=1).encode() + b"\n"
        self._artefact.create(layout.annotation_manifest(batch), text)

    def _remove(self, batch: str) -> None:
        # the manifest first: without it, the file is not there for anybody
        self._artefact.remove(layout.annotation_manifest(batch))
        self._artefact.remove(layout.annotation_file(batch))

    def _sweep(self) -> int:
        """Remove what killed writers left long ago; return how many files that were."""
        names = self._artefact.names(layout.ANNOTATIONS)
        finished = set(layout.annotation_batches(names))
        old = datetime.now(UTC) - _ABANDONED
        removed = 0
        for name in names:
            path = f"{layout.ANNOTATIONS}/{name}"
            orphan = name.endswith(".parquet") and name.removesuffix(".parquet") not in finished
            if orphan or name.startswith(TEMPORARY):
                written = self._artefact.modified(path)
                if written is not None and written < old:
                    self._artefact.remove(path)
                    removed += 1
        return removed

    def _read(self) -> _Held:
        """Return the events of all files that are there.

        Raises:
            DamagedArtefactError: A file does not match its manifest.
        """
        with self._lock:
            for _ in range(_ATTEMPTS):
                held = self._held
                names = self._batches()
                if held is not None and list(held.batches) == names:
                    return held
                kept = {} if held is None else held.batches
                try:
                    batches = {name: kept.get(name) or self._load(name) for name in names}
                except FileNotFoundError:
                    continue  # a compaction removed one: its events are in a file that is listed next
                self._held = _Held.of(batches)
                return self._held
        raise DamagedArtefactError(
            name=self._manifest.name,
            damage=(f"{layout.ANNOTATIONS}: files vanish as fast as they are listed",),
            hint="wait for the compactions that are running, and ask again",
        )

    def _load(self, batch: str) -> pa.Table:
        """Return one file's events.

        Raises:
            FileNotFoundError: It was removed.
            DamagedArtefactError: It does not match its manifest.
        """
        found = self._loaded(batch, quick=False)
        if isinstance(found, str):
            if not self._artefact.exists(layout.annotation_manifest(batch)):
                raise FileNotFoundError(batch)
            raise DamagedArtefactError(
                name=self._manifest.name,
                damage=(found,),
                hint="restore this file; or give up what it held: remove it and "
                f"{layout.annotation_manifest(batch)}",
            )
        return found

    def _loaded(self, batch: str, *, quick: bool) -> pa.Table | str:
        """Return one file's events, or what is wrong with it; of `quick` no events.

        Raises:
            FileNotFoundError: It has no manifest.
        """
        about, path = layout.annotation_manifest(batch), layout.annotation_file(batch)
        try:
            record = AnnotationBatch.model_validate_json(self._artefact.read(about))
        except ValidationError as error:
            return f"{about}: is not the manifest of a file of annotations: {_first(error)}"
        size = self._artefact.size(path)
        if size != record.bytes:
            found = "missing" if size is None else f"{size} bytes, expected {record.bytes}"
            return f"{path}: {found}"
        if quick:
            return ANNOTATIONS.schema().empty_table()
        data = self._artefact.read(path)
        checksum = manifests.checksum_of(data)
        if checksum != record.checksum:
            return f"{path}: checksum {checksum}, expected {record.checksum}"
        table = table_file.from_bytes(data)
        if table.num_rows != record.rows:
            return f"{path}: {table.num_rows} events, expected {record.rows}"
        return table

    def _damage(self, *, quick: bool) -> Iterator[str]:
        names = self._artefact.names(layout.ANNOTATIONS)
        batches = layout.annotation_batches(names)
        if batches:
            yield from self._log_damage()
        for batch in batches:
            try:
                found = self._loaded(batch, quick=quick)
            except FileNotFoundError:
                continue  # compacted meanwhile
            if isinstance(found, str) and self._artefact.exists(layout.annotation_manifest(batch)):
                yield found
        ours = {f"{batch}.json" for batch in batches} | {layout.MANIFEST}
        for name in names:
            if (
                name not in ours
                and not name.endswith(".parquet")
                and not name.startswith(TEMPORARY)
            ):
                yield f"{layout.ANNOTATIONS}/{name}: foreign file, not of the log"

    def _log_damage(self) -> Iterator[str]:
        path = layout.ANNOTATION_LOG
        if not self._artefact.exists(path):
            yield f"{path}: missing"
            return
        try:
            record = LogManifest.model_validate_json(self._artefact.read(path))
        except ValidationError as error:
            yield f"{path}: is not the manifest of a log of annotations: {_first(error)}"
            return
        about = (record.analysis, record.fingerprint)
        if about != (self._manifest.name, self._manifest.fingerprint):
            yield (
                f"{path}: is about {record.analysis} with fingerprint {record.fingerprint[:12]}, not "
                f"{self._manifest.name} with {self._manifest.fingerprint[:12]}"
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


def _as_table(frame: pl.DataFrame) -> pa.Table:
    return frame.to_arrow().cast(ANNOTATIONS.schema())


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    return f"{'.'.join(str(step) for step in problem['loc'])}: {problem['msg']}"
