"""How strongly does the feature fire on each token? The finest question, and the dearest.

One request for each text, and in it one entry for each token by its number, so that no answer can slip to
another token. Told strengths are correlated with true ones over all tokens shown. `expected` takes the mean
over what could have stood in each number's place, weighted by probability: finer than a whole number, and
it needs log-probabilities.

Source: Bills et al. 2023, Language models can explain neurons in language models. Theirs rescales by a
linear fit, which changes no correlation.
"""

import math
import re
from collections.abc import Sequence
from typing import final

from typing_extensions import override

from saestore.errors import UnsupportedError
from saestore.interpret import marks
from saestore.interpret.answers import Value, number
from saestore.interpret.draw import Draw
from saestore.interpret.evidence import Evidence, Pick
from saestore.interpret.request import Answer, Asking, Choice, Message
from saestore.interpret.scorers import reading, scoring
from saestore.interpret.scorers.base import Item, Question, Score, Scorer, Verdict
from saestore.interpret.scorers.examples import against_silent, labelled, shuffled
from saestore.interpret.wording import wording
from saestore_schemas.interpret import SimulationScorer


_LIKELIEST = 20
"""Tokens asked for at each place of an answer: all eleven numbers, and endpoints tell no more."""
_DIGITS = re.compile(r"\D*(\d{1,2})\D*")
_ENTRY = re.compile(r"[\"']?(\d{1,6})[\"']?\s*[:\t]\s*[\"']?(\d{1,2})(?![\d.])")


@final
class Simulation(Scorer):
    """Asks for a strength of each token."""

    def __init__(self, settings: SimulationScorer) -> None:
        """Take its settings."""
        self._settings = settings

    @property
    @override
    def version(self) -> str:
        return "simulation-1"

    @property
    @override
    def window(self) -> int:
        return self._settings.window

    @override
    def choose(self, draw: Draw) -> Sequence[Pick]:
        return against_silent(self._settings, draw)

    @override
    def items(self, evidence: Evidence, *, seed: int) -> Sequence[Item]:
        return shuffled(labelled(evidence), seed)

    @override
    def questions(
        self, explanation: str, items: Sequence[Item], asking: Asking, evidence: Evidence
    ) -> Sequence[Question]:
        system = wording("feature-1", self.version, "texts-1")
        found = []
        for item in items:
            tokens = item.snippet.example.tokens
            lines = [
                f"Explanation: {marks.escaped(explanation)}",
                "",
                f"Text: {marks.line(tokens)}",
            ]
            lines += ["", *(f"{n}\t{word}" for n, word in enumerate(marks.words(tokens), 1))]
            request = asking.chat(
                [Message("system", system), Message("user", "\n".join(lines))],
                purpose=f"{self.version} of feature {evidence.page.feature}",
                form=reading.form("simulation", len(tokens), "integer"),
                logprobs=_LIKELIEST if self._settings.values == "expected" else 0,
            )
            found.append(Question(request, (item,)))
        return found

    @override
    def read(self, question: Question, answer: Answer, evidence: Evidence) -> Sequence[Verdict]:
        (item,) = question.items
        tokens = item.snippet.example.tokens
        told = [_strength(value) for value in reading.entries(answer, len(tokens))]
        values = tuple(each for each in told if each is not None)
        if len(values) == len(tokens) and self._settings.values == "expected":
            values = _expected(answer, values)
        if len(values) != len(tokens):
            return [Verdict(item, "unparsed", answer.request)]
        return [Verdict(item, "answered", answer.request, values=values)]

    @override
    def measure(
        self, verdicts: Sequence[Verdict], *, evidence: Evidence, bootstrap: int, seed: int
    ) -> Score:
        return scoring.of_strengths(verdicts, bootstrap=bootstrap, seed=seed)


def _strength(value: Value) -> float | None:
    told = number(value)
    return told if told is not None and 0 <= told <= marks.STRONGEST else None


def _expected(answer: Answer, said: tuple[float, ...]) -> tuple[float, ...]:
    """Return the mean of each number over what could have stood there; none where that cannot be told.

    Raises:
        UnsupportedError: The endpoint tells no log-probabilities.
    """
    if not any(choice.others for choice in answer.choices):
        raise UnsupportedError(
            "the scorer simulation asks for log-probabilities, and the endpoint tells none",
            found="an answer without logprobs",
            expected="an endpoint that answers `logprobs` and `top_logprobs`",
            hint='set values = "numeric" for this scorer',
        )
    text = "".join(choice.text for choice in answer.choices)
    last = {int(found[1]): found for found in _ENTRY.finditer(text)}
    means = []
    for place, value in enumerate(said, 1):
        found = last.get(place)
        if found is None or float(found[2]) != value:
            return ()
        means.append(_mean(_at(answer.choices, found.start(2)), value))
    return tuple(means)


def _at(choices: Sequence[Choice], place: int) -> Choice:
    """Return the token that holds a character of the answer."""
    end = 0
    for choice in choices:
        end += len(choice.text)
        if end > place:
            return choice
    raise IndexError(place)


def _mean(choice: Choice, said: float) -> float:
    """Return the mean of the numbers that could have stood where one was said.

    A token that begins the number said stands for that number: of 10 it may be 1 alone.
    """
    weights: dict[float, float] = {}
    for text, logprob in {choice.text: choice.logprob, **dict(choice.others)}.items():
        found = _DIGITS.fullmatch(text)
        value = said if text == choice.text else float(found[1]) if found else None
        if value is not None and value <= marks.STRONGEST:
            weights[value] = weights.get(value, 0.0) + math.exp(logprob)
    total = sum(weights.values())
    return sum(value * weight for value, weight in weights.items()) / total if total else said
