"""Is this the same run? Canonical JSON, hashed."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel


def canonical(value: Any) -> str:
    """Return JSON with sorted keys, no spaces, and every number as Python writes it.

    Raises:
        ValueError: The value holds NaN or infinity, which JSON cannot say.
    """
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def fingerprint(*values: Any) -> str:
    """Return the SHA-256 of the values' canonical JSON, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(canonical(value).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return one line per dotted path at which two settings differ, in sorted order."""
    left, right = (dict(_leaves(each)) if each else {} for each in (old, new))
    gone = "(absent)"
    return sorted(
        f"{_dotted(path)}: {left.get(path, gone)} → {right.get(path, gone)}"
        for path in left.keys() | right.keys()
        if left.get(path, gone) != right.get(path, gone)
    )


def leaves(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield every setting that is no section, by dotted path, with its value as JSON."""
    yield from ((_dotted(path), value) for path, value in _leaves(settings))


_Path = tuple[str | int, ...]


def _leaves(value: Any, path: _Path = ()) -> Iterator[tuple[_Path, str]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, (*path, str(key)))
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, index))
    else:
        yield path, canonical(value)


def _dotted(path: _Path) -> str:
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return "".join(steps).removeprefix(".")
