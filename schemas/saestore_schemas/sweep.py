"""Settings of a sweep: several dictionaries that differ in some settings, trained in one pass."""

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from itertools import product
from typing import Any, Self

from pydantic import JsonValue, model_validator

from saestore_schemas.base import Model
from saestore_schemas.names import ArtefactName


class SweepItem(Model):
    """One dictionary that differs from the settings around it."""

    name: ArtefactName
    """Its name within the series."""
    change: dict[str, JsonValue] = {}
    """Dotted setting to value, such as `"dictionary.activation.k" = 64`; a whole section is replaced
    by a table."""


class SweepSettings(Model):
    """Dictionaries trained together: each has the settings around this section, and changes.

    Each is an artefact of its own, the same as if it had been trained alone.
    """

    name: ArtefactName
    """Name of the sweep in the lake: its table of results."""
    grid: dict[str, list[JsonValue]] = {}
    """Dotted setting to values; every combination is a dictionary, named after what differs."""
    items: tuple[SweepItem, ...] = ()
    """Further dictionaries, one by one."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.grid and not self.items:
            msg = "give grid, or items, or both"
            raise ValueError(msg)
        empty = [name for name, values in self.grid.items() if not values]
        if empty:
            msg = f"grid.{empty[0]} has no value"
            raise ValueError(msg)
        return self

    def changes(self, base: str) -> Iterator[tuple[str, dict[str, JsonValue]]]:
        """Yield each dictionary's name and what is changed for it.

        Args:
            base: Name that those of the grid begin with.
        """
        if self.grid:
            for values in product(*self.grid.values()):
                chosen = dict(zip(self.grid, values, strict=True))
                parts = [f"{path.rsplit('.', 1)[-1]}{_word(x)}" for path, x in chosen.items()]
                yield "-".join([base, *parts]), chosen
        for item in self.items:
            yield item.name, dict(item.change)


def changed(settings: Mapping[str, Any], changes: Mapping[str, JsonValue]) -> dict[str, Any]:
    """Return settings with some of them changed.

    Args:
        settings: As plain values.
        changes: Dotted name to value.
    """
    result = deepcopy(dict(settings))
    for path, value in changes.items():
        *sections, last = path.split(".")
        here = result
        for section in sections:
            below = here.get(section)
            here[section] = here = below if isinstance(below, dict) else {}
        here[last] = value
    return result


def _word(value: JsonValue) -> str:
    """Return a value as part of a name."""
    if isinstance(value, float):
        value = f"{value:g}".replace("e+", "e")  # 1e+30 would be called as 1e-30 is
    if isinstance(value, dict):
        value = "-".join(_word(each) for each in value.values())
    return re.sub(r"[^A-Za-z0-9._]+", "-", str(value)).strip("-") or "x"
