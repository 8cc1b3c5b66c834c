"""What another tool's files hold, in our terms; and what a format is.

A format is one file beside this one and one line in `formats`: a reader, which says what the files
mean and what their library computes from them, and where the tool is written for, a writer. Nothing
else tests which format it is.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import torch
from jaxtyping import Float, Float32
from torch import Tensor
from typing_extensions import override

from saestore.dictionaries import SparseDictionary
from saestore.exchange.dictionaries.reference import Compute
from saestore_schemas.attention import AttentionSettings
from saestore_schemas.dictionary import L0Scope, RowScaleKind, ScaleKind
from saestore_schemas.exchange import FoldState
from saestore_schemas.gating import Gating


Normalisation: TypeAlias = ScaleKind | RowScaleKind
"""Kinds of normalisation."""


@dataclass(frozen=True)
class Meaning:
    """What the numbers of a file mean: the part of a dictionary's record that decides its codes.

    Attributes:
        activation: Activation function with its parameters, as `config.json` writes it.
        subtract_b_dec: Whether the decoder bias is subtracted before encoding.
        gate_on_decoder_norm: Whether the gate compares pre-activation times decoder length.
        scale: Normalisation of the rows, which the weights do not contain.
        a: Its factor.
        glu: Whether the encoder is a gated linear unit.
        skip: Whether a linear map of what it reads is added to what it reconstructs.
        l0_scope: What k counts over.
        ranks: How many transforms of each rank, of a family that has such.
        gating: How heads gate, of a family that has such.
        each: Factors of the normalisation that differ from hookpoint to hookpoint; `a` for others.
        layers: How many layers have features, of a family that has layers.
        attention: How features attend to earlier rows, of a family whose features do.
    """

    activation: Mapping[str, Any]
    subtract_b_dec: bool
    gate_on_decoder_norm: bool = False
    scale: Normalisation = "none"
    a: float = 1.0
    glu: bool = False
    skip: bool = False
    l0_scope: L0Scope = "row"
    ranks: Mapping[int, int] | None = None
    gating: Gating | None = None
    each: Mapping[str, float] = field(default_factory=dict)
    layers: int | None = None
    attention: AttentionSettings | None = None


@dataclass(frozen=True)
class Foreign:
    """One dictionary as another tool wrote it.

    Attributes:
        architecture: What the tool calls this kind of dictionary.
        version: Of the tool, where the files say it.
        files: What was read.
        hookpoint: What it reads, as the files spell it; None where they do not say.
        model: The language model, likewise.
        meaning: What the numbers mean.
        tensors: Weights by the names of our file format, float32.
        compute: What the tool computes from the files.
        factors: The tool's features are ours times this; None where they are the same.
        decided: What was decided while reading, for people.
        inexact: Why what we compute is not exactly what the tool computes; empty where it is.
        uncalibrated: The file of a BatchTopK that holds no threshold, so that which features fire
            depends on the other rows of a batch; None where nothing is missing.
        transcodes: Whether it reconstructs something else than it reads.
        hookpoint_out: What that is, as the files spell it; None where they do not say.
        family: Which equations apply.
        reads: The hookpoints of a family that reads several, as TransformerLens spells them, for which
            `compute` takes rows side by side; empty where `hookpoint` says it.
        writes: Those that it reconstructs, likewise.
        widths: Width of what it reads and of what it reconstructs, and the number of features, where no
            tensor `W_enc` says them.
    """

    architecture: str
    version: str | None
    files: tuple[Path, ...]
    hookpoint: str | None
    model: str | None
    meaning: Meaning
    tensors: Mapping[str, Float32[Tensor, "..."]]
    compute: Compute
    factors: Float[Tensor, " d_sae"] | None = None
    decided: tuple[str, ...] = ()
    inexact: tuple[str, ...] = ()
    uncalibrated: Path | None = None
    transcodes: bool = False
    hookpoint_out: str | None = None
    family: str = "sae"
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    widths: tuple[int, int, int] | None = None

    def by_row(self) -> "Foreign":
        """Return what stands for a BatchTopK without a threshold, and why it is not exact."""
        if self.uncalibrated is None:
            return self
        k = max(1, round(self.meaning.activation["k"]))
        why = (
            f"{self.uncalibrated} is a BatchTopK without a threshold: which features fire depends on "
            f"the other rows of a batch; a store (--store) calibrates one, without it the {k} largest "
            "of each row fire"
        )
        meaning = replace(self.meaning, activation={"kind": "topk", "k": k})
        return replace(self, meaning=meaning, inexact=(why, *self.inexact), uncalibrated=None)

    def with_threshold(self) -> "Foreign":
        """Return the same with a threshold of 0 where there is none, until one is found."""
        if self.uncalibrated is None:
            return self
        if self.widths is not None:
            shape: tuple[int, ...] = (self.widths[2],)
        else:
            shape = tuple(self.tensors["b_enc"].shape)
        none = torch.zeros(shape if self.meaning.gating is None else (len(self.reads), *shape))
        return replace(self, tensors={**self.tensors, "threshold": none})


@dataclass(frozen=True)
class Asked:
    """What a reader is told beside the files.

    Attributes:
        hub_name: Repository and folder on the hub; formats without a config say there what they are.
        hookpoint: What the dictionary reads, if the user says it.
        fold_state: Whether the normalisation is in the weights, if the user says it.
        rows: Hookpoint to rows of a store, to decide by measuring; None without a store.
    """

    hub_name: str = ""
    hookpoint: str | None = None
    fold_state: FoldState | None = None
    rows: Callable[[str], Float32[Tensor, "row d_in"]] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Context:
    """What is known around a dictionary that is written for another tool.

    Attributes:
        context_size: Tokens in a context of the store it was trained on.
        prepend_bos: Whether contexts begin with BOS.
    """

    context_size: int | None = None
    prepend_bos: bool | None = None


@dataclass(frozen=True)
class Written:
    """The files of one dictionary, for another tool.

    Attributes:
        architecture: What that tool calls this kind of dictionary.
        files: Path to bytes.
        rewrites: What was done to get there, in order.
        factors: The features in the files are the dictionary's times this; None: they are the same.
        instead: The dictionary with another code for the same, which is what the files have; None: itself.
        inexact: Why the tool will not compute exactly the same; empty where it does.
    """

    architecture: str
    files: Mapping[str, bytes]
    rewrites: tuple[str, ...]
    factors: Float[Tensor, " d_sae"] | None = None
    instead: SparseDictionary | None = None
    inexact: tuple[str, ...] = ()


class DictionaryFormat(ABC):
    """A format that is read."""

    title: ClassVar[str]
    """The tool, for people."""

    version: ClassVar[str]
    """Its release whose format this is."""

    @abstractmethod
    def read(self, place: Path, asked: Asked) -> Foreign:
        """Return what the files hold.

        Args:
            place: File or folder that the user named.
            asked: What else the user says.

        Raises:
            ConfigError: A file is missing, torn, or not of this format.
            UnsupportedError: It holds something that has no counterpart here, and why.
        """


class WrittenFormat(DictionaryFormat):
    """A format that is also written."""

    @abstractmethod
    def write(self, dictionary: SparseDictionary, context: Context) -> Written:
        """Return the files that the tool reads.

        Raises:
            UnsupportedError: The tool has no counterpart, and why.
        """

    @override
    @abstractmethod
    def read(self, place: Path, asked: Asked) -> Foreign:
        """Return what the files hold; also measures what `write` wrote."""
