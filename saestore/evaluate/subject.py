"""What is evaluated: a dictionary, a store, and the contexts of one split."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from saestore.activations import ActivationStore, Ranges, held_out, only_store, trained_on
from saestore.dictionaries import SparseDictionary, load
from saestore.errors import ConfigError, HookpointNotFoundError
from saestore.lake import Lake, Ref
from saestore_schemas.dictionary import DictionaryConfig
from saestore_schemas.evaluate import EvaluateSettings
from saestore_schemas.manifest import Manifest


@dataclass(frozen=True)
class Subject:
    """One dictionary on one store.

    Attributes:
        dictionary: The dictionary, on the CPU.
        dictionary_manifest: Its manifest.
        store: The activation store.
        held_out: Share of contexts its training left out; 0 when the store is not its own.
        split: Which contexts may be used.
    """

    dictionary: SparseDictionary
    dictionary_manifest: Manifest
    store: ActivationStore
    held_out: float
    split: Bool[np.ndarray, " context"]


def open_subject(settings: EvaluateSettings, lake: Lake) -> Subject:
    """Return what the settings name.

    Raises:
        ArtefactNotFoundError: No such dictionary or store.
        HookpointNotFoundError: The store lacks a hookpoint of the dictionary.
        ConfigError: The split cannot be told, or has no contexts.
    """
    manifest = lake.manifest(Ref("dictionary", settings.dictionary))
    dictionary = load(lake, settings.dictionary)
    name = settings.activations or only_store(lake, manifest)
    store = ActivationStore.open(lake, name)
    for hookpoint in (*dictionary.hookpoints_in, *dictionary.hookpoints_out):
        if hookpoint not in store.hookpoints:
            raise HookpointNotFoundError(
                pattern=hookpoint, where=f"store {name!r}", known=tuple(store.hookpoints)
            )
    seen = trained_on(lake, manifest).get(name)
    share = None if seen is None else _share(dictionary.config)
    split = _split(settings, store, share, seen or [None])
    return Subject(dictionary, manifest, store, share or 0.0, split)


def _share(config: DictionaryConfig) -> float | None:
    """Return the share of contexts that training held out, None when it is not recorded."""
    if config.train is None:
        return None
    activations = config.train.settings.get("activations")
    share = activations.get("held_out") if isinstance(activations, dict) else None
    return float(share) if isinstance(share, (int, float)) else None


def _split(
    settings: EvaluateSettings, store: ActivationStore, share: float | None, seen: Ranges
) -> Bool[np.ndarray, " context"]:
    n_contexts = store.n_contexts
    if settings.split == "all":
        return np.ones(n_contexts, np.bool_)
    if share is None:
        raise ConfigError(
            field="split",
            found=settings.split,
            expected="'all' for a store the dictionary was not trained on",
            hint="only the training run's own stores have held-out contexts: set split = 'all'",
        )
    unseen = held_out(n_contexts, share)
    split: Bool[np.ndarray, " context"] = unseen if settings.split == "held_out" else ~unseen
    if settings.split == "train":
        split &= _within(store, seen)
    if not split.any():
        raise ConfigError(
            field="split",
            found=settings.split,
            expected="a split with contexts in it",
            hint=f"training held out {share:g} of {n_contexts} contexts, which left none here: "
            "set split = 'all'",
        )
    return split


def _within(store: ActivationStore, ranges: Ranges) -> Bool[np.ndarray, " context"]:
    """Return which contexts have rows in one of some ranges."""
    contexts = store.contexts()
    first, end = contexts[:, 0], contexts.sum(axis=1)
    found = np.zeros(len(contexts), np.bool_)
    for start, stop in (each or (0, store.n_rows) for each in ranges):
        found |= (first < stop) & (end > start)
    return found
