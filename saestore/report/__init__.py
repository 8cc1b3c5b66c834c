"""Reports: what the lake knows as one page that opens anywhere, HTML or PNG."""

from saestore.report.document import Bands, Density, Document, Lines, Plot, Points, Sheet
from saestore.report.write import write


__all__ = ["Bands", "Density", "Document", "Lines", "Plot", "Points", "Sheet", "write"]
