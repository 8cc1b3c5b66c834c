"""Drawing places of one feature: contexts for explaining and for scoring, which never meet.

A context belongs to one part by its `shuffle_rank` mod 10: 0 to 5 are for explaining, 6 to 8 for scoring,
9 is kept back, for positives and negatives alike. Every draw is ordered by a hash of seed, feature and
context: the same whatever else is drawn, and in whatever order.
"""

from typing import Literal, Protocol, runtime_checkable

from saestore.features import FeaturePage
from saestore.interpret.evidence import Negative, Pick


Part = Literal["explain", "score", "reserve"]
"""What a context may be used for."""


@runtime_checkable
class Draw(Protocol):
    """The places of one feature."""

    @property
    def page(self) -> FeaturePage:
        """Its page; of its examples, only those of the analysis's subsamples that show what it reads."""
        ...

    def part_of(self, context: int) -> Part:
        """Return what a context may be used for."""
        ...

    def top(self, n: int, part: Part) -> list[Pick]:
        """Return the contexts in which it is strongest, strongest first; ties by context.

        Args:
            n: At most so many.
            part: Of which part.
        """
        ...

    def strata(self, n: int, strata: int, part: Part) -> list[Pick]:
        """Return contexts drawn from strata of its strength, weakest first, each with its stratum.

        Contexts of the part in which it fires, ranked by peak (ties by context), are cut into strata with
        equally many each. Each gives n // strata, the first n % strata of them, strongest first, one more;
        a stratum with fewer gives all.

        Args:
            n: How many.
            strata: How many strata.
            part: Of which part.
        """
        ...

    def silent(self, n: int, part: Part) -> list[Pick]:
        """Return contexts drawn at random in which it never fires, centred anywhere.

        Args:
            n: At most so many.
            part: Of which part.
        """
        ...

    def hard(self, n: int, kind: Negative, part: Part) -> list[Pick]:
        """Return contexts in which it never fires although much speaks for it.

        `near`: a feature like it fires there, at the centre; the nearest first. `same_token`: the token that
        it fires on most often stands there, at the centre; drawn at random.

        Args:
            n: At most so many.
            kind: Which.
            part: Of which part.
        """
        ...

    def negatives(self, n: int, hard: tuple[Negative, ...], part: Part) -> list[Pick]:
        """Return n negatives, half of them hard ones of some kinds, evenly; no context twice.

        Where there are too few hard ones, silent ones stand instead.

        Args:
            n: How many.
            hard: Kinds of hard negatives; none, all are silent.
            part: Of which part.
        """
        ...
