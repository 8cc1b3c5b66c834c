"""Dictionaries whose code is known, and analyses whose every number can be computed by hand."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from pydantic import BaseModel
from torch import Tensor

from saestore import analyze, dictionaries
from saestore.activations import ActivationStore
from saestore.dictionaries import SparseDictionary
from saestore.lake import Lake, Ref, manifest as manifests
from saestore.lake.lock import writing
from saestore.testing.stores import HOOKPOINT, VOCABULARY, synthetic_store
from saestore_schemas.activations import FLAG_IGNORED, FLAG_SPECIAL
from saestore_schemas.analyze import AnalyzeSettings
from saestore_schemas.dictionary import AbsTopK, Activation, Relu
from saestore_schemas.families import SaeSettings
from saestore_schemas.manifest import Parent
from saestore_schemas.optimize import OptimizerSettings
from saestore_schemas.train import (
    ActivationsSettings,
    BudgetSettings,
    InitSettings,
    TrainSettings,
)


DICTIONARY = "planted/relu"
"""The dictionary whose code is the rows themselves."""


def synthetic_dictionary(
    lake: Lake,
    name: str,
    store: ActivationStore,
    *,
    activation: Activation,
    encoder: Float32[Tensor, "d_in d_sae"] | None = None,
    decoder: Float32[Tensor, "d_sae d_in"] | None = None,
    d_sae: int | None = None,
    seed: int = 0,
) -> Ref:
    """Write a finished SAE that was never trained: random, or with given weights.

    Args:
        lake: Where.
        name: `series/name`.
        store: What it says it was trained on.
        activation: Activation function.
        encoder: Encoder; absent, random.
        decoder: Decoder; absent, random.
        d_sae: Features, unless weights are given.
        seed: Of random weights.
    """
    hookpoint = next(iter(store.hookpoints))
    size = d_sae if encoder is None else encoder.shape[1]
    settings = SaeSettings(
        hookpoint=hookpoint,
        d_sae=size,
        activation=activation,
        scale="none",
        subtract_b_dec=False,
        decoder_norm="free",
    )
    series, own = name.split("/")
    training = TrainSettings(
        series=series,
        name=own,
        activations=ActivationsSettings(name=store.ref.name),
        dictionary=settings,
        budget=BudgetSettings(epochs=1.0),
        optimizer=OptimizerSettings(lr=1e-3),
    )
    dictionary = dictionaries.build(
        settings,
        widths={h: info.width for h, info in store.hookpoints.items()},
        moments={h: store.moments(h) for h in store.hookpoints},
        init=InitSettings(),
        seed=seed,
    )
    with torch.no_grad():
        for parameter, given in (("encoder", encoder), ("W_dec", decoder)):
            if given is not None:
                value = given.T if parameter == "encoder" else given
                dictionary.get_parameter(parameter).copy_(value)
    return write_dictionary(
        lake, name, dictionary, training, parents=[manifests.parent_of(store.manifest)]
    )


def write_dictionary(
    lake: Lake,
    name: str,
    dictionary: SparseDictionary,
    settings: BaseModel,
    parents: Sequence[Parent] = (),
) -> Ref:
    """Write a dictionary as finished.

    Args:
        lake: Where.
        name: `series/name`.
        dictionary: The dictionary.
        settings: What its manifest says made it.
        parents: From what.
    """
    ref = Ref("dictionary", name)
    run = manifests.Run.of(ref, settings, parents)
    artefact = lake.artefact(ref)
    with writing(artefact, name=name):
        if manifests.begin(artefact, run) is None:
            dictionaries.save(dictionary, artefact)
            manifests.finish(artefact, run, arrays={}, counts={}, facts={})
    return ref


@dataclass(frozen=True)
class Planted:
    """What a planted analysis was made from: the oracle of every table.

    Attributes:
        values: Dense activations, one column a feature; 0 where silent or masked.
        tokens: Token of each row.
        kept: Whether the row is analysed.
        lengths: Rows of each context.
    """

    values: Float32[np.ndarray, "row d_sae"]
    tokens: Int64[np.ndarray, " row"]
    kept: Bool[np.ndarray, " row"]
    lengths: Int64[np.ndarray, " context"]

    @property
    def context(self) -> Int64[np.ndarray, " row"]:
        """Context of each row."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @property
    def position(self) -> Int64[np.ndarray, " row"]:
        """Position of each row in its context."""
        starts = np.cumsum(self.lengths) - self.lengths
        position: np.ndarray = np.arange(len(self.tokens)) - np.repeat(starts, self.lengths)
        return position


