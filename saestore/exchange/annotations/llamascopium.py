"""llamascopium's bookmarks: tags and notes of features of many dictionaries, with their times.

A list of `{sae_name, sae_series, feature_index, created_at, tags, notes}` as its database has them, alone or
as its server answers (`{"bookmarks": [...]}`), or one object a line as mongoexport writes them.

Source: llamascopium, the record of bookmarks in its MongoDB client.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from saestore.exchange.annotations.format import (
    About,
    Found,
    by_feature,
    event_of,
    feature_number,
    moment,
    parsed,
)
from saestore.features.ulid import RANDOM_BITS, ulid
from saestore.fingerprint import canonical
from saestore_schemas.annotations import AnnotationEvent


_KEYS = {"sae_name", "sae_series", "feature_index", "created_at", "tags", "notes", "_id"}
_NEEDED = ("sae_name", "sae_series", "feature_index", "created_at")
AUTHOR = "llamascopium"
"""Who said it: its bookmarks do not tell."""


class Llamascopium:
    """The bookmarks of one dictionary. A bookmark keeps its time: what was said since stays."""

    name = "llamascopium"
    history = False

    def read(self, data: bytes, about: About) -> Found:
        """Return the bookmarks of this dictionary as events; the same ones whenever they are read.

        Raises:
            ConfigError: It holds no bookmarks.
        """
        found, others = Found(), Counter[str]()
        for where, record in _records(data, about):
            name = f"{record['sae_series']}/{record['sae_name']}"
            if name != f"{about.series}/{about.dictionary}":
                others[name] += 1
                continue
            found.events += _events(record, about, where)
        if others:
            kinds = ", ".join(f"{name} ({n})" for name, n in sorted(others.items()))
            found.notes.append(f"of other dictionaries, passed over: {kinds}")
        return found

    def holds(self, events: Sequence[AnnotationEvent]) -> Sequence[AnnotationEvent]:
        """Return bookmarks, and tags and notes of what is bookmarked."""
        marked = {event.feature for event in events if event.field == "bookmark"}
        fields = {"bookmark", "tag", "notes"}
        return [event for event in events if event.feature in marked and event.field in fields]

    def write(self, events: Sequence[AnnotationEvent], about: About) -> bytes:
        """Return a bookmark of each feature."""
        records = []
        for feature, said in by_feature(events).items():
            tags, notes = said.get("tag"), said.get("notes")
            records.append(
                {
                    "sae_name": about.dictionary,
                    "sae_series": about.series,
                    "feature_index": feature,
                    "created_at": said["bookmark"].created.isoformat().replace("+00:00", "Z"),
                    "tags": [] if tags is None else tags.value,
                    "notes": None if notes is None else notes.value,
                }
            )
        return json.dumps(records, indent=1, ensure_ascii=False).encode() + b"\n"


def _records(data: bytes, about: About) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each bookmark and where it stands.

    Raises:
        ConfigError: It is none.
    """
    lines = [line for line in data.splitlines() if line.strip()]
    if len(lines) > 1 and all(line.lstrip()[:1] == b"{" for line in lines):
        found = [parsed(line, about, where=f"line {n}") for n, line in enumerate(lines, 1)]
    else:
        found = parsed(data, about)
        if isinstance(found, dict):
            found = found.get("bookmarks", [found])
    if not isinstance(found, list):
        raise about.wrong("file", type(found).__name__, "a list of bookmarks")
    for number, record in enumerate(found):
        where = f"[{number}]"
        if not isinstance(record, dict):
            raise about.wrong(where, record, "a bookmark")
        lacking = [key for key in _NEEDED if key not in record]
        unknown = [key for key in record if key not in _KEYS]
        if lacking or unknown:
            expected = f"{', '.join(_NEEDED)}, tags and notes"
            raise about.wrong(where, ", ".join(record), expected)
        yield where, record


def _events(record: dict[str, Any], about: About, where: str) -> Iterator[AnnotationEvent]:
    feature = feature_number(record["feature_index"], about, f"{where}.feature_index")
    created = moment(record["created_at"], about, f"{where}.created_at")
    said = {"bookmark": True, "tag": record.get("tags"), "notes": record.get("notes")}
    for field, value in said.items():
        if value not in (None, []):
            given = {
                "event_id": _event_id(created, [feature, field, value]),
                "feature": feature,
                "field": field,
                "value": value,
                "author": AUTHOR,
                "source": AUTHOR,
                "created": created,
            }
            yield event_of(given, about, where)


def _event_id(created: datetime, said: Any) -> str:
    """Return an id that is the same whenever the same is read: its tail is a digest."""
    digest = hashlib.sha256(canonical(said).encode()).digest()
    return ulid(int(created.timestamp() * 1000), int.from_bytes(digest[: RANDOM_BITS // 8], "big"))
