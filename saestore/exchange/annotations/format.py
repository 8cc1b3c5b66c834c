"""What every format of annotations is given and gives: whose features, what is said, what was passed over."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol, runtime_checkable

from pydantic import ValidationError

from saestore.errors import ConfigError
from saestore_schemas.annotations import AnnotationEvent


Fields = Mapping[str, Any]
"""Field of an annotation to its value."""


@dataclass(frozen=True)
class About:
    """Whose features a file is about.

    Attributes:
        series: Series of the dictionary; as the other tool calls it, where that was said.
        dictionary: Its name, likewise.
        hookpoint: The hookpoint that the features read, if there is one.
        file: The file that is read, for errors.
    """

    series: str
    dictionary: str
    hookpoint: str | None = None
    file: str = ""

    def wrong(self, where: str, found: Any, expected: str, hint: str = "") -> ConfigError:
        """Return the error about a place of the file."""
        return ConfigError(
            field=where,
            file=self.file,
            found=found,
            expected=expected,
            hint=hint or "correct the file, or choose another --format",
        )


@dataclass
class Found:
    """What a file says.

    Attributes:
        said: Feature to fields, of formats whose statements have no time of their own.
        events: Events with ids and times.
        notes: What was passed over, and why.
    """

    said: dict[int, dict[str, Any]] = field(default_factory=dict)
    events: list[AnnotationEvent] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@runtime_checkable
class AnnotationFormat(Protocol):
    """Reads and writes annotations as one tool does.

    Attributes:
        name: What the format is called.
        history: Whether it holds every event; else it holds what is said now, each field once.
    """

    name: str
    history: bool

    def read(self, data: bytes, about: About) -> Found:
        """Return what a file says.

        Raises:
            ConfigError: It is not such a file; the place is named.
        """
        ...

    def holds(self, events: Sequence[AnnotationEvent]) -> Sequence[AnnotationEvent]:
        """Return those events that the format has room for.

        Args:
            events: Of a format with history all, in their order; else of each feature and field one.
        """
        ...

    def write(self, events: Sequence[AnnotationEvent], about: About) -> bytes:
        """Return the file.

        Args:
            events: What it `holds`.
            about: Whose features they are about.

        Raises:
            ConfigError: The format has no place for the hookpoint.
        """
        ...


def parsed(data: bytes, about: About, *, where: str = "file") -> Any:
    """Return a JSON document, refusing a key that stands twice in one object.

    Raises:
        ConfigError: It is none.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) < len(items):
            names = [name for name, _ in items]
            twice = next(name for name in names if names.count(name) > 1)
            raise about.wrong(where, twice, "every key once in an object", "leave out one of them")
        return found

    try:
        return json.loads(data, object_pairs_hook=pairs)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise about.wrong(where, str(error), "JSON") from error


def feature_number(text: Any, about: About, where: str) -> int:
    """Return a feature's number, written as digits or as a number.

    Raises:
        ConfigError: It is none.
    """
    if isinstance(text, int) and not isinstance(text, bool) and text >= 0:
        return text
    if isinstance(text, str) and text.isascii() and text.isdigit() and str(int(text)) == text:
        return int(text)
    raise about.wrong(where, text, "the number of a feature")


def event_of(given: Mapping[str, Any], about: About, where: str) -> AnnotationEvent:
    """Return an event, checked.

    Raises:
        ConfigError: Something is missing, unknown or of another type.
    """
    try:
        return AnnotationEvent.model_validate(given)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join([where, *(str(step) for step in problem["loc"])])
        what = problem["msg"].removeprefix("Value error, ")
        raise about.wrong(place, problem["input"], what) from error


def by_feature(events: Iterable[AnnotationEvent]) -> dict[int, dict[str, AnnotationEvent]]:
    """Return what is said of each feature, by field; features ascending."""
    found: dict[int, dict[str, AnnotationEvent]] = {}
    for event in sorted(events, key=lambda each: each.feature):
        found.setdefault(event.feature, {})[event.field] = event
    return found


def moment(value: Any, about: About, where: str) -> datetime:
    """Return a time as JSON says it: ISO 8601, or what mongoexport writes; UTC if it does not say.

    Raises:
        ConfigError: It is none.
    """
    text = value.get("$date") if isinstance(value, dict) else value
    expected = "a time such as 2026-01-31T12:00:00Z"
    if not isinstance(text, str):
        raise about.wrong(where, value, expected)
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise about.wrong(where, value, expected) from error
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
