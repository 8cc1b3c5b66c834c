"""Texts under features as one HTML file, which needs no network and no script, in light and dark."""

import os
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

from saestore.features import Example, Highlight
from saestore.report import passages
from saestore.report.write import put, target_of


KINDS = (".html",)


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
        style=passages.style(),
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
    name = passages.text(example.document_id)
    where = f"context {example.context} · {name}" if found.stored else name
    if not found.stored and example.context:
        where += f", context {example.context}"
    return passages.figure(example, found.max or example.peak, where)
