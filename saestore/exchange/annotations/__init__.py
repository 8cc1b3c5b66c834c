"""Annotations as other tools and other lakes have them. A format is one class here and one line below."""

from collections.abc import Mapping

from saestore.exchange.annotations.feature_circuits import FeatureCircuits
from saestore.exchange.annotations.format import AnnotationFormat
from saestore.exchange.annotations.lake import LakeJson, LakeParquet
from saestore.exchange.annotations.llamascopium import Llamascopium
from saestore.exchange.annotations.mlxterp import Mlxterp
from saestore.exchange.annotations.moving import (
    AnnotationsExport,
    AnnotationsImport,
    export_annotations,
    import_annotations,
)


FORMATS: Mapping[str, AnnotationFormat] = {
    form.name: form
    for form in (LakeParquet(), LakeJson(), Mlxterp(), FeatureCircuits(), Llamascopium())
}
"""What it is called to what reads and writes it."""

__all__ = [
    "FORMATS",
    "AnnotationFormat",
    "AnnotationsExport",
    "AnnotationsImport",
    "export_annotations",
    "import_annotations",
]
