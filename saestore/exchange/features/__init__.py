"""Analyses as files that other tools read. A format is one file here and one line below."""

from collections.abc import Mapping

from saestore.exchange.features.delphi import Delphi
from saestore.exchange.features.format import FeatureFormat, FeaturesExport, export_features
from saestore.exchange.features.neuronpedia import Neuronpedia
from saestore.exchange.features.saedashboard import SaeDashboard


FORMATS: Mapping[str, FeatureFormat] = {
    "delphi": Delphi(),
    "saedashboard": SaeDashboard(),
    "neuronpedia": Neuronpedia(),
}
"""Tool to what writes for it."""

__all__ = [
    "FORMATS",
    "Delphi",
    "FeatureFormat",
    "FeaturesExport",
    "Neuronpedia",
    "SaeDashboard",
    "export_features",
]
