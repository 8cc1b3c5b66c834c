"""Other tools' formats, both ways: activations here, dictionaries in `exchange.dictionaries`.

Every conversion is exact or refused, and is measured. Dictionaries need torch, activations do not.
"""

from saestore.exchange.exporting import ActivationsExport, Wanted, export_activations
from saestore.exchange.importing import import_activations
from saestore.exchange.selection import Range


__all__ = ["ActivationsExport", "Range", "Wanted", "export_activations", "import_activations"]
