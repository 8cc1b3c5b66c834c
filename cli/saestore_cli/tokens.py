"""Tokens in a terminal, firing ones marked."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from saestore.words import level, visible


if TYPE_CHECKING:
    from saestore.features import TokenPiece

# Each colour has contrast of 3 or more on black and on white; shape tells the levels apart too.
STYLES = {1: "color(136)", 2: "bold underline color(166)", 3: "bold reverse color(160)"}
"""Level to style."""
BELOW = {1: "color(32)", 2: "bold underline color(32)", 3: "bold reverse color(26)"}
"""The same of firings below zero."""

NAMES = {1: "weak", 2: "medium", 3: "strong"}


def marked(pieces: "Sequence[TokenPiece]", largest: float, *, coloured: bool) -> Text:
    """Return a stretch of tokens with the firing ones marked.

    Args:
        pieces: The tokens.
        largest: The feature's largest value: what levels are measured by.
        coloured: Mark by colour and shape, firings below zero in blue; else by brackets, one pair for
            each level, with a minus inside where the firing is below zero.
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
            text.append(body, style=(BELOW if piece.value < 0 else STYLES)[strength])
        else:
            sign = "−" if piece.value < 0 else ""
            text.append("[" * strength + sign + body + "]" * strength)
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
