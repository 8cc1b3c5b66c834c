"""What all explainers share: a prompt from files, and how examples are shown in it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, final

from typing_extensions import override

from saestore.interpret import marks
from saestore.interpret.evidence import Evidence, Snippet
from saestore.interpret.explainers import answer
from saestore.interpret.explainers.base import Explainer
from saestore.interpret.request import Form, Message
from saestore.interpret.wording import wording
from saestore_schemas.interpret import Explainer as ExplainerSettings


class Prompted(Explainer, ABC):
    """An explainer whose instructions are `feature`, its own, `texts`, `marks` and `answer`."""

    number: ClassVar[int] = 1
    """Version of its prompt: one more with every other wording."""

    def __init__(self, settings: ExplainerSettings) -> None:
        """Take what every explainer has.

        Args:
            settings: Its settings.
        """
        self._common = settings

    @property
    @override
    def version(self) -> str:
        return f"{self._common.kind}-{self.number}"

    @property
    @override
    @final
    def instructions(self) -> str:
        last = "answer-reasoning-1" if self._common.reasoning else "answer-1"
        return wording("feature-1", self.version, "texts-1", "marks-1", last)

    @property
    @override
    @final
    def window(self) -> int:
        return self._common.window

    @property
    @override
    @final
    def form(self) -> Form:
        return answer.form(reasoning=self._common.reasoning)

    @override
    @final
    def prompt(self, evidence: Evidence) -> Sequence[Message]:
        return [
            Message("system", self.instructions),
            Message("user", "\n".join(self.lines(evidence))),
        ]

    @abstractmethod
    def lines(self, evidence: Evidence) -> Sequence[str]:
        """Return the lines that show the feature."""

    def numbered(self, heading: str, evidence: Evidence) -> list[str]:
        """Return a heading and all examples in which the feature fires.

        Args:
            heading: What they are.
            evidence: The examples.
        """
        found = [heading, ""]
        fires = [snippet for snippet in evidence.snippets if snippet.pick.negative is None]
        for number, snippet in enumerate(fires, 1):
            found += self.shown(number, snippet, evidence.maximum)
        return found

    def shown(self, number: int, snippet: Snippet, maximum: float) -> list[str]:
        """Return the two lines of an example in which the feature fires.

        Args:
            number: Of the example, from 1.
            snippet: The example.
            maximum: The feature's largest strength anywhere.
        """
        tokens = snippet.example.tokens
        marked = marks.firing(tokens, maximum=maximum, above=self._common.highlight_above)
        return [
            f"[{number}] {marks.line(tokens, marked)}",
            f"    {marks.strengths(tokens, marked, maximum)}",
        ]
