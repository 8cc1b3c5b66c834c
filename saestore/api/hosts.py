"""What a dictionary starts from of the language model that its store is of."""

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from saestore.lake import Lake
from saestore_schemas.train import TrainSettings


if TYPE_CHECKING:
    from saestore.dictionaries import HostAttention


def attention(lake: Lake, *, device: str) -> "Callable[[TrainSettings], HostAttention]":
    """Return what finds the attention that a run replaces.

    Runs of one store that replace the same attention load the model once.

    Args:
        lake: Where the stores lie.
        device: Where the model is tried out.
    """
    from saestore.activations import ActivationStore
    from saestore.dictionaries import HostAttention
    from saestore.lm import LanguageModel

    @lru_cache(maxsize=1)
    def between(store: str, reads: str, writes: str) -> HostAttention:
        opened = ActivationStore.open(lake, store)
        model = LanguageModel.load(
            opened.language_model(None, field="init.from_host"), device=device
        )
        return HostAttention(**vars(model.attention(reads, writes)))

    def found(settings: TrainSettings) -> HostAttention:
        (reads,), (writes,) = settings.dictionary.reads, settings.dictionary.writes
        return between(settings.activations.mixed[0].name, reads, writes)

    return found
