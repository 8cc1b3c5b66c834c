"""Reading what a language model answered: JSON, or what nearly is.

Models put fences and prose around it, think aloud before it, quote with single quotes, leave commas at the
end and write True for true. All of that is read. What is cut before its end is not: an object or list counts
when it is closed.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias


Value: TypeAlias = "Object | list[Any] | str | float | bool | None"
"""What JSON can say; every number is a float; lists are of the same."""

_DEPTH = 32
"""Levels of objects in one another; deeper ones are no answer."""
_THOUGHT = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL)
_THOUGHT_END = re.compile(r".*</think(?:ing)?>", re.DOTALL)
_STRING = re.compile(r"\"((?:[^\"\\]|\\.)*)\"|'((?:[^'\\]|\\.)*)'", re.DOTALL)
_BARE = re.compile(r"[^\s,:{}\[\]\"']+")
_BEGIN = re.compile(r"[{\[]")
_SPACE = re.compile(r"\s*")
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_PLAIN = dict(zip("\"'\\/ntrbf", "\"'\\/\n\t\r\b\f", strict=True))
_WORDS = {"true": True, "false": False, "null": None, "none": None}
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


@dataclass(frozen=True)
class Object:
    """A JSON object as it was written: a key may stand in it twice.

    Attributes:
        pairs: Keys with their values, in order.
    """

    pairs: tuple[tuple[str, Value], ...]

    def get(self, *names: str) -> Value:
        """Return the value of the first key that is one of some names, whatever its case; else None."""
        return next((value for key, value in self.pairs if key.strip().lower() in names), None)


def said(text: str) -> str:
    """Return an answer without what the model thought aloud, and without halves of characters."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return _THOUGHT_END.sub("", _THOUGHT.sub("", whole)).strip()


def values(text: str) -> Iterator[Object | list[Value]]:
    r"""Yield every object and list in a text that is not part of another one.

    >>> [found.pairs for found in values("Sure: ```json\n{'a': [1, True,],}\n```")]
    [(('a', [1.0, True]),)]
    """
    at = 0
    while found := _BEGIN.search(text, at):
        try:
            reader = _Reader(text, found.start())
            value = reader.value(0)
        except _MalformedError:
            at = found.start() + 1
            continue
        at = reader.at
        if isinstance(value, Object | list):
            yield value


def number(value: Value) -> float | None:
    """Return a number, or what a text spells; None where it is no finite number."""
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, float):
        return None
    return value if math.isfinite(value) else None


class _MalformedError(ValueError):
    """A text is not even nearly JSON."""


class _Reader:
    """Reads one value at a place of a text."""

    def __init__(self, text: str, at: int) -> None:
        self.text = text
        self.at = at

    def value(self, depth: int) -> Value:
        if depth > _DEPTH:
            raise _MalformedError
        following = self._peek()
        if following == "{":
            return self._object(depth)
        if following == "[":
            return self._list(depth)
        if following in {'"', "'"}:
            return self._string()
        word = self._bare()
        if word.lower() in _WORDS:
            return _WORDS[word.lower()]
        return float(word) if _NUMBER.fullmatch(word) else word

    def _object(self, depth: int) -> Object:
        self.at += 1
        pairs: list[tuple[str, Value]] = []
        while self._peek() != "}":
            key = self._string() if self._peek() in {'"', "'"} else self._bare()
            if self._peek() != ":":
                raise _MalformedError
            self.at += 1
            pairs.append((key, self.value(depth + 1)))
            self._separator("}")
        self.at += 1
        return Object(tuple(pairs))

    def _list(self, depth: int) -> list[Value]:
        self.at += 1
        items: list[Value] = []
        while self._peek() != "]":
            items.append(self.value(depth + 1))
            self._separator("]")
        self.at += 1
        return items

    def _separator(self, end: str) -> None:
        """Step over a comma; without one, the end must follow."""
        following = self._peek()
        if following == ",":
            self.at += 1
        elif following != end:
            raise _MalformedError

    def _string(self) -> str:
        found = _STRING.match(self.text, self.at)
        if found is None:
            raise _MalformedError
        self.at = found.end()
        text = _ESCAPE.sub(_unescaped, found[1] if found[1] is not None else found[2])
        # two escapes may be the halves of one character
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def _bare(self) -> str:
        found = _BARE.match(self.text, self.at)
        if found is None:
            raise _MalformedError
        self.at = found.end()
        return found[0]

    def _peek(self) -> str:
        """Return the next character that is not space; the end of the text is no answer's."""
        found = _SPACE.match(self.text, self.at)
        self.at = found.end() if found else self.at
        if self.at >= len(self.text):
            raise _MalformedError
        return self.text[self.at]


def _unescaped(found: re.Match[str]) -> str:
    """Return what an escape stands for; one that JSON does not know, such as our own, stays."""
    code = found[1]
    return chr(int(code[1:], 16)) if len(code) > 1 else _PLAIN.get(code, found[0])
