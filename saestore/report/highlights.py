"""Texts under features as one HTML file: tokens coloured by strength, values on hover and in a table.

The file needs no network and no script, in light and dark. Every text is escaped, and what is read out
of a passage is the text itself: marks of line ends and of tokens that only complete a character are
drawn by style alone.
"""

import os
from collections.abc import Iterator, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

from saestore.features import Example, Highlight, TokenPiece
from saestore.report.write import put, target_of


KINDS = (".html",)

_MEDIUM, _STRONG = 0.33, 0.66
"""Shares of the feature's largest value, as the terminal has them."""
_FAINTEST = 12
"""Per cent of the colour that the weakest firing has: it must be seen."""
_CONTROL = {n: 0x2400 + n for n in range(0x20) if chr(n) not in "\t\n\r"} | {0x7F: 0x2421}
"""Control characters, which HTML cannot hold, to their pictures."""


def write_highlights(found: Sequence[Highlight], path: str | os.PathLike[str]) -> Path:
    """Write a page of texts under features, whole or not at all; one that is there is replaced.

    Args:
        found: The features with their texts.
        path: Where, ending in `.html`.

    Raises:
        ConfigError: The name ends in something else, or there is no such folder.
        StorageError: The disk is full, or the folder is read-only.
    """
    target = target_of(path, KINDS, field="--html")
    return put(highlights_html(found).encode(), target)


def highlights_html(found: Sequence[Highlight]) -> str:
    """Return the page, the same for the same features and texts."""
    page = Template(
        resources.files("saestore.report").joinpath("highlights.html").read_text("utf-8")
    )
    numbers = ", ".join(str(each.feature) for each in found)
    word = "Feature" if len(found) == 1 else "Features"
    dictionaries = ", ".join(dict.fromkeys(each.dictionary for each in found))
    stored = all(each.stored for each in found)
    texts = max((len(each.examples) for each in found), default=0)
    where = ("context", "of the lake") if stored else ("passage", "of the texts given")
    return page.substitute(
        title=escape(f"{word} {numbers} of {dictionaries}" if found else "No feature"),
        summary=f"{texts} {where[0]}{'' if texts == 1 else 's'} {where[1]}.",
        sections="\n".join(map(_section, found)),
        foot="Values are those of the analysis: thresholds as training fixed them.",
    )


def _section(found: Highlight) -> str:
    scale = f"largest value {found.max:.4f}, density {found.density:.3%}"
    texts = "\n".join(_figure(example, found) for example in found.examples)
    silent = "" if texts else '<p class="quiet">It fires in none of these texts.</p>'
    return (
        f"<section><h2>Feature {found.feature}</h2>\n"
        f'<p class="quiet">{scale if found.max else "never fires in the analysis"}</p>\n'
        f"{texts}{silent}</section>"
    )


def _figure(example: Example, found: Highlight) -> str:
    name = _text(example.document_id)
    where = f"context {example.context} · {name}" if found.stored else name
    if not found.stored and example.context:
        where += f", context {example.context}"
    peak = f"peak {example.peak:.4f} at {example.peak_position}" if example.peak else "silent"
    begins = ' <span class="cut"></span>' if example.window_start else ""
    goes_on = example.window_start + len(example.tokens) < example.n_positions
    ends = '<span class="on"></span>' if goes_on else ""
    largest = found.max or example.peak
    tokens = "".join(
        _token(piece, example.window_start + n, largest) for n, piece in enumerate(example.tokens)
    )
    return (
        f"<figure><figcaption>{where} · {peak}</figcaption>\n"
        f'{begins}<p class="passage" dir="auto">{tokens}</p>{ends}{_values(example)}</figure>'
    )


def _token(piece: TokenPiece, position: int, largest: float) -> str:
    shown = _text(piece.text)
    if piece.value <= 0 or largest <= 0:
        if piece.special or not piece.kept:
            return f'<span class="special" title="{position}: not analysed">{shown}</span>'
        return shown
    share = min(piece.value / largest, 1.0)
    level = "" if share < _MEDIUM else "m" if share < _STRONG else "s"
    drawn = "part" if not piece.text else "line" if not piece.text.strip("\r\n") else ""
    kind = " ".join(filter(None, (level, drawn)))
    kinds = f' class="{kind}"' if kind else ""
    colour = round(_FAINTEST + (100 - _FAINTEST) * share)
    return (
        f'<mark{kinds} style="--s:{colour}%" '
        f'title="{position}: {piece.value:.4f} ({share:.0%})">{shown}</mark>'
    )


def _values(example: Example) -> str:
    """Return the values as a table, for those who cannot point."""
    lines = "".join(_lines(example))
    if not lines:
        return ""
    head = "<tr><th>position</th><th>token</th><th>value</th></tr>"
    return (
        "\n<details><summary>Values</summary><table><thead>"
        f"{head}</thead><tbody>{lines}</tbody></table></details>"
    )


def _lines(example: Example) -> Iterator[str]:
    for n, piece in enumerate(example.tokens):
        if piece.value > 0:
            position = example.window_start + n
            yield f"<tr><td>{position}</td><td>{_text(piece.text)}</td><td>{piece.value:.4f}</td></tr>"


def _text(text: str) -> str:
    """Return text escaped; carriage returns by number, as a parser would make line ends of them."""
    return escape(text.translate(_CONTROL)).replace("\r", "&#13;")
