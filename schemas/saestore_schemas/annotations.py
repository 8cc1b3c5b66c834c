"""What people say about features: one event of the log, its table, and the log's own records.

The log is append-only. An event says one field of one feature anew, or takes it back; what holds now
is the last event of each feature, field and author.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Self, get_args

import pyarrow as pa
from pydantic import (
    AfterValidator,
    AwareDatetime,
    Field,
    JsonValue,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from saestore_schemas.base import Model
from saestore_schemas.columns import FEATURE
from saestore_schemas.table import TABLE_VERSION, Column, Table


AnnotationField = Literal[
    "name",
    "description",
    "interpretation",
    "examples",
    "confidence",
    "notes",
    "tag",
    "bookmark",
]
"""What can be said about a feature."""

FIELDS: tuple[AnnotationField, ...] = get_args(AnnotationField)
"""All fields, in the order in which they are shown."""

MOST_CHARACTERS = 100_000
"""Of one text."""
MOST_ITEMS = 1_000
"""Texts in one list."""


def _plain(text: str) -> str:
    """Return a text of one line, with nothing before or behind it.

    Raises:
        ValueError: It is empty, or has control characters or spaces around it.
    """
    if text != text.strip() or re.search(r"[\x00-\x1f\x7f]", text):
        msg = "it has spaces around it, or control characters"
        raise ValueError(msg)
    return text


def _true(value: bool) -> bool:  # noqa: FBT001
    """Return what must be true.

    Raises:
        ValueError: It is not.
    """
    if not value:
        msg = "it is false: take it back instead"
        raise ValueError(msg)
    return value


def _distinct(texts: list[str]) -> list[str]:
    """Return texts of which none is there twice.

    Raises:
        ValueError: One is.
    """
    if len(set(texts)) < len(texts):
        msg = "a tag is there twice"
        raise ValueError(msg)
    return texts


Text = Annotated[str, StringConstraints(max_length=MOST_CHARACTERS)]
"""A text of any number of lines."""
Line = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_plain)]
"""A text of one line."""
Texts = Annotated[list[Text], Field(max_length=MOST_ITEMS)]
"""Several texts."""

_VALUES: Mapping[AnnotationField, tuple[TypeAdapter[Any], str]] = {
    "name": (TypeAdapter(Text), "a text"),
    "description": (TypeAdapter(Text), "a text"),
    "interpretation": (TypeAdapter(Text), "a text"),
    "examples": (TypeAdapter(Texts), "a list of texts"),
    "confidence": (TypeAdapter(Literal["high", "medium", "low"]), "high, medium or low"),
    "notes": (TypeAdapter(Text), "a text"),
    "tag": (
        TypeAdapter(Annotated[list[Line], AfterValidator(_distinct), Field(max_length=MOST_ITEMS)]),
        "a list of different tags, each of one line, at most 200 characters",
    ),
    "bookmark": (TypeAdapter(Annotated[bool, AfterValidator(_true)]), "true"),
}
"""What each field's value is: its check, and it in words."""


def expected_value(field: AnnotationField) -> str:
    """Return what a field's value must be, in words."""
    return _VALUES[field][1]


def check_value(field: AnnotationField, value: JsonValue) -> None:
    """Refuse a value that its field cannot have.

    Raises:
        ValueError: It has another type, or is too long.
    """
    try:
        _VALUES[field][0].validate_python(value, strict=True)
    except ValidationError as error:
        problem = error.errors()[0]
        where = "".join(f"[{step}]" for step in problem["loc"])
        what = problem["msg"].removeprefix("Value error, ")
        msg = f"{field}{where}: {what}; expected {expected_value(field)}"
        raise ValueError(msg) from error


class AnnotationEvent(Model):
    """Somebody said, or took back, one field of one feature."""

    event_id: str = Field(pattern=r"^[0-7][0-9A-HJKMNP-TV-Z]{25}$")
    """ULID: later events have larger ones."""
    feature: int = Field(ge=0, lt=1 << 32)
    """Feature of the dictionary."""
    field: AnnotationField
    """What is said."""
    value: JsonValue
    """What it is now: a text; of `examples` and `tag` a list of all texts; of `bookmark` true; null where
    it is taken back."""
    author: Line
    """Who says it."""
    source: Line
    """By which way it came, such as `cli`, `server`, or the name of an imported format."""
    created: AwareDatetime
    """When, UTC."""
    deleted: bool = False
    """Whether it takes the field back."""

    @model_validator(mode="after")
    def _value_fits(self) -> Self:
        """Refuse a value of another type than its field's.

        Raises:
            ValueError: It has another type, or something is said and taken back at once.
        """
        if not self.deleted:
            check_value(self.field, self.value)
        elif self.value is not None:
            msg = "an event that takes a field back has no value"
            raise ValueError(msg)
        return self


ANNOTATIONS = Table(
    "annotations",
    "What people said about features, one line per event; a log beside the analysis.",
    ("event_id",),
    (
        Column("event_id", pa.string(), "ULID: later events have larger ones"),
        FEATURE,
        Column("field", pa.string(), f"what is said: {', '.join(f'`{name}`' for name in FIELDS)}"),
        Column("value", pa.string(), "it, as JSON; `null` where it is taken back"),
        Column("author", pa.string(), "who says it"),
        Column("source", pa.string(), "by which way it came, such as `cli` or `server`"),
        Column("created", pa.timestamp("us", tz="UTC"), "when"),
        Column("deleted", pa.bool_(), "it takes the field back"),
    ),
)


class AnnotationLog(Model):
    """`annotations/manifest.json`: which analysis a log is about."""

    format: Literal["saestore-annotations"] = "saestore-annotations"
    """File type."""
    format_version: Literal[1] = 1
    """Major version of the log."""
    analysis: str
    """Name of the analysis, `series/name/analysis`."""
    fingerprint: str
    """Its fingerprint."""
    created: datetime
    """When the first event was written, UTC."""


class AnnotationBatch(Model):
    """`annotations/ULID.json`: the manifest of one file of the log, which exists when this does."""

    format: Literal["saestore-annotation-batch"] = "saestore-annotation-batch"
    """File type."""
    format_version: Literal[1] = 1
    """Major version of the log."""
    table_version: int = TABLE_VERSION
    """Major version of its table."""
    rows: int = Field(ge=1)
    """Events in the file."""
    bytes: int = Field(ge=1)
    """Its size."""
    checksum: str
    """`crc32c:` and eight hexadecimal digits."""
