"""What detection and fuzzing share: numbered texts, and a yes, a no or a probability of each."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

from typing_extensions import override

from saestore.interpret import marks
from saestore.interpret.answers import Value
from saestore.interpret.evidence import Evidence
from saestore.interpret.request import Answer, Asking, Message
from saestore.interpret.scorers import reading, scoring
from saestore.interpret.scorers.base import Item, Question, Score, Scorer, Verdict
from saestore.interpret.wording import wording
from saestore_schemas.interpret import DetectionScorer, FuzzingScorer


_YES = 0.5
"""From this probability on an answer is yes."""


class Judging(Scorer, ABC):
    """Asks about some texts in one request."""

    def __init__(self, settings: DetectionScorer | FuzzingScorer) -> None:
        """Take what both have.

        Args:
            settings: Its settings.
        """
        self._common = settings

    @property
    @override
    def version(self) -> str:
        return f"{self._common.kind}-1"

    @property
    @override
    @final
    def window(self) -> int:
        return self._common.window

    @abstractmethod
    def text(self, item: Item, evidence: Evidence, *, seed: int) -> str:
        """Return an example as one line.

        Args:
            item: The example.
            evidence: What is known of the feature.
            seed: The run's, of what is drawn to be shown.
        """

    @override
    @final
    def questions(
        self, explanation: str, items: Sequence[Item], asking: Asking, evidence: Evidence
    ) -> Sequence[Question]:
        size = self._common.per_request
        some = [tuple(items[start : start + size]) for start in range(0, len(items), size)]
        return [self._question(explanation, each, asking, evidence) for each in some]

    @override
    @final
    def read(self, question: Question, answer: Answer, evidence: Evidence) -> Sequence[Verdict]:
        told = reading.entries(answer, len(question.items))
        return [
            self._verdict(item, value, answer.request)
            for item, value in zip(question.items, told, strict=True)
        ]

    @override
    @final
    def measure(
        self, verdicts: Sequence[Verdict], *, evidence: Evidence, bootstrap: int, seed: int
    ) -> Score:
        return scoring.of_answers(verdicts, bootstrap=bootstrap, seed=seed)

    def _question(
        self, explanation: str, items: tuple[Item, ...], asking: Asking, evidence: Evidence
    ) -> Question:
        binary = self._common.answer == "binary"
        system = wording("feature-1", self.version, "texts-1", f"judge-{self._common.answer}-1")
        lines = [f"Explanation: {marks.escaped(explanation)}", ""]
        lines += [
            f"[{place}] {self.text(item, evidence, seed=asking.seed)}"
            for place, item in enumerate(items, 1)
        ]
        request = asking.chat(
            [Message("system", system), Message("user", "\n".join(lines))],
            purpose=f"{self.version} of feature {evidence.page.feature}",
            form=reading.form(self._common.kind, len(items), "boolean" if binary else "number"),
        )
        return Question(request, items)

    def _verdict(self, item: Item, value: Value, request: str) -> Verdict:
        probability = None
        if self._common.answer == "binary":
            answer = reading.yes_or_no(value)
        else:
            probability = reading.probability(value)
            answer = None if probability is None else probability >= _YES
        if answer is None:
            return Verdict(item, "unparsed", request)
        right = answer == item.label
        return Verdict(item, "right" if right else "wrong", request, answer, probability)
