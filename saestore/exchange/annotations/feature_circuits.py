"""feature-circuits' annotations: one JSON object a line, each of a feature of a submodule.

`{"Component": "resid", "Layer": "5", "Feature": "3036", "Name": "resid_5/3036", "Annotation": ..., "Notes": ...}`;
the embedding has no layer. Its file of gemma-2-2b leaves out what is empty and writes `notes`.

Source: github.com/saprmarks/feature-circuits, `annotations/`.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from saestore.exchange.annotations.format import About, Found, by_feature, feature_number, parsed
from saestore_schemas.annotations import AnnotationEvent


_HOOKPOINTS = (
    ("resid", re.compile(r"blocks\.(\d+)\.hook_resid_post")),
    ("attn", re.compile(r"blocks\.(\d+)\.hook_attn_out")),
    ("mlp", re.compile(r"blocks\.(\d+)\.hook_mlp_out")),
    ("embed", re.compile(r"hook_embed()")),
)
_KEYS = ("Component", "Layer", "Feature", "Name", "Annotation", "Notes")


class FeatureCircuits:
    """Lines of one submodule, those of the analysis's hookpoint; a description and notes of each feature."""

    name = "feature-circuits"
    history = False

    def read(self, data: bytes, about: About) -> Found:
        """Return what its lines of this submodule say; of a feature that stands twice, the last one's.

        Raises:
            ConfigError: A line is no annotation, or the hookpoint is of no submodule that it has.
        """
        ours = submodule(about)
        found, others, lines = Found(), Counter[str](), Counter[int]()
        for number, text in enumerate(data.splitlines(), 1):
            if not text.strip():
                continue
            where = f"line {number}"
            line = self._line(parsed(text, about, where=where), about, where)
            theirs = (line["Component"], line["Layer"])
            if theirs == ("Component", ""):
                continue  # its files have a header among the lines
            if theirs != ours:
                others["_".join(filter(None, theirs))] += 1
                continue
            feature = feature_number(line["Feature"], about, f"{where}.Feature")
            lines[feature] += 1
            said = {"description": line["Annotation"], "notes": line["Notes"]}
            found.said[feature] = {field: value for field, value in said.items() if value}
        if others:
            kinds = ", ".join(f"{name} ({n})" for name, n in sorted(others.items()))
            found.notes.append(f"of other submodules, passed over: {kinds}")
        for feature, n in lines.items():
            if n > 1:
                found.notes.append(f"feature {feature} is there {n} times: the last one counts")
        return found

    def _line(self, line: Any, about: About, where: str) -> dict[str, str]:
        if not isinstance(line, dict):
            raise about.wrong(where, line, f"an object with {', '.join(_KEYS)}")
        if "notes" in line and "Notes" not in line:
            line = {("Notes" if key == "notes" else key): value for key, value in line.items()}
        unknown = [key for key in line if key not in _KEYS]
        if unknown:
            raise about.wrong(f"{where}.{unknown[0]}", unknown[0], f"one of {', '.join(_KEYS)}")
        for key in ("Component", "Feature"):
            if key not in line:
                raise about.wrong(f"{where}.{key}", None, f"an object with {', '.join(_KEYS)}")
        for key, value in line.items():
            if not isinstance(value, str):
                raise about.wrong(f"{where}.{key}", value, "a text")
        return {key: line.get(key, "") for key in _KEYS}

    def holds(self, events: Sequence[AnnotationEvent]) -> Sequence[AnnotationEvent]:
        """Return notes, and of each feature the description, or where it has none the interpretation."""
        described = {event.feature for event in events if event.field == "description"}
        return [
            event
            for event in events
            if event.field in {"description", "notes"}
            or (event.field == "interpretation" and event.feature not in described)
        ]

    def write(self, events: Sequence[AnnotationEvent], about: About) -> bytes:
        """Return a line for each feature.

        Raises:
            ConfigError: The hookpoint is of no submodule that it has.
        """
        component, layer = submodule(about)
        module = "_".join(filter(None, (component, layer)))
        lines = []
        for feature, said in by_feature(events).items():
            text = said.get("description") or said.get("interpretation")
            notes = said.get("notes")
            line = {
                "Component": component,
                "Layer": layer,
                "Feature": str(feature),
                "Name": f"{module}/{feature}",
                "Annotation": "" if text is None else text.value,
                "Notes": "" if notes is None else notes.value,
            }
            lines.append(json.dumps(line) + "\n")
        return "".join(lines).encode()


def submodule(about: About) -> tuple[str, str]:
    """Return component and layer of the hookpoint that the features read.

    Raises:
        ConfigError: It is none of those that feature-circuits has.
    """
    for component, pattern in _HOOKPOINTS:
        matched = pattern.fullmatch(about.hookpoint or "")
        if matched is not None:
            return component, matched[1]
    raise about.wrong(
        "hookpoint",
        about.hookpoint,
        "hook_embed, or a block's hook_resid_post, hook_attn_out or hook_mlp_out: it has no others",
        "use --format json or mlxterp for features of other hookpoints",
    )
