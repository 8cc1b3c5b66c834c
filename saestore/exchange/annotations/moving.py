"""Annotations of an analysis from a file and to one."""

import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from saestore.errors import ConfigError, FeatureNotFoundError
from saestore.exchange import place
from saestore.exchange.annotations.format import About, AnnotationFormat, Found
from saestore.features import Analysis
from saestore.features.annotations import events_of, latest
from saestore.lake import Storage
from saestore_schemas.annotations import AnnotationEvent


@dataclass(frozen=True)
class AnnotationsExport:
    """Annotations that were written to a file.

    Attributes:
        analysis: The analysis.
        format: As which tool reads them.
        file: Where.
        features: Features of which the file says something.
        events: Events, or of formats without history what is said now.
        left_out: Those that the format has no room for.
        bytes: Size of the file.
    """

    analysis: str
    format: str
    file: Path
    features: int
    events: int
    left_out: int
    bytes: int


@dataclass(frozen=True)
class AnnotationsImport:
    """Annotations that were read from a file.

    Attributes:
        analysis: The analysis.
        format: As which tool wrote them.
        file: Whence.
        features: Features of which something was added.
        added: Events that were added.
        known: Statements that the log had already.
        notes: What was passed over, and why.
    """

    analysis: str
    format: str
    file: Path
    features: int
    added: int
    known: int
    notes: tuple[str, ...]


def export_annotations(
    form: AnnotationFormat,
    analysis: Analysis,
    file: str | os.PathLike[str],
    *,
    author: str | None = None,
    theirs: str | None = None,
) -> AnnotationsExport:
    """Write what people say about features to a file, whole; one that is there is replaced.

    Args:
        form: As which tool reads it. With history it holds every event; else what is said now, of several
            authors what was said last.
        analysis: Whose features.
        file: Where.
        author: Whose words alone; absent, everybody's.
        theirs: `SERIES/NAME` by which the other tool knows the dictionary; absent, its own.

    Raises:
        ConfigError: The format has no place for the hookpoint, or there is no such folder.
        DamagedArtefactError: A file of the log does not match its manifest.
        StorageError: The disk is full or read-only.
    """
    target = Path(file)
    place.existing(str(target.parent), field="file")
    lines = analysis.annotations.events().to_pylist()
    events = sorted(events_of(lines), key=lambda event: event.event_id)
    chosen = [event for event in events if author in {None, event.author}]
    if not form.history:
        chosen = _last_words(chosen)
    written = form.holds(chosen)
    data = form.write(written, _about(analysis, theirs, target))
    Storage.at(target.parent).write(target.name, data)
    return AnnotationsExport(
        analysis=analysis.ref.name,
        format=form.name,
        file=target,
        features=len({event.feature for event in written}),
        events=len(written),
        left_out=len(chosen) - len(written),
        bytes=len(data),
    )


def import_annotations(
    form: AnnotationFormat,
    analysis: Analysis,
    file: str | os.PathLike[str],
    *,
    author: str,
    theirs: str | None = None,
) -> AnnotationsImport:
    """Add what a file says to the log, all of it or nothing; what the log has already is not said again.

    Args:
        form: As which tool wrote it.
        analysis: Whose features.
        file: Whence.
        author: Who says what the file does not tell the author of.
        theirs: `SERIES/NAME` by which the other tool knows the dictionary; absent, its own.

    Raises:
        ConfigError: It is not such a file, or says what cannot be said.
        FeatureNotFoundError: The dictionary has no such feature.
        StorageError: The lake cannot be written.
    """
    source = place.existing(os.fspath(file), field="file")
    if source.is_dir():
        raise ConfigError(field="file", found=str(file), expected="a file, not a folder")
    found = form.read(source.read_bytes(), _about(analysis, theirs, source))
    for feature in {*found.said, *(event.feature for event in found.events)}:
        _check(analysis, feature, source)
    fresh = _news(analysis, found, author)
    log = analysis.annotations
    added = (
        *log.add(found.events),
        *(log.say(fresh, author=author, source=form.name) if fresh else ()),
    )
    total = len(found.events) + sum(len(fields) for fields in found.said.values())
    return AnnotationsImport(
        analysis=analysis.ref.name,
        format=form.name,
        file=source,
        features=len({event.feature for event in added}),
        added=len(added),
        known=total - len(added),
        notes=tuple(found.notes),
    )


def _check(analysis: Analysis, feature: int, source: Path) -> None:
    try:
        analysis.check(feature)
    except FeatureNotFoundError as error:
        error.hint = f"{source} is about another dictionary, or has another format; {error.hint}"
        raise


def _news(analysis: Analysis, found: Found, author: str) -> dict[int, dict[str, JsonValue]]:
    """Return what the author does not say already."""
    current: dict[tuple[int, str], JsonValue] = {
        (event.feature, event.field): event.value
        for event in events_of(analysis.annotations.current().to_pylist())
        if event.author == author
    }
    news = {
        feature: {
            field: value
            for field, value in fields.items()
            if current.get((feature, field)) != value
        }
        for feature, fields in found.said.items()
    }
    return {feature: fields for feature, fields in news.items() if fields}


def _last_words(events: list[AnnotationEvent]) -> list[AnnotationEvent]:
    """Return of each feature and field what is said now; of several authors what was said last."""
    last = {}
    for event in sorted(latest(events), key=lambda each: each.event_id):
        last[event.feature, event.field] = event
    return list(last.values())


def _about(analysis: Analysis, theirs: str | None, file: Path) -> About:
    series, dictionary, _ = analysis.ref.name.split("/")
    if theirs is not None:
        series, found, dictionary = theirs.partition("/")
        if not found or not series or not dictionary:
            raise ConfigError(
                field="--as",
                found=theirs,
                expected="SERIES/NAME as the other tool knows the dictionary",
                hint="for example --as layer-8/sae-32k",
            )
    known = analysis.provenance.hookpoints
    return About(series, dictionary, known[0] if len(known) == 1 else None, str(file))
