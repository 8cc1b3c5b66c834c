"""Reports: what the lake knows as one page that opens anywhere, HTML or PNG."""

from saestore.report.document import Bands, Density, Document, Lines, Plot, Points, Sheet
from saestore.report.highlights import highlights_html, write_highlights
from saestore.report.write import write


__all__ = [
    "Bands",
    "Density",
    "Document",
    "Lines",
    "Plot",
    "Points",
    "Sheet",
    "highlights_html",
    "write",
    "write_highlights",
]
