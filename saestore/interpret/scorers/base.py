"""What a scorer is: it picks places of a feature, asks about them, and counts what was told right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from saestore.interpret.draw import Draw
from saestore.interpret.evidence import Evidence, Pick, Snippet
from saestore.interpret.request import Answer, Asking, Request


Outcome = Literal["right", "wrong", "answered", "unparsed"]
"""What became of the question about one example."""


@dataclass(frozen=True)
class Item:
    """One example that a scorer asks about.

    Attributes:
        place: Among the feature's examples, from 0.
        snippet: What is shown.
        label: Whether it is a positive.
        decile: Decile of strength of a positive, 0 weakest; None of negatives.
        negative_kind: Of a negative, why it is one; else None.
    """

    place: int
    snippet: Snippet
    label: bool
    decile: int | None = None
    negative_kind: str | None = None


@dataclass(frozen=True)
class Question:
    """One request, and about which items it asks, in what order.

    Attributes:
        request: What is sent.
        items: The items.
    """

    request: Request
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Verdict:
    """What was told of one item.

    Attributes:
        item: The item.
        outcome: Right, wrong or unparsed; `answered` where there is no right and wrong.
        answer: What was told; None, it could not be read, or no yes or no was asked for.
        probability: How likely it was told to be a positive; of embeddings the cosine.
        values: Of a simulation, the strength told of each token of the window.
        request: Hash of the request.
    """

    item: Item
    outcome: Outcome
    request: str
    answer: bool | None = None
    probability: float | None = None
    values: tuple[float, ...] = ()


@dataclass(frozen=True)
class Score:
    """How well one explanation holds: the columns of `interpretation_scores` between `n` and `why_null`."""

    columns: Mapping[str, float | int | str | list[float | None] | None]


@runtime_checkable
class Scorer(Protocol):
    """A way of asking how well an explanation holds."""

    @property
    def version(self) -> str:
        """Kind and version of its prompt, such as `detection-1`."""
        ...

    @property
    def window(self) -> int:
        """Tokens shown of each place."""
        ...

    def choose(self, draw: Draw) -> Sequence[Pick]:
        """Return the places to be asked about, all of the part `score`; none where there are none."""
        ...

    def items(self, evidence: Evidence, *, seed: int) -> Sequence[Item]:
        """Return the examples, in the order in which they are asked about.

        Args:
            evidence: The places that were chosen, with their texts.
            seed: Of the order, and of what else is drawn: one of the feature and the run.
        """
        ...

    def questions(
        self, explanation: str, items: Sequence[Item], asking: Asking, evidence: Evidence
    ) -> Sequence[Question]:
        """Return the requests; each item is in one of them, or the whole feature in one alone."""
        ...

    def read(self, question: Question, answer: Answer, evidence: Evidence) -> Sequence[Verdict]:
        """Return what an answer says of each item of its question; unparsed where it says nothing."""
        ...

    def measure(
        self, verdicts: Sequence[Verdict], *, evidence: Evidence, bootstrap: int, seed: int
    ) -> Score:
        """Return the score.

        Args:
            verdicts: One of each item.
            evidence: What was shown.
            bootstrap: Resamplings for the interval; 0, there is none.
            seed: Of the resampling.
        """
        ...
