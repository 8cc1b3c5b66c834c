"""Where a stream stands: one number for all processes that share its sequence of batches."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from typing import ClassVar

from saestore.errors import ConfigError


State = Mapping[str, int | str | list[int] | None]
"""What a stream saves: its position, and what its sequence depends on."""
Saved = dict[str, int | str | list[int] | None]
"""The same, as it is made."""


@dataclass(frozen=True)
class Rank:
    """One process of several that share a sequence: it gets the batches rank, rank + world, ….

    Attributes:
        rank: Which process, from 0.
        world: How many there are.
    """

    rank: int
    world: int

    def __post_init__(self) -> None:
        """Refuse a process that does not exist.

        Raises:
            ConfigError: It is not one of the world's.
        """
        if not 0 <= self.rank < self.world:
            expected = f"0 to {self.world - 1} of {self.world}"
            raise ConfigError(field="rank", found=self.rank, expected=expected)

    def next(self, position: int) -> int:
        """Return its next batch when all together have delivered so many."""
        return position + (self.rank - position) % self.world

    def after(self, batch: int) -> int:
        """Return the position after a batch of its, the turn of all others included."""
        return batch - self.rank + self.world

    def lanes(self, lanes: int) -> list[int]:
        """Return the lanes in which it has batches, if batches are dealt to so many."""
        step = gcd(self.world, lanes)
        return list(range(self.rank % step, lanes, step))

    def first_in(self, lane: int, lanes: int, batch: int) -> int:
        """Return its first batch in one of its lanes, from a batch of its on."""
        while batch % lanes != lane:
            batch += self.world
        return batch


class Positioned(ABC):
    """A stream of batches with a position, which processes that share it count alike.

    Attributes:
        position: Batches of the sequence that all processes together have delivered.
    """

    section: ClassVar[str] = "activations"
    """Of which settings what it depends on is, for errors."""

    def __init__(self, rank: int, world: int) -> None:
        """Stand at the start.

        Args:
            rank: Which of the processes this one is: it gets the batches rank, rank + world, ….
            world: How many processes share the sequence.

        Raises:
            ConfigError: There is no such process.
        """
        self._rank = Rank(rank, world)
        self.position = 0

    @property
    @abstractmethod
    def _total(self) -> int | None:
        """Batches of the whole sequence; None without an end."""

    @abstractmethod
    def _sequence(self) -> Saved:
        """Return what the sequence depends on."""

    def _plans(self) -> Saved:
        """Return what a stream that resumes takes over, whatever it had planned itself."""
        return {}

    def _resumed(self, saved: State) -> None:
        """Take such plans over, and drop what was read ahead."""
        del saved

    def state_dict(self) -> Saved:
        """Return the position, and what the sequence depends on."""
        return {"position": self.position, **self._sequence(), **self._plans()}

    def load_state_dict(self, state: State) -> None:
        """Go to a saved position.

        Raises:
            ConfigError: It was saved by a stream of another sequence.
        """
        sequence = self._sequence()
        same_sequence(sequence, state, tuple(sequence), section=self.section)
        position = number(state, "position")
        self._resumed(state)
        self.position = position

    def _due(self) -> int:
        """Return this process's next batch.

        Raises:
            StopIteration: The sequence is over.
        """
        batch = self._rank.next(self.position)
        if self._total is not None and batch >= self._total:
            raise StopIteration
        return batch


def same_sequence(mine: State, saved: State, names: Sequence[str], *, section: str) -> None:
    """Return if a saved position is one of this sequence.

    Args:
        mine: What the stream would save.
        saved: What was saved.
        names: What must be equal.
        section: Of which settings, for the error.

    Raises:
        ConfigError: It was saved by a stream of another sequence.
    """
    hint = "resume with the settings and the stores the run was started with"
    for name in names:
        field = f"{section}.{name}"
        if name not in saved:
            expected = "what a stream of this kind saved"
            problem = "the saved position does not know it"
            raise ConfigError(field=field, problem=problem, expected=expected, hint=hint)
        if saved[name] != mine[name]:
            expected = f"{saved[name]}, as when the position was saved"
            raise ConfigError(field=field, found=mine[name], expected=expected, hint=hint)


def number(saved: State, name: str) -> int:
    """Return a number that was saved.

    Raises:
        ConfigError: It was not.
    """
    found = saved.get(name)
    if not isinstance(found, int):
        raise ConfigError(field=name, found=found, expected="a whole number, as a stream saves it")
    return found
