"""mlxterp's feature registry: one JSON object, feature to name, description, examples, confidence and notes.

Source: mlxterp, docs/guides/sae_feature_analysis.md, "Document Findings".
"""

import json
from collections.abc import Sequence

from saestore.errors import nearest
from saestore.exchange.annotations.format import (
    About,
    Found,
    by_feature,
    feature_number,
    parsed,
)
from saestore_schemas.annotations import AnnotationEvent, AnnotationField, check_value


FIELDS: tuple[AnnotationField, ...] = ("name", "description", "examples", "confidence", "notes")


class Mlxterp:
    """The registry. What is read is written the same again, after canonical JSON byte for byte."""

    name = "mlxterp"
    history = False

    def read(self, data: bytes, about: About) -> Found:
        """Return what it says.

        Raises:
            ConfigError: It is no registry, or an entry has other fields or is empty.
        """
        registry = parsed(data, about)
        if not isinstance(registry, dict):
            raise about.wrong("file", type(registry).__name__, "an object, feature to fields")
        found = Found()
        for key, entry in registry.items():
            feature = feature_number(key, about, f"key {key!r}")
            if not isinstance(entry, dict) or not entry:
                raise about.wrong(key, entry, f"an object with some of {', '.join(FIELDS)}")
            for field, value in entry.items():
                self._check(field, value, about, key)
            found.said[feature] = entry
        return found

    def _check(self, field: str, value: object, about: About, key: str) -> None:
        known = next((each for each in FIELDS if each == field), None)
        if known is None:
            close = nearest(field, FIELDS)
            hint = f"did you mean {close[0]}?" if close else ""
            raise about.wrong(f"{key}.{field}", field, f"one of {', '.join(FIELDS)}", hint)
        try:
            check_value(known, value)  # type: ignore[arg-type]
        except ValueError as error:
            raise about.wrong(key, value, str(error)) from error

    def holds(self, events: Sequence[AnnotationEvent]) -> Sequence[AnnotationEvent]:
        """Return those of the five fields."""
        return [event for event in events if event.field in FIELDS]

    def write(self, events: Sequence[AnnotationEvent], about: About) -> bytes:
        """Return the registry, features ascending, written as mlxterp's guide writes it."""
        del about
        registry = {
            feature: {field: said[field].value for field in FIELDS if field in said}
            for feature, said in by_feature(events).items()
        }
        return json.dumps(registry, indent=2).encode()
