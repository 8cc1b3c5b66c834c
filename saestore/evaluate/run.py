"""The verb: a dictionary and a store in, scores out."""

from saestore.evaluate.evaluation import Evaluation
from saestore.lake import Lake, Ref
from saestore.progress import Progress, Silent
from saestore_schemas.evaluate import EvaluateSettings


def run(
    settings: EvaluateSettings,
    lake: Lake,
    *,
    device: str = "auto",  # noqa: ARG001 - until the measuring lands
    progress: Progress = Silent(),  # noqa: B008, ARG001
) -> Evaluation:
    """Measure a dictionary and write the scores; a finished evaluation is returned as it is.

    Args:
        settings: What to measure on which rows.
        lake: Where dictionary and store lie and scores are written.
        device: Torch device; `auto` takes the best there is.
        progress: Where to report.

    Raises:
        ArtefactNotFoundError: No such dictionary or store.
        ArtefactExistsError: The name is taken by an evaluation with other settings.
        ConfigError: The split is empty, or unknown for this dictionary.
    """
    return Evaluation.open(lake, Ref("evaluation", f"{settings.dictionary}/{settings.name}").name)
