"""A report as one HTML file: plots are inline SVG; no script, no font and no picture from elsewhere.

Every text is escaped; a browser is told to load nothing and run nothing.
"""

import json
from html import escape
from importlib import resources
from string import Template
from typing import Any

from saestore.report import draw
from saestore.report.document import Document, Sheet


def html(document: Document) -> str:
    """Return the file's text, the same for the same document.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    page = Template(resources.files("saestore.report").joinpath("page.html").read_text("utf-8"))
    figures = "\n".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in document.figures
    )
    drawn = [_distinct(draw.svg(plot), n) for n, plot in enumerate(document.plots)]
    plots = "\n".join(f"<figure>{svg}</figure>" for svg in drawn)
    return page.substitute(
        title=escape(document.title),
        summary=escape(document.summary),
        figures=figures,
        plots=plots,
        sheets="\n".join(map(_sheet, document.sheets)),
        foot=escape(document.foot),
    )


def _sheet(sheet: Sheet) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in sheet.columns)
    body = "\n".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in sheet.rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"
    if sheet.folded:
        return f"<details><summary>{escape(sheet.title)}</summary>\n{table}</details>"
    return f"<section><h2>{escape(sheet.title)}</h2>\n{table}</section>"


def _distinct(svg: str, number: int) -> str:
    """Return a plot whose names are its own: several stand in one page."""
    for attribute in ('id="', 'href="#', "url(#"):
        svg = svg.replace(attribute, f"{attribute}p{number}-")
    return svg


def script_json(what: Any) -> str:
    """Return JSON that may stand in a script element: nothing in it opens or ends a tag."""
    return json.dumps(what, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
