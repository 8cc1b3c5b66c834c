"""Which contexts trained a dictionary, as the verbs after training ask for them.

A dictionary names its stores as parents. Contexts are read from a store that has them whole: training on
a scattered copy is training on its original's, and the same ones are held out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from pydantic import JsonValue, ValidationError
from typing_extensions import override

from saestore.activations.joined import JoinedStore
from saestore.activations.store import ActivationStore
from saestore.errors import ArtefactNotFoundError, ConfigError
from saestore.lake import Lake
from saestore_schemas.activations import HeadSettings, RowRange
from saestore_schemas.manifest import Parent
from saestore_schemas.train import ActivationsSettings


Ranges = list[RowRange | None]
"""Ranges of a store's rows; None is all of them."""


@runtime_checkable
class Made(Protocol):
    """What an artefact says it was made from, finished or not."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def settings(self) -> dict[str, JsonValue]:
        """The settings of its verb."""
        ...

    @property
    def parents(self) -> tuple[Parent, ...]:
        """What it was made from."""
        ...


def trained_on(lake: Lake, dictionary: Made) -> dict[str, Ranges]:
    """Return the stores whose contexts trained a dictionary, and which of their rows.

    The range of a scattered copy is widened to whole shards, in which its rows are permuted.

    Args:
        lake: Where the stores lie; one that does not is taken as it is named.
        dictionary: Manifest of the dictionary, or what it will say.
    """
    taken = _taken(dictionary)
    found: dict[str, Ranges] = {}
    for parent in dictionary.parents:
        if parent.kind == "activations":
            store, shard = _original(lake, parent.name)
            ranges = taken.get(parent.name, [None])
            if shard is not None:
                ranges = [r and (r[0] // shard * shard, -(-r[1] // shard) * shard) for r in ranges]
            found.setdefault(store, []).extend(ranges)
    return found


@dataclass(frozen=True)
class Place:
    """What is read for a dictionary: a store, or hookpoints of several.

    Attributes:
        store: The store; None where there are heads.
        heads: Hookpoints of several stores.
    """

    store: str | None
    heads: tuple[HeadSettings, ...] = ()

    @classmethod
    def of(
        cls,
        lake: Lake,
        dictionary: Made,
        store: str | None = None,
        heads: tuple[HeadSettings, ...] = (),
    ) -> "Place":
        """Return what is named, or else what a dictionary was trained on.

        Args:
            lake: Where the stores lie.
            dictionary: Manifest of the dictionary, or what it will say.
            store: A store.
            heads: Hookpoints of several stores.

        Raises:
            ConfigError: Nothing is named, and it was trained on no store, or a mix.
        """
        if store is not None:
            return cls(store)
        heads = heads or heads_of(dictionary)
        return cls(None, heads) if heads else cls(only_store(lake, dictionary))

    @override
    def __str__(self) -> str:
        """Return the names of the stores."""
        return self.store or " + ".join(dict.fromkeys(head.store for head in self.heads))

    def open(self, lake: Lake, dictionary: Made) -> ActivationStore:
        """Return it for reading.

        Stores that the dictionary was trained on side by side were compared then, and are not again.

        Raises:
            ArtefactNotFoundError: No such store.
            HookpointNotFoundError: A store lacks the hookpoint of a head.
            ConfigError: The stores of the heads do not hold the same tokens.
        """
        if self.store is not None:
            return ActivationStore.open(lake, self.store)
        joined = JoinedStore.of(lake, self.heads, compared=True)
        if set(joined.parents) <= set(dictionary.parents):
            return joined
        return JoinedStore.of(lake, self.heads)


def with_contexts(
    lake: Lake, name: str, rows: RowRange | None, heads: Sequence[HeadSettings] = ()
) -> tuple[ActivationStore, RowRange | None]:
    """Return the store that has the contexts of another whole, itself or its original, and the rows.

    The range of a scattered copy is widened to whole shards, in which its rows are permuted.

    Args:
        lake: Where the stores lie.
        name: A store.
        rows: A range of its rows.
        heads: Hookpoints of it and of others that are read with them, found to hold the same tokens.

    Raises:
        ArtefactNotFoundError: No such store.
    """
    if heads:
        return JoinedStore.of(lake, heads, compared=True), rows
    store = ActivationStore.open(lake, name)
    if not store.record.scattered:
        return store, rows
    shard = store.spec.shard_rows
    original = ActivationStore.open(lake, store.manifest.parents[0].name)
    if rows is None:
        return original, None
    stop = min(-(-rows[1] // shard) * shard, original.n_rows)
    return original, (rows[0] // shard * shard, stop)


def only_store(lake: Lake, dictionary: Made) -> str:
    """Return the one store whose contexts trained a dictionary.

    Raises:
        ConfigError: There is none, or there are several.
    """
    stores = list(trained_on(lake, dictionary))
    if len(stores) == 1:
        return stores[0]
    raise ConfigError(
        field="activations",
        found=None,
        expected="the name of an activation store",
        hint=f"{dictionary.name} was trained on a mix of {', '.join(stores)}: say which to use"
        if stores
        else f"{dictionary.name} names no store it was trained on: say which to use",
    )


def _taken(dictionary: Made) -> dict[str, Ranges]:
    """Return the ranges that training took of each store it named."""
    settings = _settings(dictionary)
    taken: dict[str, Ranges] = {}
    if settings is not None:
        for source in settings.mixed:
            taken.setdefault(source.name, []).append(source.rows)
        for head in settings.heads:
            taken[head.store] = [settings.rows]
    return taken


def heads_of(dictionary: Made) -> tuple[HeadSettings, ...]:
    """Return the heads that training read; none where it read one store, or a mix."""
    settings = _settings(dictionary)
    return () if settings is None else settings.heads


def _settings(dictionary: Made) -> ActivationsSettings | None:
    try:
        return ActivationsSettings.model_validate(dictionary.settings.get("activations"))
    except ValidationError:  # not made by `train`
        return None


def _original(lake: Lake, name: str) -> tuple[str, int | None]:
    """Return the store with the contexts, and the rows of a shard if the named one is a copy."""
    try:
        store = ActivationStore.open(lake, name)
    except ArtefactNotFoundError:
        return name, None
    if not store.record.scattered:
        return name, None
    return store.manifest.parents[0].name, store.spec.shard_rows
