"""What is evaluated: a dictionary or a checkpoint, a store, and the contexts of one split."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool

from saestore.activations import ActivationStore, Place, Ranges, held_out, trained_on
from saestore.dictionaries import SparseDictionary, load
from saestore.errors import ConfigError, HookpointNotFoundError
from saestore.lake import Lake
from saestore.lake.checkpoint import Made
from saestore_schemas.evaluate import EvaluateSettings


@dataclass(frozen=True)
class Subject:
    """One dictionary on one store.

    Attributes:
        dictionary: The dictionary.
        store: The activation store.
        held_out: Share of contexts its training left out; 0 when the store is not its own.
        split: Which contexts may be used.
    """

    dictionary: SparseDictionary
    store: ActivationStore
    held_out: float
    split: Bool[np.ndarray, " context"]


def open_subject(settings: EvaluateSettings, lake: Lake) -> Subject:
    """Return what the settings name.

    Raises:
        ArtefactNotFoundError: No such dictionary or store.
        HookpointNotFoundError: The store lacks a hookpoint of the dictionary.
        ConfigError: The split cannot be told, or has no contexts; or stores of heads hold other tokens.
    """
    dictionary = load(lake, settings.dictionary)
    place = place_of(settings, lake)
    store = place.open(lake, Made.of(settings.dictionary, lake))
    for hookpoint in (*dictionary.hookpoints_in, *dictionary.hookpoints_out):
        if hookpoint not in store.hookpoints:
            raise HookpointNotFoundError(
                pattern=hookpoint, where=f"store {str(place)!r}", known=tuple(store.hookpoints)
            )
    trained = Trained.of(settings.dictionary, store, lake)
    others = [Trained.of(other, store, lake) for other in settings.beside]
    split = _split(settings, store, [trained, *others])
    return Subject(dictionary, store, 0.0 if trained is None else trained.share, split)


def place_of(settings: EvaluateSettings, lake: Lake) -> Place:
    """Return what an evaluation reads.

    Raises:
        ArtefactNotFoundError: No such dictionary.
        ConfigError: It is not said and cannot be told.
    """
    made = Made.of(settings.dictionary, lake)
    return Place.of(lake, made, settings.activations, settings.heads)


def same_split(wanted: Sequence[EvaluateSettings], lake: Lake) -> bool:
    """Return whether evaluations of one store use the same contexts of it, whatever is beside them."""
    store = place_of(wanted[0], lake).open(lake, Made.of(wanted[0].dictionary, lake))
    trained = [Trained.of(each.dictionary, store, lake) for each in wanted]
    return wanted[0].split == "all" or len(set(trained)) == 1


@dataclass(frozen=True)
class Trained:
    """What a dictionary's training did with a store.

    Attributes:
        share: Share of its contexts that were held out.
        ranges: Ranges of rows it read; None for all.
    """

    share: float
    ranges: tuple[tuple[int, int] | None, ...]

    @classmethod
    def of(cls, name: str, store: ActivationStore, lake: Lake) -> "Trained | None":
        """Return it, or None when the dictionary was not trained on the store.

        Raises:
            ArtefactNotFoundError: No such dictionary.
        """
        made = Made.of(name, lake)
        known = trained_on(lake, made)
        named = [each.name for each in store.parents if each.name in known]
        ranges = known[named[0]] if named else None
        share = _share(made)
        return None if ranges is None or share is None else cls(share, tuple(ranges or [None]))

    def split(
        self, split: Literal["held_out", "train"], store: ActivationStore
    ) -> Bool[np.ndarray, " context"]:
        """Return which contexts it never saw, or saw."""
        unseen: Bool[np.ndarray, " context"] = held_out(store.n_contexts, self.share)
        return unseen if split == "held_out" else ~unseen & _within(store, list(self.ranges))


def _share(made: Made) -> float | None:
    """Return the share of contexts that training held out, None when it is not recorded."""
    activations = made.settings.get("activations")
    share = activations.get("held_out") if isinstance(activations, dict) else None
    return float(share) if isinstance(share, (int, float)) else None


def _split(
    settings: EvaluateSettings, store: ActivationStore, trained: Sequence[Trained | None]
) -> Bool[np.ndarray, " context"]:
    """Return the contexts in the split of every dictionary that was trained on the store."""
    split = np.ones(store.n_contexts, np.bool_)
    if settings.split == "all":
        return split
    known = [each for each in trained if each is not None]
    if not known:
        raise ConfigError(
            field="split",
            found=settings.split,
            expected="'all' for a store the dictionary was not trained on",
            hint="only the training run's own stores have held-out contexts: set split = 'all'",
        )
    for each in known:
        split &= each.split(settings.split, store)
    if not split.any():
        shares = " and ".join(f"{each.share:g}" for each in dict.fromkeys(known))
        raise ConfigError(
            field="split",
            found=settings.split,
            expected="a split with contexts in it",
            hint=f"training held out {shares} of {store.n_contexts} contexts, which left none here: "
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
