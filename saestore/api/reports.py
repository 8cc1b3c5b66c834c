"""Reports of artefacts: what each kind's says, written to a file."""

import os
from collections.abc import Sequence
from pathlib import Path

from saestore import report
from saestore.api import pages, report_features, report_page
from saestore.lake import Lake
from saestore.progress import Progress


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
        if not isinstance(page, pages.AnalysisPage):
            return report.write(report_page.document(page), to)
        name = page.manifest.name
    return report_features.write(lake, name, to, features=features, query=query, progress=progress)
