"""What a dictionary starts from of the language model that its store is of."""

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from saestore.lake import Lake
from saestore_schemas.train import TrainSettings


if TYPE_CHECKING:
    from saestore.dictionaries import Host


_FIELD = "init.from_host"
"""The setting for which a model is loaded."""


def finder(lake: Lake, *, device: str) -> "Callable[[TrainSettings], Host]":
    """Return what finds the part of the model that a run replaces, as `init.from_host` names it.

    Runs of one store that replace the same part load the model once.

    Args:
        lake: Where the stores lie.
        device: Where the model runs.
    """
    from saestore.activations import ActivationStore
    from saestore.dictionaries import Host, HostAttention, HostMlp
    from saestore.lm import LanguageModel

    parts: dict[str, Callable[[LanguageModel, str, str], Host]] = {
        "attention": lambda m, *hooks: HostAttention(**vars(m.attention(*hooks))),
        "mlp": lambda m, *hooks: HostMlp(m.row_map(*hooks)),
    }

    @lru_cache(maxsize=1)
    def between(part: str, store: str, reads: str, writes: str) -> Host:
        opened = ActivationStore.open(lake, store)
        settings = opened.language_model(None, field=_FIELD)
        model = LanguageModel.load(settings, device=device, field=_FIELD)
        return parts[part](model, reads, writes)

    def found(settings: TrainSettings) -> Host:
        (reads,), (writes,) = settings.dictionary.reads, settings.dictionary.writes
        heads = {head.called: head.hookpoint for head in settings.activations.heads}
        names = heads.get(reads, reads), heads.get(writes, writes)
        part = str(settings.init.from_host)
        return between(part, settings.activations.mixed[0].name, *names)

    return found
