"""Hookpoints of several stores of the same tokens, as those of one store.

Row `n` of every store is the same token of the same context, so one choice of rows, one order and one
window serve them all: whoever reads a store reads this as one. A hookpoint is called by the name of its
head. Contexts, tokens, flags and documents are those of the first head's store, which has the same.

Types, chunks and shards of the stores may differ. The price is one of reading: units are as long as
the longest chunk of all, and a fill touches a file of each.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float32, Int64, Shaped
from typing_extensions import override

from saestore.activations.layout import ArraySpec
from saestore.activations.moments import Moments
from saestore.activations.reading import Located, Read
from saestore.activations.same_tokens import same_tokens
from saestore.activations.store import ActivationStore
from saestore.errors import ConfigError, UnsupportedError
from saestore.lake import Lake, layout
from saestore_schemas.activations import HeadSettings, RowCapture
from saestore_schemas.lm import LmSettings
from saestore_schemas.manifest import Parent


class JoinedStore(ActivationStore):
    """The heads' hookpoints, read from the stores they lie in.

    Attributes:
        heads: Where the rows of each lie: the store, and the name of the hookpoint there.
    """

    def __init__(self, lake: Lake, heads: Mapping[str, tuple[ActivationStore, str]]) -> None:
        """Join stores that were found to hold the same tokens; see `open`.

        Raises:
            HookpointNotFoundError: A store lacks the hookpoint of one of its heads.
        """
        first, _ = next(iter(heads.values()))
        super().__init__(lake.artefact(first.ref), first.ref, first.manifest)
        self.heads = dict(heads)
        self._routes: dict[str, tuple[ActivationStore, str]] = {}
        arrays: dict[str, ArraySpec] = {}
        for head, (store, hookpoint) in heads.items():
            arrays[layout.hook_array(head)] = store.arrays[store.array_of(hookpoint)]
            self._routes[layout.hook_array(head)] = (store, layout.hook_array(hookpoint))
            if store.hookpoints[hookpoint].dtype == "int8":
                there = layout.scale_array(hookpoint)
                arrays[layout.scale_array(head)] = store.arrays[there]
                self._routes[layout.scale_array(head)] = (store, there)
        self.hookpoints = {h: store.hookpoints[name] for h, (store, name) in heads.items()}
        own = {path: self.arrays[path] for path in (layout.TOKENS, layout.FLAGS)}
        self.arrays = {**arrays, **own}

    @classmethod
    def of(
        cls, lake: Lake, heads: Sequence[HeadSettings], *, compared: bool = False
    ) -> "JoinedStore":
        """Return the heads' hookpoints as those of one store.

        Args:
            lake: Where the stores lie.
            heads: Which hookpoint of which store each is.
            compared: Whether it is known already that the stores hold the same tokens.

        Raises:
            ArtefactNotFoundError: A store is not there.
            HookpointNotFoundError: A store lacks the hookpoint of one of its heads.
            ConfigError: The stores differ in tokens, contexts, flags or vocabulary, or one is a
                scattered copy.
        """
        names = dict.fromkeys(head.store for head in heads)
        stores = {name: ActivationStore.open(lake, name) for name in names}
        for head in heads:
            stores[head.store].array_of(head.hookpoint)
        _refuse_scattered(stores)
        if not compared:
            _refuse_unequal(list(stores.values()))
        return cls(lake, {head.called: (stores[head.store], head.hookpoint) for head in heads})

    @property
    def stores(self) -> tuple[ActivationStore, ...]:
        """Every store, once, in the order of the heads."""
        return tuple({store.ref.name: store for store, _ in self.heads.values()}.values())

    @property
    @override
    def parents(self) -> tuple[Parent, ...]:
        """How what is made of its rows names it: all stores."""
        return tuple(parent for store in self.stores for parent in store.parents)

    @override
    def home(self, hookpoint: str) -> tuple[ActivationStore, str]:
        """Return the store that holds a head's rows, and what its hookpoint is called there."""
        self.array_of(hookpoint)
        return self.heads[hookpoint]

    @override
    def language_model(self, other: str | None, *, field: str) -> LmSettings:
        """Return how to load the language model behind all stores.

        Raises:
            ConfigError: They are of several, or of none that is known.
        """
        found = [store.language_model(other, field=field) for store in self.stores]
        if any(each != found[0] for each in found):
            models = {s.ref.name: lm.model for s, lm in zip(self.stores, found, strict=True)}
            raise ConfigError(
                field=field,
                found=models,
                expected="heads in stores of one language model",
                hint=f"remove {field.partition('.')[0]}: between different models it says nothing",
            )
        return found[0]

    @property
    @override
    def captures(self) -> tuple[RowCapture, ...]:
        """What each row has beside its activations in any of the stores, which are of one language model.

        Of several models there is none: each has a number of its own.
        """
        first = self.stores[0]
        if not all(store.fits_model_of(first) for store in self.stores):
            return ()
        return tuple(dict.fromkeys(name for store in self.stores for name in store.captures))

    @override
    def captured(
        self, name: RowCapture, start: int = 0, stop: int | None = None
    ) -> Float32[np.ndarray, " row"]:
        """Return what rows start to stop have beside their activations.

        Raises:
            UnsupportedError: No store has it, or they are of several language models.
        """
        holding = [store for store in self.stores if name in store.captures]
        if holding and name not in self.captures:
            raise UnsupportedError(
                f"a row has a {name} of its own in each of several language models",
                found=", ".join(store.ref.name for store in self.stores),
                expected="stores of one language model",
                hint=f"ask without what needs {name}",
            )
        return (holding or self.stores)[0].captured(name, start, stop)

    @override
    def read(self, hookpoint: str, start: int, stop: int) -> Float32[np.ndarray, "row d"]:
        """Return rows start to stop of a head."""
        store, there = self.home(hookpoint)
        return store.read(there, start, stop)

    @override
    def decode(
        self,
        hookpoint: str,
        stored: Shaped[np.ndarray, "row d"],
        start: int,
        *,
        out: Float32[np.ndarray, "row d"] | None = None,
    ) -> Float32[np.ndarray, "row d"]:
        """Return what consecutive stored rows of a head stand for."""
        store, there = self.home(hookpoint)
        return store.decode(there, stored, start, out=out)

    @override
    def scales(self, hookpoint: str, start: int, stop: int) -> Float32[np.ndarray, " row"]:
        """Return the scales of rows of a head in an int8 store."""
        store, there = self.home(hookpoint)
        return store.scales(there, start, stop)

    @override
    def deviations(self, hookpoint: str) -> Float32[np.ndarray, " d"]:
        """Return by what an int8 store divides each dimension of a head."""
        store, there = self.home(hookpoint)
        return store.deviations(there)

    @override
    def shard_moments(self, hookpoint: str) -> list[Moments]:
        """Return a head's moments over the kept rows of each shard of its store."""
        store, there = self.home(hookpoint)
        return store.shard_moments(there)

    @override
    def read_many(self, reads: Iterable[Read]) -> None:
        """Read several ranges of rows, each from the store it lies in."""
        own: list[Read] = []
        others: dict[str, tuple[ActivationStore, list[Read]]] = {}
        for path, start, stop, out in reads:
            if path not in self._routes:
                own.append((path, start, stop, out))
                continue
            store, there = self._routes[path]
            others.setdefault(store.ref.name, (store, []))[1].append((there, start, stop, out))
        if own:
            super().read_many(own)
        for store, wanted in others.values():
            store.read_many(wanted)

    @override
    def direct(self, path: str) -> bool:
        """Return whether `located` means something for an array."""
        if path not in self._routes:
            return super().direct(path)
        store, there = self._routes[path]
        return store.direct(there)

    @override
    def located(self, path: str, starts: Int64[np.ndarray, " unit"], unit_rows: int) -> Located:
        """Return where the chunks of units of rows lie."""
        if path not in self._routes:
            return super().located(path, starts, unit_rows)
        store, there = self._routes[path]
        return store.located(there, starts, unit_rows)

    @override
    def read_chunk(self, path: str, chunk: int) -> Shaped[np.ndarray, "row ..."]:
        """Return one chunk of a row array as stored."""
        if path not in self._routes:
            return super().read_chunk(path, chunk)
        store, there = self._routes[path]
        return store.read_chunk(there, chunk)


def _refuse_scattered(stores: Mapping[str, ActivationStore]) -> None:
    for name, store in stores.items():
        if store.record.scattered:
            raise ConfigError(
                field="activations.heads",
                found=f"{name}, a scattered copy",
                expected="stores in the order in which they were generated",
                hint=f"use the store it was made from: {store.manifest.parents[0].name}",
            )


def _refuse_unequal(stores: Sequence[ActivationStore]) -> None:
    """Refuse stores whose row `n` is not the same token of the same context, kept or not in all."""
    for each in same_tokens(stores).compared:
        for difference in each.differences:
            if difference.apart or difference.part == "flags":
                raise ConfigError(
                    field="activations.heads",
                    found=f"{each.beside} and {each.store}, whose {difference.part} differ "
                    f"({difference.count} of {difference.total}): {difference.first}",
                    expected="stores with the same tokens, contexts and flags row by row",
                    hint="generate them from one corpus, with the same tokenizer, context_size and "
                    f"ignore_tokens; compare with `saestore verify --same-tokens {each.beside} "
                    f"{each.store}`",
                )
