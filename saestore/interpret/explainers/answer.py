"""What a model is to answer about a feature, and reading what it did answer."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

from saestore.interpret.answers import Object, Value, number, said, values
from saestore.interpret.request import Answer, Form


Outcome = Literal["answered", "unparsed", "truncated", "refused"]
"""What became of the question for an explanation."""

_RATINGS = ("consistency", "complexity")
_LINE = re.compile(
    r"^[\s*_#>\[(-]*explanation[\])*_]*\s*[:=\uFF1A]\W*?(\w.*)$", re.IGNORECASE | re.MULTILINE
)
_RATED = r"^[\s*_#>\[(-]*{}[\])*_]*\s*[:=\uFF1A]\W*?([1-5])\b(?!\.\d)"
_REFUSED = {"refusal", "content_filter"}


@dataclass(frozen=True)
class Explanation:
    """What was answered about a feature.

    Attributes:
        outcome: What became of the question.
        text: The explanation; None where there is none.
        consistency: To how many examples it applies, 1 few to 5 all; None where that is not said.
        complexity: How complex it is, 1 a token to 5 several ideas; None likewise.
        reasoning: What the model thought aloud in its answer; None where it did not.
    """

    outcome: Outcome
    text: str | None = None
    consistency: int | None = None
    complexity: int | None = None
    reasoning: str | None = None


def form(*, reasoning: bool) -> Form:
    """Return the form of an explanation, with what the model thinks aloud before it if that is wanted."""
    properties: dict[str, JsonValue] = {}
    if reasoning:
        properties["reasoning"] = {"type": "string"}
    properties["explanation"] = {"type": "string"}
    for rating in _RATINGS:
        properties[rating] = {"type": "integer", "enum": [1, 2, 3, 4, 5]}
    return Form("explanation", _closed(properties))


def read(answer: Answer) -> Explanation:
    """Return what an answer says: JSON by `form`, nearly so, or lines such as `Explanation: …`."""
    text = said(answer.text)
    for found in _objects(list(values(text))):
        explanation = _worded(found.get("explanation"))
        if explanation is not None:
            consistency, complexity = (_rating(found.get(name)) for name in _RATINGS)
            reasoning = _worded(found.get("reasoning"))
            return Explanation("answered", explanation, consistency, complexity, reasoning)
    if answer.finish in _REFUSED:
        return Explanation("refused")
    if answer.finish == "length":
        return Explanation("truncated")
    line = _LINE.search(text)
    if line is None:
        return Explanation("unparsed")
    consistency, complexity = (
        int(rated[1]) if (rated := _rated(name, text)) else None for name in _RATINGS
    )
    return Explanation("answered", line[1].strip(), consistency, complexity)


def _closed(properties: dict[str, JsonValue]) -> dict[str, JsonValue]:
    return {
        "type": "object",
        "properties": properties,
        "required": [*properties],
        "additionalProperties": False,
    }


def _objects(found: list[Value]) -> Iterator[Object]:
    """Yield objects, and those inside of them and of lists."""
    for each in found:
        if isinstance(each, Object):
            yield each
            yield from _objects([value for _, value in each.pairs])
        elif isinstance(each, list):
            yield from _objects(each)


def _worded(value: Value) -> str | None:
    """Return a text that has letters or digits in it."""
    if not isinstance(value, str) or not any(char.isalnum() for char in value):
        return None
    return value.strip()


def _rating(value: Value) -> int | None:
    """Return a whole number from 1 to 5; another one is no rating."""
    rating = number(value)
    return int(rating) if rating in {1.0, 2.0, 3.0, 4.0, 5.0} else None


def _rated(name: str, text: str) -> re.Match[str] | None:
    return re.search(_RATED.format(name), text, re.IGNORECASE | re.MULTILINE)
