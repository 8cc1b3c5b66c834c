"""Analyses as files that other tools read. A format is one file here and one line below."""

from collections.abc import Mapping

from saestore.exchange.features.delphi import Delphi
from saestore.exchange.features.format import FeatureFormat, FeaturesExport, export_features


FORMATS: Mapping[str, FeatureFormat] = {"delphi": Delphi()}
"""Tool to what writes for it."""

__all__ = ["FORMATS", "FeatureFormat", "FeaturesExport", "export_features"]
