"""The scores that need the language model: a few contexts, four forward passes each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64
from pydantic import JsonValue

from saestore.activations import ActivationStore, WholeContexts
from saestore.evaluate.metrics import Score
from saestore.evaluate.selection import spread
from saestore.evaluate.splice import INTERVENTIONS, Splice, pad
from saestore.evaluate.subject import Subject
from saestore.lm import LanguageModel
from saestore.progress import Progress
from saestore_schemas.evaluate import SpliceSettings
from saestore_schemas.lm import LmSettings


_POSITIONS = {
    "kept": "kept: not special, not ignored",
    "all": "all: special and ignored ones too",
}
"""Which positions are replaced, for the record."""


@dataclass(frozen=True)
class CrossEntropyScores:
    """Scores over predictions and the facts they rest on."""

    scores: list[Score]
    facts: dict[str, JsonValue]


def measure(
    subject: Subject,
    settings: SpliceSettings,
    *,
    means: Mapping[str, Float64[np.ndarray, " d"]],
    load_model: Callable[[LmSettings], LanguageModel],
    progress: Progress,
) -> CrossEntropyScores:
    """Run contexts of the split with activations clean, reconstructed, zero and mean.

    Contexts keep the store's tokens and flags, so BOS is where generate put it.

    Args:
        subject: Dictionary, store and split.
        settings: How many contexts, how many at once, which model.
        means: Mean of the evaluated rows of each reconstructed hookpoint.
        load_model: Returns the language model of some settings.
        progress: Where to report.
    """
    lm_settings = model_of(subject.store, settings)
    progress.note(f"loading {lm_settings.model}")
    model = load_model(lm_settings)
    same = is_the_stores(model, subject, progress)
    dictionary = subject.dictionary.to(model.device)
    splice = Splice(
        model,
        reads=dictionary.hookpoints_in,
        reconstruct=dictionary.reconstruct,
        means={
            hook: torch.from_numpy(means[hook]).float().to(model.device)
            for hook in dictionary.hookpoints_out
        },
        whole=dictionary.reads_contexts,
    )
    chosen = contexts_of(subject, settings.contexts)
    _forward(splice, subject.store, chosen, settings, progress)
    facts: dict[str, JsonValue] = {
        "model": model.name,
        "model_fingerprint": model.fingerprint,
        "model_is_the_stores": same,
        "forward_dtype": str(model.dtype).removeprefix("torch."),
        "contexts": len(chosen),
        "predictions": splice.predictions,
        "replaced": splice.replaced,
        "positions": _POSITIONS[settings.replace],
        "counted": "predictions made from kept positions",
        "mean": "of the evaluated rows",
        "layers": "parallel: every reconstruction is of clean activations",
        "interventions": list(INTERVENTIONS),
    }
    return CrossEntropyScores(splice.scores(), facts)


def model_of(store: ActivationStore, settings: SpliceSettings) -> LmSettings:
    """Return how to load the language model that is asked.

    Raises:
        ConfigError: The store does not say which one it is of, and no other is named.
    """
    return store.language_model(settings.lm, field="splice.lm")


def is_the_stores(model: LanguageModel, subject: Subject, progress: Progress) -> bool | None:
    """Return whether a model has the weights that made the store, None if it is not recorded."""
    known = _fingerprint(subject)
    if known is None:
        progress.note("the store does not say which weights it was made with")
        return None
    same = model.fingerprint == known
    if not same:
        progress.note("its weights are not those the store was made with")
    return same


def _forward(
    splice: Splice,
    store: ActivationStore,
    chosen: Int64[np.ndarray, " context"],
    settings: SpliceSettings,
    progress: Progress,
) -> None:
    """Run the chosen contexts, a few at a time."""
    contexts, whole = store.contexts(), WholeContexts(store)
    with progress.task("cross-entropy", total=len(chosen), unit="context") as task:
        for start in range(0, len(chosen), settings.forward_contexts):
            stretches = [
                (int(first), int(first + length))
                for first, length in contexts[chosen[start : start + settings.forward_contexts]]
            ]
            splice.update(
                pad(
                    [store.tokens(*stretch) for stretch in stretches],
                    [store.flags(*stretch) for stretch in stretches],
                    positions=settings.replace,
                    documents=[
                        whole.around(np.arange(*stretch)).documents for stretch in stretches
                    ],
                )
            )
            task.advance(len(stretches))


def _fingerprint(subject: Subject) -> str | None:
    """Return the digest of the weights that made the store, None if it is not recorded."""
    lm = subject.store.manifest.facts.get("lm")
    found = lm.get("fingerprint") if isinstance(lm, dict) else None
    return found if isinstance(found, str) else None


def contexts_of(subject: Subject, wanted: int) -> Int64[np.ndarray, " context"]:
    """Return contexts spread evenly over those of the split that predict a token at all."""
    lengths = subject.store.contexts()[:, 1]
    members = np.flatnonzero(subject.split & (lengths > 1))
    chosen: Int64[np.ndarray, " context"] = members[spread(len(members), wanted)]
    return chosen
