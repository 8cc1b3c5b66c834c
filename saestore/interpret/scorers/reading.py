"""Reading answers about numbered texts: an entry of each number, and nothing where there is doubt."""

import re
from collections.abc import Iterator, Sequence

from saestore.interpret.answers import Object, Value, number, said, values
from saestore.interpret.request import Answer, Form


_KEY = re.compile(
    r"[\W_]*(?:text|token|example|item|answer|no|nr)?[\W_]*(\d{1,6})[\W_]*", re.IGNORECASE
)
_LINE = re.compile(
    r"\W*?(?:text\s*|token\s*)?[\[(#]*(\d{1,6})(?:\s*[\])]?\s*[:=]|[\])]|\.(?=\s)|[ \t])\s*(.*?)\s*[,;.]?",
    re.IGNORECASE,
)
_NUMBERS = ("number", "text", "token", "id", "index", "example", "item", "no", "nr")
_ANSWERS = ("probability", "likelihood", "answer", "value", "score", "strength", "p", "fires")
_WORDS = {"yes": True, "true": True, "no": False, "false": False}

Entry = tuple[int, Value]
"""A number, and what is told of it."""


def form(name: str, n: int, value: str) -> Form:
    """Return the form of an answer that has one entry for each number from 1 to n.

    Args:
        name: What the form is called.
        n: How many.
        value: JSON's name for what is told of each: `boolean`, `number`, `integer`.
    """
    numbers = [str(each) for each in range(1, n + 1)]
    return Form(
        name,
        {
            "type": "object",
            "properties": {each: {"type": value} for each in numbers},
            "required": list(numbers),
            "additionalProperties": False,
        },
    )


def entries(answer: Answer, n: int) -> list[Value]:
    """Return what an answer tells of each number from 1 to n; None where it tells nothing for sure.

    That is where a number is missing, or is told two things. With a number too many, or a list of another
    length, nobody knows which text is which: then it is None everywhere.

    Args:
        answer: The answer: an object by number, lines such as `3: …`, or a list. Of one that was cut at its
            limit, only objects that were closed.
        n: How many texts were asked about.
    """
    text = said(answer.text)
    found = list(values(text))
    told = [entry for value in found for entry in _numbered(value)]
    if not told and answer.finish != "length":
        told = list(_lines(text)) or _listed(found, n)
    by_number: dict[int, list[Value]] = {}
    for place, value in told:
        by_number.setdefault(place, []).append(_single(value))
    if any(not 1 <= place <= n for place in by_number):
        return [None] * n
    return [_agreed(by_number.get(place, [])) for place in range(1, n + 1)]


def yes_or_no(value: Value) -> bool | None:
    """Return yes or no; 1 and 0 are such too, and nothing between them is."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in _WORDS:
        return _WORDS[value.strip().lower()]
    told = number(value)
    return bool(told) if told in {0.0, 1.0} else None


def probability(value: Value) -> float | None:
    """Return a number from 0 to 1, of which yes and no are the ends; `85%` is one too, 85 is none."""
    sure = yes_or_no(value)
    if sure is not None:
        return float(sure)
    percent = isinstance(value, str) and value.strip().endswith("%")
    told = number(str(value).strip().removesuffix("%")) if percent else number(value)
    if told is None:
        return None
    told = told / 100 if percent else told
    return told if 0 <= told <= 1 else None


def _numbered(value: Value) -> Iterator[Entry]:
    """Yield the entries of an object by number, of one inside of it, or of a list of such."""
    if isinstance(value, Object):
        keyed = [(_KEY.fullmatch(key), told) for key, told in value.pairs]
        if any(key for key, _ in keyed):
            yield from ((int(key[1]), told) for key, told in keyed if key)
            return
        place = number(value.get(*_NUMBERS))
        if place is not None:
            yield int(place), value
            return
        for _, inner in value.pairs:
            yield from _numbered(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _numbered(inner)


def _lines(text: str) -> Iterator[Entry]:
    for line in text.splitlines():
        found = _LINE.fullmatch(line)
        if found and _told(found[2]):
            yield int(found[1]), found[2]


def _listed(found: Sequence[Value], n: int) -> list[Entry]:
    """Return the entries of the one list among all that was found, if it is as long as it must be."""
    if len(found) == 1 and isinstance(found[0], Object):
        found = [inner for _, inner in found[0].pairs if isinstance(inner, list)]
    if len(found) != 1 or not isinstance(found[0], list) or len(found[0]) != n:
        return []
    return list(enumerate(found[0], 1))


def _told(text: str) -> bool:
    return probability(text) is not None or number(text) is not None


def _single(value: Value) -> Value:
    """Return what an entry tells, if it is an object of its own."""
    return value.get(*_ANSWERS) if isinstance(value, Object) else value


def _agreed(told: Sequence[Value]) -> Value:
    """Return what all entries of one number tell; None where they differ."""
    first = told[0] if told else None
    return first if all(each == first for each in told) else None