def plant(*, seed: int = 0, contexts: int = 40, d_sae: int = 9, signed: bool = False) -> Planted:
    """Return activations with everything that goes wrong: every oracle runs on them.

    Feature 0 never fires, feature 1 fires on every kept row, feature 2 has few distinct values, so
    its maximum is tied within and between contexts, feature 3 fires once; the others are sparse at
    unequal rates. Contexts are ragged, some of one token, some masked whole, and accented
    characters are split between tokens. If `signed`, about half of the values are below zero.
    """
    rng = np.random.default_rng((seed, 7))
    lengths = rng.integers(1, 13, contexts)
    lengths[:3] = 1
    rows = int(lengths.sum())
    starts = np.cumsum(lengths) - lengths
    # few distinct tokens tie for the most frequent one; the last two are halves of a character
    tokens = rng.choice([1, 2, 3, 5, 8, VOCABULARY - 2, VOCABULARY - 1], rows)
    tokens[starts] = np.where(rng.random(contexts) < 0.7, 0, tokens[starts])
    values = rng.lognormal(size=(rows, d_sae)).astype(np.float32)
    values[rng.random((rows, d_sae)) > np.linspace(0.02, 0.6, d_sae)] = 0
    values[:, 0] = 0
    values[:, 1] = rng.random(rows).astype(np.float32) + np.float32(0.1)
    values[:, 2] = rng.choice([0, 0, 0, 0.5, 1.0], rows).astype(np.float32)
    values[:, 3] = 0
    values[rows // 2, 3] = 2.5
    kept = (tokens != 0) & (rng.random(rows) > 0.1)
    kept[starts[5] : starts[5] + lengths[5]] = False
    kept[rows // 2] = True
    tokens[rows // 2] = 3
    values[~kept] = 0
    if signed:
        values *= rng.choice(np.array([-1, 1], np.float32), values.shape)
    return Planted(values, tokens, kept, lengths)


def planted_analysis(
    lake: Lake,
    *,
    planted: Planted | None = None,
    settings: AnalyzeSettings | None = None,
) -> tuple[Ref, Planted]:
    """Analyse planted activations through the real verb; return the analysis and its oracle.

    The dictionary is the identity with ReLU, or AbsTopK where some values are below zero: its code is
    the rows.

    Args:
        lake: Where.
        planted: The activations; absent, `plant()`.
        settings: Settings; absent, the defaults without logits.
    """
    known = planted or plant()
    flags: UInt8[np.ndarray, " row"] = np.where(known.kept, 0, FLAG_IGNORED).astype(np.uint8)
    flags[known.tokens == 0] = FLAG_SPECIAL
    # masked rows hold activations too: they must not fire
    rows = np.where(known.kept[:, None], known.values, np.float32(3.0))
    store = synthetic_store(
        lake,
        "planted",
        values={HOOKPOINT: rows.astype(np.float32)},
        tokens=known.tokens,
        flags=flags,
        lengths=known.lengths,
    )
    width = known.values.shape[1]
    eye = torch.eye(width)
    activation = AbsTopK(k=width) if (known.values < 0).any() else Relu()
    synthetic_dictionary(lake, DICTIONARY, store, activation=activation, encoder=eye, decoder=eye)
    chosen = settings or AnalyzeSettings(dictionary=DICTIONARY, logits=None)
    return analyze.run(chosen, lake, device="cpu"), known
