"""What `show` tells of an artefact: one page for each kind, read from the lake without torch."""

from collections.abc import Callable

from saestore.api.store_page import ActivationsPage, activations_page
from saestore.lake import Lake, Ref, checkpoint, lineage
from saestore.report import artefacts, interpretation_page
from saestore.report.artefacts import (
    AnalysisPage,
    CheckpointPage,
    DictionaryPage,
    EvaluationPage,
    SweepPage,
)
from saestore.report.interpretation_page import InterpretationPage


__all__ = [
    "ActivationsPage",
    "AnalysisPage",
    "CheckpointPage",
    "DictionaryPage",
    "EvaluationPage",
    "InterpretationPage",
    "Page",
    "SweepPage",
    "page",
]

Page = (
    ActivationsPage
    | DictionaryPage
    | CheckpointPage
    | EvaluationPage
    | AnalysisPage
    | InterpretationPage
    | SweepPage
)


def page(lake: Lake, name: str) -> Page:
    """Return what there is to know about the artefact or checkpoint that a name means.

    Raises:
        ArtefactNotFoundError: None or several have that name.
        IncompleteArtefactError: It was started and not finished.
        DamagedArtefactError: A file that the page needs does not match the manifest.
    """
    if checkpoint.named(name):
        return artefacts.checkpoint_page(lake, name)
    ref = lake.find(name)
    makers: dict[str, Callable[[Lake, Ref], Page]] = {
        "activations": _activations,
        "dictionary": artefacts.dictionary,
        "evaluation": artefacts.evaluation,
        "features": artefacts.analysis,
        "interpretation": interpretation_page.interpretation,
        "sweep": artefacts.sweep,
    }
    return makers[ref.kind](lake, ref)


def _activations(lake: Lake, ref: Ref) -> ActivationsPage:
    from saestore.activations import ActivationStore

    return activations_page(
        ActivationStore.open(lake, ref.name), tuple(lineage.children(lake, ref))
    )
