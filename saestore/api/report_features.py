"""Features of an analysis as a report: which, and what it says of them."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from saestore import report
from saestore.errors import QueryError
from saestore.features import Analysis, FeaturePage, feature_lines, overview
from saestore.lake import Lake, layout
from saestore.progress import Progress


_FOLDER = f"{layout.FOLDERS['features']}/"


def write(
    lake: Lake,
    name: str,
    to: str | os.PathLike[str],
    *,
    features: Sequence[int] = (),
    query: str | None = None,
    progress: Progress,
) -> Path:
    """Write a list of features, with sections of those that are chosen; return the file.

    Args:
        lake: The lake.
        name: The analysis, or a dictionary with only one.
        to: A file that ends in `.html`.
        features: Features that are chosen.
        query: SQL over the analysis, whose column `feature` says which are chosen.
        progress: Where to report.

    Raises:
        ArtefactNotFoundError: There is no such analysis, or several and it is not clear which.
        FeatureNotFoundError: The dictionary has no such feature.
        QueryError: The SQL was refused, or names no features.
    """
    analysis = Analysis.open(lake, name.removeprefix(_FOLDER))
    chosen = list(dict.fromkeys([*features, *_found(analysis, query)]))
    for each in chosen:
        analysis.check(each)  # before anything is read
    lines = feature_lines(analysis)
    found = report.FeaturesReport(
        name=analysis.ref.name,
        overview=overview(analysis),
        lines=lines.take(chosen) if chosen else lines,
        chosen=chosen,
        provenance=analysis.provenance,
    )
    return report.write_features(found, _pages(analysis, chosen, progress), to)


def _pages(analysis: Analysis, chosen: Sequence[int], progress: Progress) -> Iterator[FeaturePage]:
    if not chosen:
        return
    with progress.task("features", total=len(chosen), unit="features") as task:
        for page in analysis.pages(chosen):
            yield page
            task.advance(1)


def _found(analysis: Analysis, query: str | None) -> list[int]:
    """Return the features that a question names, in its order.

    Raises:
        QueryError: It was refused, has no column `feature`, or no lines.
    """
    if query is None:
        return []
    answer = analysis.sql(query)
    if "feature" not in answer.column_names:
        raise QueryError(
            "the answer does not say which features",
            found=", ".join(answer.column_names),
            expected="a column `feature`",
            hint="for example: SELECT feature FROM features ORDER BY max DESC LIMIT 20",
        )
    named = [int(each) for each in answer["feature"].to_pylist() if each is not None]
    if not named:
        raise QueryError(
            "no feature answers the question",
            found="no lines",
            expected="one feature or more",
            hint="`saestore query` shows what a question finds",
        )
    return named
