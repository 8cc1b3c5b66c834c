"""Parts: what several processes make of one artefact side by side, until they are merged.

    <artefact>/.progress/parts/{index}-of-{count}/

A part is made like an artefact: it has a lock, progress, and a manifest when it is finished. The
artefact itself stays unfinished until its parts are merged; then they go with the rest of its
progress. How many parts there are is a fact of the machines, never of the settings.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from typing_extensions import override

from saestore.errors import ConfigError
from saestore.lake import layout
from saestore.lake.storage import Storage


_FOLDER = re.compile(r"(\d+)-of-(\d+)")
_FIELD = "--shard"


@dataclass(frozen=True, order=True)
class Part:
    """One of several parts.

    Attributes:
        index: Which, from 0.
        count: How many there are.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        """Refuse a part that cannot be.

        Raises:
            ConfigError: The index is not among the parts.
        """
        if not 0 <= self.index < self.count:
            raise ConfigError(
                field=_FIELD,
                found=f"{self.index}/{self.count}",
                expected="I/N with I from 0 to N - 1",
                hint=f"the parts of {self.count} are 0/{self.count} to {self.count - 1}/{self.count}"
                if self.count > 0
                else "the only part of one is 0/1",
            )

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Return the part that `I/N` means.

        Raises:
            ConfigError: It is not of that form.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if found is None:
            raise ConfigError(
                field=_FIELD,
                found=text,
                expected="I/N, such as 0/2 and 1/2",
                hint="I counts from 0; start one process for each part",
            )
        return cls(int(found[1]), int(found[2]))

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> "Part | None":
        """Return the part of a process that torchrun started among others; None without others."""
        rank, size = environment.get("RANK", ""), environment.get("WORLD_SIZE", "")
        if not (rank.isdigit() and size.isdigit()) or int(size) <= 1:
            return None
        return cls(int(rank), int(size))

    def has(self, block: int) -> bool:
        """Return whether a block of documents belongs to it."""
        return block % self.count == self.index

    @property
    def folder(self) -> str:
        """Its folder, relative to the artefact."""
        return f"{layout.PARTS}/{self.index}-of-{self.count}"

    @override
    def __str__(self) -> str:
        """Return it as the command line spells it."""
        return f"{self.index}/{self.count}"


@dataclass(frozen=True)
class State:
    """How far a part is.

    Attributes:
        part: Which.
        begun: There is a folder of it.
        rows: Its rows; None while it is not finished.
        shards: Shards it has finished, or what else it is made in.
        unit: What these are called.
    """

    part: Part
    begun: bool
    rows: int | None
    shards: int
    unit: str = "shards"

    @property
    def finished(self) -> bool:
        """Whether it has a manifest."""
        return self.rows is not None

    @override
    def __str__(self) -> str:
        """Return part and state in words."""
        if self.finished:
            return f"{self.part} finished ({self.rows:,} rows)"
        if self.begun:
            return f"{self.part} unfinished ({self.shards:,} whole {self.unit})"
        return f"{self.part} not begun"


def begun(artefact: Storage) -> list[Part]:
    """Return the parts of which there is a folder, in order."""
    matches = (_FOLDER.fullmatch(name) for name in artefact.names(layout.PARTS))
    return sorted(Part(int(found[1]), int(found[2])) for found in matches if found)


def states(artefact: Storage) -> list[State]:
    """Return how far all parts are, those not begun included; none if it is not made in parts."""
    there = begun(artefact)
    if not there:
        return []
    every = [Part(index, there[0].count) for index in range(there[0].count)]
    return [_state(artefact, part) for part in every]


def _state(artefact: Storage, part: Part) -> State:
    folder = artefact.child(part.folder)
    if folder.exists(layout.MANIFEST):
        counts = json.loads(folder.read(layout.MANIFEST)).get("counts", {})
        return State(part, begun=True, rows=counts.get("rows", 0), shards=counts.get("shards", 0))
    shards = folder.count(layout.commit_file)
    return State(part, begun=folder.exists(), rows=None, shards=shards)


def described(found: list[State]) -> str:
    """Return in words how far the parts are."""
    return f"made in {len(found)} parts: {', '.join(str(state) for state in found)}"


def commands(found: list[State], ref: layout.Ref) -> list[str]:
    """Return the commands that finish an artefact made in parts, in order."""
    verb, last = "generate", f"saestore merge {ref.name}"
    if ref.kind == "features":
        verb, last = "analyze", "saestore analyze CONFIG.toml"
    missing = [state.part for state in found if not state.finished]
    return [*(f"saestore {verb} CONFIG.toml --shard {part}" for part in missing), last]


def continuation(found: list[State], ref: layout.Ref) -> str:
    """Return the same in one line."""
    return ", then ".join(commands(found, ref))
