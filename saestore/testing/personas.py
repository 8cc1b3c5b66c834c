"""Language models that are asked by prompts of `interpret` and answer them by rule.

They read the prompts as a model would, going by their words, and know the planted rules. Asked for an
explanation all say the rule that fits the examples; asked to judge by one, each answers in its own way.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from saestore.testing.llm import Asked, Persona, Reply
from saestore.testing.rules import Rule
from saestore.testing.shown import spans


Kind = Literal["explain", "detection", "fuzzing", "simulation"]
"""What a prompt asks for."""

_KINDS: Mapping[Kind, str] = {
    "explain": "Your task is to find out what one feature stands for",
    "detection": "in which of the texts does the feature fire on at least one token",
    "fuzzing": "in which of the texts are the right tokens marked",
    "simulation": "how strongly does the feature fire on each of these tokens",
}
_SURE, _UNSURE = 0.95, 0.05
_STRONGEST = 10


@dataclass(frozen=True)
class Word:
    """One word of a text, and whether it is marked."""

    text: str
    marked: bool


@dataclass(frozen=True)
class Prompt:
    """What a persona understands of a prompt.

    Attributes:
        kind: What it asks for.
        binary: Whether yes or no is wanted, not a probability.
        explanation: What it says the feature stands for; empty if it asks for that.
        texts: The numbered texts, word by word.
        tokens: The numbered tokens of a simulation.
    """

    kind: Kind
    binary: bool
    explanation: str
    texts: tuple[tuple[Word, ...], ...]
    tokens: tuple[str, ...]

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> "Prompt":
        """Return what a request's messages say.

        Raises:
            AssertionError: It is no prompt of `interpret`.
        """
        system, user = (message["content"] for message in body["messages"])
        kinds = [kind for kind, words in _KINDS.items() if words in system]
        assert len(kinds) == 1, f"what is asked? {system}"
        said = re.search(r"^Explanation: (.*)$", user, re.MULTILINE)
        texts = re.findall(r"^\[(\d+)\] (.*)$", user, re.MULTILINE)
        tokens = re.findall(r'^(\d+)\t"(.*)"$', user, re.MULTILINE)
        for numbered in (texts, tokens):
            numbers = [int(number) for number, _ in numbered]
            assert numbers == list(range(1, len(numbers) + 1)), "numbers from 1, one after another"
        return cls(
            kinds[0],
            "true" in system,
            said[1] if said else "",
            tuple(_words(line) for _, line in texts),
            tuple("".join(s.text for s in spans(token)).strip() for _, token in tokens),
        )


def oracle(rules: Sequence[Rule]) -> Persona:
    """Return who applies the explanation without a mistake."""
    return _Judge(tuple(rules), lambda truth, _: _SURE if truth else _UNSURE)


def always(answer: bool, rules: Sequence[Rule]) -> Persona:  # noqa: FBT001 - it is the persona
    """Return who says the same of every text."""
    return _Judge(tuple(rules), lambda _truth, _text: 0.9 if answer else 0.1)


def inverted(rules: Sequence[Rule]) -> Persona:
    """Return who says the opposite of what is so, of every text and token."""
    return _Judge(
        tuple(rules),
        lambda truth, _: _UNSURE if truth else _SURE,
        simulate=lambda strengths: [_STRONGEST - each for each in strengths],
    )


def noisy(p: float, rules: Sequence[Rule], *, seed: int = 0) -> Persona:
    """Return who errs on each text with some probability, on the same text always in the same way."""

    def decide(truth: bool, text: str) -> float:  # noqa: FBT001 - the two things that matter
        digest = hashlib.sha256(f"{seed} {text}".encode()).digest()
        errs = np.random.default_rng(list(digest[:8])).random() < p
        return _SURE if truth != errs else _UNSURE

    return _Judge(tuple(rules), decide)


def constant(strength: int, rules: Sequence[Rule]) -> Persona:
    """Return who tells the same strength of every token."""
    judge = _Judge(tuple(rules), lambda truth, _: _SURE if truth else _UNSURE)
    return replace(judge, simulate=lambda strengths: [strength for _ in strengths])


def malformed(rules: Sequence[Rule]) -> Persona:
    """Return who judges in words that say nothing of any text."""
    return _spoilt(rules, lambda _: Reply("Some of these may be right, the others are not."))


def truncated(rules: Sequence[Rule]) -> Persona:
    """Return whose judgements are cut in their middle."""

    def cut(told: Sequence[float | int | bool]) -> Reply:
        text = _by_number(told)
        return Reply(text[: len(text) // 2], finish="length")

    return _spoilt(rules, cut)


def wrong_length(rules: Sequence[Rule], *, more: int = 1) -> Persona:
    """Return who judges in a list that is longer than what was asked, or shorter."""
    return _spoilt(
        rules,
        lambda told: Reply(json.dumps([*told, *[told[0]] * more] if more > 0 else told[:more])),
    )


@dataclass(frozen=True)
class _Judge:
    """Explains by rule and judges by what it is told.

    Attributes:
        rules: The rules that it knows.
        judge: How likely a text is a positive, from the truth and the text.
        simulate: Strengths told, from the true ones.
        write: The reply that tells them.
    """

    rules: tuple[Rule, ...]
    judge: Callable[[bool, str], float]
    simulate: Callable[[list[int]], list[int]] = list
    write: Callable[[Sequence[float | int | bool]], Reply] | None = None

    def __call__(self, asked: Asked) -> Reply:
        if asked.path == "embeddings":
            return Reply(vectors=self._vectors(asked.body["input"]))
        prompt = Prompt.of(asked.body)
        if prompt.kind == "explain":
            return Reply(self._explained(prompt))
        rule = Rule.read(prompt.explanation)
        told: list[float | int | bool]
        if prompt.kind == "simulation":
            told = [
                *self.simulate(rule.applied(prompt.tokens) if rule else [0 for _ in prompt.tokens])
            ]
        else:
            told = [self._judged(prompt, words, rule) for words in prompt.texts]
        if self.write is not None:
            return self.write(told)
        text = _by_number(told)
        return Reply(text, logprobs=_certain(text) if asked.body.get("logprobs") else ())

    def _explained(self, prompt: Prompt) -> str:
        fitting = [rule for rule in self.rules if all(_fits(rule, words) for words in prompt.texts)]
        said = fitting[0].said if fitting else "fires on nothing that I know"
        return json.dumps(
            {"explanation": said, "consistency": 5 if fitting else 1, "complexity": 1}
        )

    def _judged(
        self, prompt: Prompt, words: tuple[Word, ...], rule: Rule | None
    ) -> float | int | bool:
        strengths = rule.applied([word.text for word in words]) if rule else [0 for _ in words]
        if prompt.kind == "detection":
            truth = any(strengths)
        else:
            truth = all(bool(s) for s, word in zip(strengths, words, strict=True) if word.marked)
        likely = self.judge(truth, " ".join(f"{word.text}{word.marked}" for word in words))
        return likely >= 0.5 if prompt.binary else likely

    def _vectors(self, texts: Sequence[str]) -> tuple[tuple[float, ...], ...]:
        """Return one direction of the explanation and what fits it, another of the rest."""
        rule = Rule.read(texts[0])
        fits = [bool(rule and any(rule.applied(_plain(text)))) for text in texts[1:]]
        likely = [self.judge(each, text) for each, text in zip(fits, texts[1:], strict=True)]
        return ((1.0, 0.0), *((each, math.sqrt(1 - each**2)) for each in likely))


def _spoilt(
    rules: Sequence[Rule], write: Callable[[Sequence[float | int | bool]], Reply]
) -> Persona:
    return _Judge(tuple(rules), lambda truth, _: _SURE if truth else _UNSURE, write=write)


def _by_number(told: Sequence[float | int | bool]) -> str:
    return json.dumps({str(place): each for place, each in enumerate(told, 1)})


def _certain(text: str) -> tuple[tuple[str, Mapping[str, float]], ...]:
    """Return the tokens of an answer that could not have been another one."""
    return tuple((token, {token: 0.0}) for token in re.findall(r"\d+|\D", text))


def _words(line: str) -> tuple[Word, ...]:
    return tuple(
        Word(word, span.marked)
        for span in spans(line)
        if not span.control
        for word in _plain(span.text)
    )


def _plain(text: str) -> list[str]:
    return [word for word in text.split() if re.fullmatch(r"w\d+", word)]


def _fits(rule: Rule, words: tuple[Word, ...]) -> bool:
    strengths = rule.applied([word.text for word in words])
    return all(bool(s) == word.marked for s, word in zip(strengths, words, strict=True))
