"""Other tools' dictionaries, both ways: one file for each format, one registry.

Every conversion is measured: both sides compute the same rows, and the largest difference of features
and of reconstructions is reported. What cannot be exact says why and is refused unless that is
allowed.
"""

from saestore.exchange.dictionaries.exporting import export_dictionary
from saestore.exchange.dictionaries.importing import import_dictionary
from saestore.exchange.dictionaries.report import Conversion, ExportReport, ImportReport


__all__ = [
    "Conversion",
    "ExportReport",
    "ImportReport",
    "export_dictionary",
    "import_dictionary",
]
