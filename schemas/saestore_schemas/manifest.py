"""The manifest: an artefact exists when, and only when, its manifest does."""

from datetime import datetime
from typing import Literal

from pydantic import Field, JsonValue

from saestore_schemas.base import Model
from saestore_schemas.names import ArtefactKind


FORMAT_VERSION = 1
"""Major version of the layout on disk; a reader refuses any other."""


class Parent(Model):
    """An artefact this one was made from."""

    kind: ArtefactKind
    """Its kind."""
    name: str
    """Its name in the lake."""
    fingerprint: str
    """Its fingerprint at that time."""


class ArrayInfo(Model):
    """One array or table of the artefact."""

    shape: tuple[int, ...]
    """Lengths of its axes; for tables (rows, columns)."""
    dtype: str
    """Element type as its user sees it, such as `bfloat16`; `table` for tables."""


class Payload(Model):
    """All files of the artefact, listed in a Parquet file beside the manifest."""

    table: Literal["files.parquet"] = "files.parquet"
    """Columns path, bytes, checksum."""
    digest: str
    """`sha256:` digest of that Parquet file."""
    files: int = Field(ge=0)
    """How many files it lists."""
    bytes: int = Field(ge=0)
    """Their total size."""


class Manifest(Model):
    """What an artefact is, where it came from, and which files it must have."""

    format: Literal["saestore"] = "saestore"
    """File type."""
    format_version: int = FORMAT_VERSION
    """Major version of the layout."""
    kind: ArtefactKind
    """What it is."""
    name: str
    """Its name in the lake."""
    fingerprint: str
    """Digest of settings and parents: equal fingerprints mean the same run."""
    settings: dict[str, JsonValue]
    """The settings that produced it, whole."""
    parents: tuple[Parent, ...] = ()
    """What it was made from."""
    versions: dict[str, str] = {}
    """Library versions."""
    created: datetime
    """When the manifest was written, UTC. Not part of any fingerprint."""
    arrays: dict[str, ArrayInfo] = {}
    """Shapes and types of what it holds."""
    counts: dict[str, int] = {}
    """Counts worth knowing without opening it, such as rows or contexts."""
    facts: dict[str, JsonValue] = {}
    """What the run found out: measured metrics, resolved names, rates."""
    payload: Payload
    """Its files."""
    digest: str = ""
    """`sha256:` digest of this file as it is with this field empty; empty, nothing is compared."""
