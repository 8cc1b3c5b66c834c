"""Tokens in a terminal: whitespace and control characters made visible, firing ones marked."""

import dataclasses
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text


if TYPE_CHECKING:
    from saestore.features import Example, FeaturePage, TokenPiece

WEAK = 0.33
"""A firing below this share of the feature's largest value is weak."""
STRONG = 0.66
"""From this share on it is strong; between the two, medium."""

# Each colour has contrast of 3 or more on black and on white; shape tells the levels apart too.
STYLES = {1: "color(136)", 2: "bold underline color(166)", 3: "bold reverse color(160)"}
"""Level to style."""

NAMES = {1: "weak", 2: "medium", 3: "strong"}

_VISIBLE = {"\n": "↵", "\r": "␍", "\t": "⇥", "\u2028": "↵", "\u2029": "↵"}
_SHIFT = 0x2400
"""Control pictures stand this far above the control characters they show."""
_C0 = 0x20
_DELETE = 0x7F


def visible(text: str) -> str:
    r"""Return text in which nothing is invisible and nothing can steer a terminal.

    >>> visible("a\n\tb\x1b[31m")
    'a↵⇥b␛[31m'
    """
    if text.isprintable():
        return text
    return "".join(_seen(c) for c in text)


def _seen(c: str) -> str:
    if c in _VISIBLE:
        return _VISIBLE[c]
    code = ord(c)
    if code < _C0:
        return chr(_SHIFT + code)
    if code == _DELETE:
        return "␡"
    # Format characters (bidirectional marks, joiners) and the like reorder or hide what follows.
    return c if unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Co"} else "·"


def level(value: float, largest: float) -> int:
    """Return 0 for silent, 1 weak, 2 medium, 3 strong."""
    if value <= 0 or largest <= 0:
        return 0
    share = value / largest
    return 1 if share < WEAK else 2 if share < STRONG else 3


def marked(pieces: "Sequence[TokenPiece]", largest: float, *, coloured: bool) -> Text:
    """Return a stretch of tokens with the firing ones marked.

    Args:
        pieces: The tokens.
        largest: The feature's largest value: what levels are measured by.
        coloured: Mark by colour and shape; else by brackets, one pair for each level.
    """
    text = Text()
    for piece in pieces:
        strength = level(piece.value, largest)
        shown = visible(piece.text)
        if strength == 0:
            text.append(shown)
            continue
        body = shown.lstrip(" ") or ("·" * len(shown) if shown else "")
        text.append(shown[: len(shown) - len(body)] if body in shown else "")
        if not body:
            # The token only completes a character of the one before.
            body = "·"
        if coloured:
            text.append(body, style=STYLES[strength])
        else:
            text.append("[" * strength + body + "]" * strength)
    return text


def legend(*, coloured: bool) -> Text:
    """Return how the levels look."""
    text = Text()
    for strength, name in NAMES.items():
        text.append(" " if text else "")
        if coloured:
            text.append(name, style=STYLES[strength])
        else:
            text.append("[" * strength + name + "]" * strength)
    return text


def around_peak(example: "Example", around: int) -> "tuple[TokenPiece, ...]":
    """Return an example's tokens within `around` of its peak."""
    centre = example.peak_position - example.window_start
    return example.tokens[max(0, centre - around) : centre + around + 1]


def cut(page: "FeaturePage", *, n: int, around: int) -> "FeaturePage":
    """Return the page with at most `n` examples in a group, each cut to `around` tokens."""

    def shorter(example: "Example") -> "Example":
        tokens = around_peak(example, around)
        start = max(example.window_start, example.peak_position - around)
        return dataclasses.replace(example, tokens=tokens, window_start=start)

    groups = tuple(
        dataclasses.replace(group, examples=tuple(shorter(e) for e in group.examples[:n]))
        for group in page.groups
    )
    return dataclasses.replace(page, groups=groups)
