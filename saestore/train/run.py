"""The verb: stream rows, take steps, write a dictionary; or resume one bit for bit."""

from collections.abc import Callable, Mapping

from saestore.dictionaries import SparseDictionary
from saestore.lake import Lake
from saestore.progress import Progress, Silent
from saestore_schemas.train import TrainSettings


def run(
    settings: TrainSettings,
    lake: Lake,
    *,
    device: str = "auto",
    progress: Progress | None = None,
    evaluate: Callable[[SparseDictionary, int], Mapping[str, float]] | None = None,
) -> SparseDictionary:
    """Train a dictionary and write it; a finished one is returned as it is.

    Interrupted at any step and run again, it ends with the same bytes as an uninterrupted run on
    the same machine.

    Args:
        settings: What to train on which rows.
        lake: Where the store lies and the dictionary is written.
        device: Torch device; `auto` takes the best there is.
        progress: Where to report.
        evaluate: Called with the dictionary and the step at every checkpoint; its numbers go into
            the metrics.

    Raises:
        ArtefactNotFoundError: No such activation store.
        ArtefactExistsError: The name is taken by a dictionary with other settings.
        ConfigError: The settings contradict the store.
        HookpointNotFoundError: The store has no such hookpoint.
        DivergedError: The loss became NaN or infinite.
    """
    raise AssertionError(settings, lake, device, progress or Silent(), evaluate)
