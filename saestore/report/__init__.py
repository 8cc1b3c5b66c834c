"""Reports: what the lake knows as one page that opens anywhere, HTML or PNG."""

from saestore.report.document import Bands, Density, Document, Lines, Plot, Points, Sheet
from saestore.report.features_html import FeaturesReport, features_html, write_features
from saestore.report.highlights import highlights_html, write_highlights
from saestore.report.write import write


__all__ = [
    "Bands",
    "Density",
    "Document",
    "FeaturesReport",
    "Lines",
    "Plot",
    "Points",
    "Sheet",
    "features_html",
    "highlights_html",
    "write",
    "write_features",
    "write_highlights",
]
