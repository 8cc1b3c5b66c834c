r"""An example as a prompt shows it: one line of text, with << and >> around the tokens in question.

Nothing in a text can pass for a mark, for the end of its line or for a control token: what could is escaped
with a backslash. Line breaks and tabs become ``\n``, ``\r``, ``\t``, other invisible characters ``\u{…}``, a
backslash ``\\``; a < or > that would touch its like, a mark or a bar becomes ``\<`` or ``\>``, and all others
stay as they are. A control token of the tokenizer is ``\{…}``.

A token that only completes a character of the token before has no text of its own: a mark on it stands
around that character. Where the character began before the window, the token is shown as ``\?``.
"""

import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

from saestore.features import TokenPiece


OPEN, CLOSE = "<<", ">>"
"""What stands around marked tokens."""
PART = r"\?"
"""A token that holds no more than a part of a character which begins outside of the window."""
STRONGEST = 10
"""The strength of a feature's largest value."""

_NAMED = {"\\": r"\\", "\n": r"\n", "\r": r"\r", "\t": r"\t"}
_INVISIBLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"
"""Invisible too, and part of how words and emoji are spelled."""


def firing(tokens: Sequence[TokenPiece], *, maximum: float, above: float = 0.0) -> list[int]:
    """Return which tokens are to be marked: those where a feature fires strongly enough.

    Where it fires and nowhere strongly enough, it is those where it is strongest: each example in which it
    fires shows where.

    Args:
        tokens: The tokens with its values.
        maximum: Its largest strength anywhere.
        above: Share of that which a strength must exceed.
    """
    strengths = [abs(token.value) for token in tokens]
    strongest = max(strengths, default=0.0)
    least = min(above * maximum, strongest)
    return [
        at
        for at, each in enumerate(strengths)
        if each and (each > least or (least == strongest == each))
    ]


def strength(value: float, maximum: float) -> int:
    """Return a value on the scale of prompts: 1 to 10 of a firing, below zero where the value is; else 0.

    Args:
        value: The value.
        maximum: The feature's largest strength anywhere, to which 10 belongs.
    """
    if not value:
        return 0
    share = min(abs(value) / maximum, 1.0) if maximum else 1.0
    size = max(1, round(STRONGEST * share))
    return size if value > 0 else -size


def line(tokens: Sequence[TokenPiece], marked: Collection[int] = ()) -> str:
    """Return the text of some tokens as one line, with marks around some of them.

    Args:
        tokens: The tokens.
        marked: Places of those to be marked, from 0; neighbours share one pair of marks.
    """
    runs = [(on, list(some)) for on, some in groupby(_parts(tokens, marked), lambda part: part.on)]
    shown = []
    for place, (on, parts) in enumerate(runs):
        text = _run(parts, left=on or place > 0, right=on or place < len(runs) - 1)
        shown.append(f"{OPEN}{text}{CLOSE}" if on else text)
    return "".join(shown)


def strengths(tokens: Sequence[TokenPiece], marked: Collection[int], maximum: float) -> str:
    """Return the marked tokens with their strengths, such as `" cat" 10, " dog" 4`.

    Args:
        tokens: The tokens with a feature's values.
        marked: Places of those that are marked.
        maximum: The feature's largest strength anywhere.
    """
    return ", ".join(
        f"{_in_quotes(part)} {strength(part.value, maximum)}"
        for part in _parts(tokens, marked)
        if part.on
    )


def words(tokens: Sequence[TokenPiece]) -> list[str]:
    """Return each token alone, escaped and in quotation marks."""
    return [_in_quotes(_part(token)) for token in tokens]


def escaped(text: str) -> str:
    """Return a text as one line that holds no mark."""
    return _escape(text)


def quoted(text: str) -> str:
    """Return a text as one line in quotation marks."""
    return _in_quotes(_Part(text, "text"))


@dataclass(frozen=True)
class _Part:
    """What is shown of a token, and of those that complete its last character.

    Attributes:
        text: Its text, not yet escaped.
        kind: What it is: text, a control token, or a part of a character which has no text here.
        value: The largest of their values, by size.
        on: Whether one of them is marked.
    """

    text: str
    kind: Literal["text", "control", "fragment"]
    value: float = 0.0
    on: bool = False


def _part(token: TokenPiece, *, on: bool = False) -> _Part:
    if token.special:
        return _Part(token.text, "control", token.value, on)
    return _Part(token.text, "text" if token.text else "fragment", token.value, on)


def _parts(tokens: Sequence[TokenPiece], marked: Collection[int]) -> list[_Part]:
    wanted = set(marked)
    found: list[_Part] = []
    for at, token in enumerate(tokens):
        part = _part(token, on=at in wanted)
        if part.kind != "fragment":
            found.append(part)
        elif found and found[-1].kind == "text":
            before = found[-1]
            value = max(before.value, part.value, key=abs)
            found[-1] = replace(before, value=value, on=before.on or part.on)
        elif part.on:
            found.append(part)
    return found


def _in_quotes(part: _Part) -> str:
    return f'"{_run([part], quotes=True)}"'


def _run(
    parts: Sequence[_Part], *, left: bool = False, right: bool = False, quotes: bool = False
) -> str:
    """Return parts that stand between the same marks, escaped.

    Args:
        parts: The parts.
        left: Whether a mark stands right before them.
        right: Whether one stands right after them.
        quotes: Whether they stand in quotation marks.
    """
    shown = []
    groups = [(kind, list(some)) for kind, some in groupby(parts, lambda part: part.kind)]
    for place, (kind, some) in enumerate(groups):
        if kind == "control":
            shown += [rf"\{{{_escape(each.text, control=True, quotes=quotes)}}}" for each in some]
        elif kind == "fragment":
            shown += [PART] * len(some)
        else:
            text = "".join(each.text for each in some)
            sides = (left and not place, right and place == len(groups) - 1)
            shown.append(_escape(text, sides=sides, quotes=quotes))
    return "".join(shown)


def _escape(
    text: str,
    *,
    sides: tuple[bool, bool] = (False, False),
    control: bool = False,
    quotes: bool = False,
) -> str:
    """Return a text without anything that could be taken for what is ours.

    Args:
        text: The text.
        sides: Whether marks stand right before and right after it.
        control: Whether it is a control token's.
        quotes: Whether it stands in quotation marks.
    """
    found = []
    for at, char in enumerate(text):
        if char in "<>":
            before = text[at - 1] in (char, "|") if at else sides[0]
            after = text[at + 1] in (char, "|") if at + 1 < len(text) else sides[1]
            found.append(f"\\{char}" if control or before or after else char)
        elif (char == '"' and quotes) or (char == "}" and control):
            found.append(f"\\{char}")
        elif char in _NAMED:
            found.append(_NAMED[char])
        elif unicodedata.category(char) in _INVISIBLE and char not in _JOINERS:
            found.append(f"\\u{{{ord(char):X}}}")
        else:
            found.append(char)
    return "".join(found)
