"""What an explainer is: it picks places of a feature, and makes a prompt of them."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from saestore.interpret.draw import Draw
from saestore.interpret.evidence import Evidence, Pick
from saestore.interpret.request import Form, Message


@runtime_checkable
class Explainer(Protocol):
    """A way of asking what a feature stands for.

    Its settings are its own; the same settings, feature and seed make the same prompt, byte for byte.
    """

    @property
    def version(self) -> str:
        """Kind and version of its prompt, such as `quantile-1`: another wording is another version."""
        ...

    @property
    def instructions(self) -> str:
        """What every one of its prompts says, whatever the feature: hashed with the version."""
        ...

    @property
    def window(self) -> int:
        """Tokens shown of each place."""
        ...

    @property
    def form(self) -> Form:
        """In which form the answer is wanted: `answer.read` reads it."""
        ...

    def choose(self, draw: Draw) -> Sequence[Pick]:
        """Return the places to be shown, all of the part `explain`; none where there are none.

        Raises:
            UnsupportedError: The analysis lacks what it shows.
        """
        ...

    def prompt(self, evidence: Evidence) -> Sequence[Message]:
        """Return what is said to the model."""
        ...
