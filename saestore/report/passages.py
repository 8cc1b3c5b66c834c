"""Contexts as HTML: tokens coloured by strength, values on hover and in a table.

Every text is escaped, and what is read out of a passage is the text itself: marks of line ends and of
tokens that only complete a character are drawn by style alone.
"""

from collections.abc import Collection, Iterator
from functools import lru_cache
from html import escape
from importlib import resources

from saestore.features import Example, TokenPiece
from saestore.words import alone, level


_FAINTEST = 0.12
"""Share of the colour that the weakest firing has: it must be seen."""
_CONTROL = {n: 0x2400 + n for n in range(0x20) if chr(n) not in "\t\n\r"} | {0x7F: 0x2421}
"""Control characters, which HTML cannot hold, to their pictures."""
READ = '<span class="read">'
"""What opens a token that is read from at the peak."""
BELOW = '<mark class="below '
"""What opens a token on which a feature fires below zero."""
_LEVELS = ("", "", "m", "s")
"""Level of a firing to the class of its mark."""


def style() -> str:
    """Return the style of pages with passages, light and dark."""
    shares = "".join(f".v{n}{{--s:{n}%}}" for n in range(101))
    return resources.files("saestore.report").joinpath("passages.css").read_text("utf-8") + shares


def strength(share: float) -> str:
    """Return the class that says how much of something there is, from 0 to 1.

    A class, as a page that is served allows no style in its tags.
    """
    return f"v{round(100 * share)}"


def figure(example: Example, largest: float, where: str) -> str:
    """Return one context with its caption and a table of its values.

    Args:
        example: The context.
        largest: The feature's largest value, by which colours are scaled.
        where: What it is called, escaped.
    """
    peak = f"peak {example.peak:.4f} at {example.peak_position}" if example.peak else "silent"
    begins = '<span class="cut"></span>' if example.window_start else ""
    goes_on = example.window_start + len(example.tokens) < example.n_positions
    ends = '<span class="on"></span>' if goes_on else ""
    read = {each.position for each in example.reads}
    tokens = "".join(_tokens(example, largest, read))
    return (
        f"<figure><figcaption>{where} · {peak}</figcaption>\n"
        f'<p class="passage" dir="auto">{begins}{tokens}{ends}</p>{_values(example)}</figure>'
    )


def text(words: str) -> str:
    """Return text escaped; carriage returns by number, as a parser would make line ends of them."""
    return escape(words.translate(_CONTROL)).replace("\r", "&#13;")


def token(words: str) -> str:
    """Return a token that stands alone: nothing in it is invisible, and it orders nothing around it."""
    return f"<bdi>{escape(alone(words))}</bdi>"


_shown = lru_cache(maxsize=1 << 14)(text)
"""Of tokens: a page has thousands, few of them different."""


def _tokens(example: Example, largest: float, read: Collection[int | None]) -> Iterator[str]:
    for position, piece in enumerate(example.tokens, example.window_start):
        if piece.value == 0 and piece.kept and not piece.special and position not in read:
            yield _shown(piece.text)
        else:
            yield _token(piece, position, largest, read=position in read)


def _token(piece: TokenPiece, position: int, largest: float, *, read: bool) -> str:
    shown = _shown(piece.text)
    if piece.value == 0 or largest <= 0:
        if piece.special or not piece.kept:
            return f'<span class="special" title="{position}: not analysed">{shown}</span>'
        return f"{READ}{shown}</span>" if read else shown
    share = min(abs(piece.value) / largest, 1.0)
    line = not piece.text.strip() and not {"\n", "\r"}.isdisjoint(piece.text)
    drawn = "part" if not piece.text else "line" if line else ""
    colour = strength(_FAINTEST + (1 - _FAINTEST) * share)
    below = "below" if piece.value < 0 else ""
    own = below, _LEVELS[level(piece.value, largest)], drawn, "read" if read else "", colour
    kind = " ".join(filter(None, own))
    return (
        f'<mark class="{kind}" title="{position}: {piece.value:.4f} ({share:.0%})">{shown}</mark>'
    )


def _values(example: Example) -> str:
    """Return the values as a table, for those who cannot point, and what is read as another."""
    fires = _table(("position", "token", "value"), "".join(_fired(example)))
    reads = _table(("reads at", "token", "adds"), "".join(_read(example)))
    if not fires + reads:
        return ""
    return f"\n<details><summary>Values</summary>{fires}{reads}</details>"


def _table(columns: tuple[str, ...], lines: str) -> str:
    head = "".join(f"<th>{name}</th>" for name in columns)
    whole = f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
    return whole if lines else ""


def _fired(example: Example) -> Iterator[str]:
    for position, piece in enumerate(example.tokens, example.window_start):
        if piece.value != 0:
            yield f"<tr><td>{position}</td><td>{_shown(piece.text)}</td><td>{piece.value:.4f}</td></tr>"


def _read(example: Example) -> Iterator[str]:
    for each in example.reads:
        where = "others" if each.position is None else each.position
        yield f"<tr><td>{where}</td><td>{text(each.text)}</td><td>{each.value:.4f}</td></tr>"
