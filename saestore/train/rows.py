"""The rows a run trains on: those of one store, of several mixed by weight, or of several side by side."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saestore.activations import (
    ActivationStore,
    ActivationStream,
    ContextRowStream,
    JoinedStore,
    MixedMoments,
    MixedStream,
    Moments,
    RowChoice,
    Source,
)
from saestore.activations.tensors import Form
from saestore.dictionaries import ContextRows, Contexts, contexts
from saestore.errors import ConfigError
from saestore.lake import Lake
from saestore_schemas.activations import FLAG_BITS
from saestore_schemas.dictionary import HeadRecord, ModelRecord
from saestore_schemas.manifest import Parent
from saestore_schemas.train import ActivationsSettings


_SAMPLED_AMONG = 4
"""A sample is drawn from so many times its rows, read in units from all over the store."""


class MixedSource(NamedTuple):
    """One source of a mix, as a run reports it.

    Attributes:
        name: The store.
        share: Share of the training rows that are its.
        rows: Its rows that train.
    """

    name: str
    share: float
    rows: int

    @override
    def __str__(self) -> str:
        return f"{self.name} {100 * self.share:.3g} %"


class ContextBatches:
    """The batches of a stream of rows with contexts, as what a dictionary reads."""

    def __init__(self, stream: ContextRowStream) -> None:
        self._stream = stream
        self.rows_per_epoch, self.window_rows = stream.rows_per_epoch, stream.window_rows
        self.mixing, self.inflation = stream.mixing, stream.inflation
        self.held_rows = stream.held_rows

    def state_dict(self) -> dict[str, int | str | list[int] | None]:
        """Return the position, and what the sequence depends on."""
        return self._stream.state_dict()

    def load_state_dict(self, state: Mapping[str, int | str | list[int] | None]) -> None:
        """Go to a saved position.

        Raises:
            ConfigError: It was saved by a stream of another sequence.
        """
        self._stream.load_state_dict(state)

    def __iter__(self) -> Iterator[Mapping[str, Tensor]]:
        """Return the stream itself."""
        return self

    def __next__(self) -> Mapping[str, Tensor]:
        """Return the next batch."""
        found = next(self._stream)
        return ContextRows(found.hooks, Contexts.of(found.around))


Stream = ActivationStream | MixedStream | ContextBatches


def held_rows(stream: Stream) -> int:
    """Return how many rows a stream holds in memory, at most: a window of shuffling, or some batches."""
    return stream.held_rows if isinstance(stream, ContextBatches) else stream.window_rows


@dataclass(frozen=True)
class TrainingRows:
    """Stores, and what is taken of each.

    Attributes:
        settings: Which rows.
        stores: By name, in the order of the settings; a store of two sources once. Heads are one, by
            the name of the first one's.
        contexts: Whether they come with the contexts they lie in.
    """

    settings: ActivationsSettings
    stores: Mapping[str, ActivationStore]
    contexts: bool = False

    @classmethod
    def open(
        cls,
        settings: ActivationsSettings,
        lake: Lake,
        *,
        hookpoints: Sequence[str],
        contexts: bool = False,
    ) -> "TrainingRows":
        """Return the rows that settings name.

        Args:
            settings: Which rows.
            lake: Where the stores lie.
            hookpoints: What is read of them.
            contexts: Whether they come with the contexts they lie in.

        Raises:
            ArtefactNotFoundError: No such activation store.
            HookpointNotFoundError: A store lacks one of the hookpoints.
            ConfigError: Stores of a mix are of different language models or widths, or have the same
                rows; or those of heads do not hold the same tokens.
        """
        stores = _opened(settings, lake)
        for hookpoint in hookpoints:
            for store in stores.values():
                store.array_of(hookpoint)
            widths = {n: store.hookpoints[hookpoint].width for n, store in stores.items()}
            if len(set(widths.values())) > 1:
                raise ConfigError(
                    field="activations.sources",
                    found=widths,
                    expected=f"stores in which {hookpoint} has one width",
                )
        _one_model(list(stores.values()))
        _rows_once(stores)
        return cls(settings, stores, contexts)

    @property
    def parents(self) -> list[Parent]:
        """Every store, once."""
        return [parent for store in self.stores.values() for parent in store.parents]

    @property
    def widths(self) -> dict[str, int]:
        """Width of each hookpoint of the first store."""
        first = next(iter(self.stores.values()))
        return {name: info.width for name, info in first.hookpoints.items()}

    def moments(self, hookpoint: str) -> Moments | MixedMoments:
        """Return a hookpoint's moments over rows without flags: of the store, or of the mix.

        They are those of whole stores, whatever ranges and splits training takes of them.

        Raises:
            ConfigError: A store of a mix has no such row.
            DamagedArtefactError: A file of them does not match its checksum.
        """
        parts = [self.stores[source.name].moments(hookpoint) for source in self.settings.mixed]
        if len(parts) == 1:
            return parts[0]
        return MixedMoments.of(parts, [source.weight for source in self.settings.mixed])

    def sample(
        self, hookpoints: Sequence[str], rows: int, *, seed: int
    ) -> Mapping[str, Float[Tensor, "row _"]]:
        """Return some of them at random, in raw units; all of them if there are fewer.

        Of one store they are all different; a mix gives its shares.

        Raises:
            ConfigError: See `stream`.
        """
        there = self.stream(hookpoints, seed=seed, batch_rows=1).rows_per_epoch
        taken = min(rows, there)
        stream = self.stream(
            hookpoints, seed=seed, batch_rows=taken, window_rows=_SAMPLED_AMONG * taken
        )
        return contexts.each(contexts.only(next(stream), hookpoints), lambda _, rows: rows.clone())

    def stream(
        self,
        hookpoints: Sequence[str],
        *,
        seed: int,
        batch_rows: int | None = None,
        window_rows: int | None = None,
        dtype: Form = "float32",
    ) -> Stream:
        """Return the stream of them.

        Args:
            hookpoints: What a batch holds.
            seed: Of the order.
            batch_rows: Rows of a batch; absent, as the settings say.
            window_rows: Rows mixed at once; absent, as the settings say.
            dtype: Type of the rows; with contexts, always float32.

        Raises:
            ConfigError: A range lies outside its store, a source has no row, or the weights have
                no short common measure.
        """
        chosen = self.settings
        batch_rows = batch_rows or chosen.batch_rows
        window_rows = window_rows or chosen.shuffle.window_rows
        flags = sum(FLAG_BITS[flag] for flag in set(chosen.flags))
        choices = [
            RowChoice("train", chosen.held_out, source.rows, flags) for source in chosen.mixed
        ]
        if not chosen.sources:
            (store,), (choice,) = self.stores.values(), choices
            if self.contexts:
                whole = ContextRowStream(
                    store, hookpoints, batch_rows=batch_rows, seed=seed, choice=choice
                )
                return ContextBatches(whole)
            return ActivationStream(
                store,
                hookpoints,
                batch_rows=batch_rows,
                seed=seed,
                split=choice.split,
                held_out=choice.held_out,
                rows=choice.rows,
                flags=choice.flags,
                window_rows=window_rows,
                dtype=dtype,
            )
        return MixedStream(
            [
                Source(self.stores[source.name], source.weight, choice)
                for source, choice in zip(chosen.sources, choices, strict=True)
            ],
            hookpoints,
            batch_rows=batch_rows,
            seed=seed,
            window_rows=window_rows,
            dtype=dtype,
        )

    def form_for(self, hookpoints: Sequence[str], device: torch.device) -> Form:
        """Return in which type a device is best sent rows: a GPU as they are stored, where it can."""
        stored = {
            store.hookpoints[hook].dtype for store in self.stores.values() for hook in hookpoints
        }
        alone = len(stored) == 1 and "int8" not in stored
        return "stored" if device.type == "cuda" and alone else "float32"

    def sources(self, stream: Stream) -> list[MixedSource]:
        """Return the sources of a mix, none for one store."""
        if not isinstance(stream, MixedStream):
            return []
        names = [source.name for source in self.settings.sources]
        return list(map(MixedSource, names, stream.shares, stream.source_rows))

    def model(self) -> ModelRecord | None:
        """Return the language model behind the rows; None if a store does not say, or of several."""
        found = [_model(store) for store in self._each]
        known = [each for each in found if each is not None]
        alike = all(store.fits_model_of(self._each[0]) for store in self._each)
        if len(known) < len(found) or not alike:
            return None
        fingerprints = [each.weights_fingerprint for each in known if each.weights_fingerprint]
        dtypes = dict.fromkeys(store.record.dtype for store in self._each)
        told = {"weights_fingerprint": fingerprints[0] if fingerprints else None}
        return known[0].model_copy(update={**told, "capture_dtype": ", ".join(dtypes)})

    @property
    def _each(self) -> list[ActivationStore]:
        """Every store, those of heads too."""
        return [
            part
            for store in self.stores.values()
            for part in (store.stores if isinstance(store, JoinedStore) else [store])
        ]

    def heads(self) -> dict[str, HeadRecord] | None:
        """Return where each head lies; None where hookpoints are called as in the one model."""
        (joined, *_) = self.stores.values()
        if not isinstance(joined, JoinedStore):
            return None
        found = {
            name: HeadRecord(hookpoint=hookpoint, model=_model(store))
            for name, (store, hookpoint) in joined.heads.items()
        }
        plain = all(name == head.hookpoint for name, head in found.items())
        return None if plain and self.model() is not None else found


def _opened(settings: ActivationsSettings, lake: Lake) -> dict[str, ActivationStore]:
    """Return the stores by name; those of heads, compared, as one."""
    if settings.heads:
        joined = JoinedStore.of(lake, settings.heads)
        return {joined.ref.name: joined}
    return {name: ActivationStore.open(lake, name) for name in settings.stores}


def _model(store: ActivationStore) -> ModelRecord | None:
    """Return the language model of a store; None if it does not say."""
    lm = store.record.lm
    if lm is None:
        return None  # imported, and nobody said
    return ModelRecord(
        name=lm.model,
        revision=lm.revision,
        weights_fingerprint=store.weights_fingerprint,
        processing=lm.processing,
        capture_dtype=store.record.dtype,
    )


def _rows_once(stores: Mapping[str, ActivationStore]) -> None:
    """Refuse a scattered copy beside its original, or another copy of it.

    Raises:
        ConfigError: There is one: its rows would come twice.
    """
    having: dict[str, str] = {}
    for name, store in stores.items():
        original = store.manifest.parents[0].name if store.record.scattered else name
        other = having.setdefault(original, name)
        if other != name:
            raise ConfigError(
                field="activations.sources",
                found=f"{other} and {name}, which have the rows of {original}",
                expected="stores whose rows are different",
                hint="name one of them; a weight says how often its rows come",
            )


def _one_model(stores: Sequence[ActivationStore]) -> None:
    """Refuse stores that are known to be of different language models.

    Raises:
        ConfigError: They are.
    """
    known = [(store, lm) for store in stores if (lm := store.record.lm) is not None]
    for store, lm in known[1:]:
        first, its = known[0]
        if not store.fits_model_of(first):
            raise ConfigError(
                field="activations.sources",
                found={
                    each.ref.name: f"{name.model} ({name.processing})"
                    for each, name in ((first, its), (store, lm))
                },
                expected="stores of one language model with one processing",
                hint="a dictionary belongs to one model: train one on each store, or, of stores with "
                "the same tokens, one on all by activations.heads",
            )
