"""Dictionaries in other tools' formats. Every conversion is exact or refused, and is measured."""

from saestore.exchange.report import ExportReport
from saestore.exchange.saelens import export_saelens


__all__ = ["ExportReport", "export_saelens"]
