"""Reports of artefacts: what each kind's says, written to a file."""

import os
from collections.abc import Sequence
from pathlib import Path

from saestore import report
from saestore.api import pages, report_features
from saestore.errors import UnsupportedError
from saestore.lake import Lake
from saestore.progress import Progress
from saestore.report import artefact_documents
from saestore.report.artefacts import AnalysisPage, CheckpointPage, DictionaryPage, SweepPage
from saestore_schemas.manifest import Manifest


def write(
    lake: Lake,
    name: str,
    to: str | os.PathLike[str],
    *,
    features: Sequence[int],
    query: str | None,
    progress: Progress,
) -> Path:
    """Write the report of an artefact, or of features of an analysis; return the file.

    Args:
        lake: The lake.
        name: The artefact.
        to: The file.
        features: Features that are chosen.
        query: SQL that chooses features.
        progress: Where to report.

    Raises:
        SaestoreError: See `OpenLake.report`.
    """
    if not features and query is None:
        page = pages.page(lake, name)
        if isinstance(page, DictionaryPage | CheckpointPage | SweepPage):
            return report.write(artefact_documents.document(page), to)
        if not isinstance(page, AnalysisPage):
            raise _without(page.manifest)
        name = page.manifest.name
    return report_features.write(lake, name, to, features=features, query=query, progress=progress)


def _without(manifest: Manifest) -> UnsupportedError:
    """Return the error of an artefact whose kind has no report."""
    return UnsupportedError(
        f"there is no report of {manifest.kind}",
        found=manifest.kind,
        expected="a dictionary, a checkpoint, a sweep or an analysis",
        hint=f"`saestore show {manifest.kind}/{manifest.name}` shows it in the terminal",
    )
