"""The scores that need the language model: a few contexts, four forward passes each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from pydantic import JsonValue
from torch import Tensor

from saestore.activations import ActivationStore, Host, WholeContexts, hosts_of
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

    Contexts keep the store's tokens and flags, so BOS is where generate put it. Heads in several
    language models are replaced in each by itself, and its scores bear their names.

    Args:
        subject: Dictionary, store and split.
        settings: How many contexts, how many at once, which models.
        means: Mean of the evaluated rows of each reconstructed hookpoint.
        load_model: Returns the language model of some settings.
        progress: Where to report.

    Raises:
        ConfigError: A store does not say which model it is of, and no other is named.
    """
    scores: list[Score] = []
    facts: dict[str, JsonValue] = {}
    for host in hosts(subject, settings):
        found = _in_one(subject, host, settings, means, load_model, progress)
        if not host.label:
            return found
        scores += [replace(each, metric=f"{each.metric}@{host.label}") for each in found.scores]
        facts[host.label] = found.facts
    return CrossEntropyScores(scores, facts)


def hosts(subject: Subject, settings: SpliceSettings) -> list[Host]:
    """Return the language models that are asked; see `hosts_in`."""
    reads, writes = subject.dictionary.hookpoints_in, subject.dictionary.hookpoints_out
    return hosts_in(subject.store, reads, writes, settings)


def hosts_in(
    store: ActivationStore,
    reads: Sequence[str],
    writes: Sequence[str],
    settings: SpliceSettings,
    *,
    section: str = "splice",
) -> list[Host]:
    """Return the language models in which hookpoints are replaced.

    Args:
        store: Where the rows lie.
        reads: What the dictionary reads.
        writes: What it reconstructs.
        settings: Which models, if they are others.
        section: Where these settings stand, for errors.

    Raises:
        ConfigError: A store does not say which one it is of, and no other is named.
        HookpointNotFoundError: What is to be replaced is not reconstructed.
    """
    chosen = settings.hookpoints
    return hosts_of(store, reads, writes, lm=settings.lm, field=f"{section}.lm", chosen=chosen)


def _in_one(
    subject: Subject,
    host: Host,
    settings: SpliceSettings,
    means: Mapping[str, Float64[np.ndarray, " d"]],
    load_model: Callable[[LmSettings], LanguageModel],
    progress: Progress,
) -> CrossEntropyScores:
    """Return the scores of one language model."""
    progress.note(f"loading {host.lm.model}")
    model = load_model(host.lm)
    same = is_the_stores(model, host.store, progress)
    dictionary = subject.dictionary.to(model.device)
    beside = [hook for hook in dictionary.hookpoints_in if hook not in host.names]
    splice = Splice(
        model,
        reads=[hook for hook in dictionary.hookpoints_in if hook in host.names],
        reconstruct=dictionary.reconstruct,
        means={
            hook: torch.from_numpy(means[hook]).float().to(model.device) for hook in host.writes
        },
        whole=dictionary.reads_contexts,
        named=host.names,
    )
    chosen = contexts_of(subject, settings.contexts)
    _forward(splice, subject, chosen, settings, beside, progress)
    facts: dict[str, JsonValue] = {
        "model": model.name,
        "model_fingerprint": model.fingerprint,
        "model_is_the_stores": same,
        "forward_dtype": str(model.dtype).removeprefix("torch."),
        "contexts": len(chosen),
        "predictions": splice.predictions,
        "replaced": splice.replaced,
        "replaced_hookpoints": list(host.writes),
        "stored_rows_of": list(beside),
        "positions": _POSITIONS[settings.replace],
        "counted": "predictions made from kept positions",
        "mean": "of the evaluated rows",
        "layers": "parallel: every reconstruction is of clean activations",
        "interventions": list(INTERVENTIONS),
    }
    return CrossEntropyScores(splice.scores(), facts)


def is_the_stores(model: LanguageModel, store: ActivationStore, progress: Progress) -> bool | None:
    """Return whether a model has the weights that made a store, None if it is not recorded."""
    known = store.weights_fingerprint
    if known is None:
        progress.note("the store does not say which weights it was made with")
        return None
    same = model.fingerprint == known
    if not same:
        progress.note("its weights are not those the store was made with")
    return same


def _forward(
    splice: Splice,
    subject: Subject,
    chosen: Int64[np.ndarray, " context"],
    settings: SpliceSettings,
    beside: Sequence[str],
    progress: Progress,
) -> None:
    """Run the chosen contexts, a few at a time, with the stored rows of other models beside them."""
    store = subject.store
    contexts, whole = store.contexts(), WholeContexts(store)
    with progress.task("cross-entropy", total=len(chosen), unit="context") as task:
        for start in range(0, len(chosen), settings.forward_contexts):
            stretches = [
                (int(first), int(first + length))
                for first, length in contexts[chosen[start : start + settings.forward_contexts]]
            ]
            batch = pad(
                [store.tokens(*stretch) for stretch in stretches],
                [store.flags(*stretch) for stretch in stretches],
                positions=settings.replace,
                documents=[whole.around(np.arange(*stretch)).documents for stretch in stretches],
            )
            read = slice(None) if subject.dictionary.reads_contexts else batch.around.wanted
            stored = {hook: _stored(store, hook, stretches)[read] for hook in beside}
            splice.update(batch, stored)
            task.advance(len(stretches))


def _stored(
    store: ActivationStore, hook: str, stretches: Sequence[tuple[int, int]]
) -> Float[Tensor, "row _"]:
    """Return the stored rows of some contexts, one after the other."""
    return torch.from_numpy(np.concatenate([store.read(hook, *each) for each in stretches]))


def contexts_of(subject: Subject, wanted: int) -> Int64[np.ndarray, " context"]:
    """Return contexts spread evenly over those of the split that predict a token at all."""
    lengths = subject.store.contexts()[:, 1]
    members = np.flatnonzero(subject.split & (lengths > 1))
    chosen: Int64[np.ndarray, " context"] = members[spread(len(members), wanted)]
    return chosen
