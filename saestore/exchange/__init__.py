"""Other tools' formats, both ways: dictionaries and activations.

Every conversion is exact or refused, and is measured. Dictionaries need torch, activations do not.
"""

from typing import TYPE_CHECKING, Any

from saestore.exchange.exporting import ActivationsExport, Wanted, export_activations
from saestore.exchange.importing import import_activations
from saestore.exchange.selection import Range


if TYPE_CHECKING:
    from saestore.exchange.report import ExportReport
    from saestore.exchange.saelens import export_saelens

__all__ = [
    "ActivationsExport",
    "ExportReport",
    "Range",
    "Wanted",
    "export_activations",
    "export_saelens",
    "import_activations",
]


def __getattr__(name: str) -> Any:
    """Load what concerns dictionaries on first use: it needs torch."""
    if name == "ExportReport":
        from saestore.exchange.report import ExportReport  # noqa: PLC0415 - as said above

        return ExportReport
    if name == "export_saelens":
        from saestore.exchange.saelens import export_saelens  # noqa: PLC0415 - as said above

        return export_saelens
    raise AttributeError(f"module 'saestore.exchange' has no attribute {name!r}")
