"""Sparse dictionaries: the settings that make one, and the record that describes its weights.

The settings half is a section of `train`. The record half is `config.json` beside the weights:
everything a reader needs to compute what training computed, with nothing implied by a default.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import ConfigDict, Discriminator, Field, JsonValue, Tag, model_validator
from typing_extensions import override

from saestore_schemas.base import Model
from saestore_schemas.manifest import Parent
from saestore_schemas.names import HookpointName


class ActivationSettings(Model):
    """Parameters of an activation function, and what all of its kind have in common."""

    ranks: ClassVar[bool] = False
    """It compares features with each other, and so fixes L0 by itself."""
    row_wise: ClassVar[bool] = True
    """A row's code in training depends on that row alone."""
    has_gate: ClassVar[bool] = False
    """It has a gate of its own on the same pre-activations, which must learn to reconstruct."""
    learns_thresholds: ClassVar[bool] = False
    """It compares with thresholds that training moves."""
    of_one_layer: ClassVar[str | None] = None
    """The kind that ranks features of one layer as it ranks those of all; None where it ranks no
    layers together."""


class TopK(ActivationSettings):
    """Keep the k largest positive pre-activations of each row (arXiv:2406.04093)."""

    ranks: ClassVar[bool] = True

    kind: Literal["topk"] = "topk"
    """Discriminator."""
    k: int = Field(ge=1)
    """Features that may fire on one row."""


class AbsTopK(ActivationSettings):
    """Keep the k pre-activations of each row that are furthest from zero, with their signs."""

    ranks: ClassVar[bool] = True

    kind: Literal["abstopk"] = "abstopk"
    """Discriminator."""
    k: int = Field(ge=1)
    """Features that may fire on one row."""


class BatchTopK(ActivationSettings):
    """Keep the k * rows largest positive pre-activations of a batch (arXiv:2412.06410).

    At inference, keep what exceeds a threshold.
    """

    ranks: ClassVar[bool] = True
    row_wise: ClassVar[bool] = False

    kind: Literal["batchtopk"] = "batchtopk"
    """Discriminator."""
    k: float = Field(gt=0)
    """Features that fire on one row on average; may be fractional."""


class JumpRelu(ActivationSettings):
    """Keep what exceeds a threshold that each feature learns (arXiv:2407.14435)."""

    learns_thresholds: ClassVar[bool] = True

    kind: Literal["jumprelu"] = "jumprelu"
    """Discriminator."""
    bandwidth: float = Field(default=2.0, gt=0)
    """Width of the window around the threshold in which it receives gradient, in normalised units:
    2 with `ste_to_input` (Anthropic), 0.001 without (DeepMind)."""
    ste_to_input: bool = True
    """The gradient of that window reaches the encoder too (Anthropic), not the threshold alone
    (DeepMind)."""


class Gated(ActivationSettings):
    """One bias decides which features fire, another how strongly (arXiv:2404.16014)."""

    has_gate: ClassVar[bool] = True

    kind: Literal["gated"] = "gated"
    """Discriminator."""


class Relu(ActivationSettings):
    """Keep every positive pre-activation; sparsity comes from a penalty."""

    kind: Literal["relu"] = "relu"
    """Discriminator."""


class LayerTopK(ActivationSettings):
    """Keep the k largest positive pre-activations of each row, of all layers together."""

    ranks: ClassVar[bool] = True
    of_one_layer: ClassVar[str | None] = "topk"

    kind: Literal["layertopk"] = "layertopk"
    """Discriminator."""
    k: int = Field(ge=1)
    """Features that may fire on one row, of all layers together."""


class BatchLayerTopK(ActivationSettings):
    """Keep the k * rows largest positive pre-activations of a batch, of all layers together.

    At inference, keep what exceeds a threshold.
    """

    ranks: ClassVar[bool] = True
    row_wise: ClassVar[bool] = False
    of_one_layer: ClassVar[str | None] = "batchtopk"

    kind: Literal["batchlayertopk"] = "batchlayertopk"
    """Discriminator."""
    k: float = Field(gt=0)
    """Features of all layers together that fire on one row on average; may be fractional."""


Activation = Annotated[
    TopK | BatchTopK | JumpRelu | Relu | Gated | AbsTopK | LayerTopK | BatchLayerTopK,
    Field(discriminator="kind"),
]
"""Activation functions, one class each."""

L0Scope = Literal["row", "layer"]
"""What k counts over: all features of a row, or those of a row in each layer."""

ScaleKind = Literal["none", "dataset_mean_norm", "dataset_rms", "dataset_centred_rms"]
"""Normalisation x' = a(x - mu) from the store's moments.

`dataset_mean_norm`: a = sqrt(d)/E||x||; `dataset_rms`: a = sqrt(d/E||x||^2); `dataset_centred_rms`:
mu = E x and a = sqrt(d/tr Cov x).
"""


RowScaleKind = Literal["token_norm", "token_layer_norm"]
"""Normalisation of each row by itself, of imported dictionaries; no weights can contain it.

`token_norm`: x' = a x sqrt(d)/||x||; `token_layer_norm`: x' = a(x - m)/(s + 1e-5) with the row's mean
m and deviation s (of n - 1), and back y = y'/a s + m.
"""

ROW_SCALES: frozenset[str] = frozenset(get_args(RowScaleKind))
"""Kinds of normalisation of each row by itself."""


WeightType = Literal["float32", "bfloat16", "float16", "float64"]
"""Type of matrices of weights. Vectors, such as biases and thresholds, are float32, or float64 with
float64: they cost nothing, and a bias that was rounded changes which features fire."""


class LinearSettings(Model):
    """What families with a linear encoder and a linear decoder have in common."""

    family: str
    """Discriminator."""
    d_sae: int | None = Field(default=None, ge=1)
    """Number of features. Give this or `expansion`."""
    expansion: float | None = Field(default=None, gt=0)
    """Number of features as a multiple of d_in, the widest hookpoint's. Give this or `d_sae`."""
    activation: Activation
    """Activation function with its parameters."""
    decoder_bias: bool = True
    """Have a decoder bias; without one it stays zero."""
    decoder_norm: Literal["unit", "free"] = "free"
    """`unit`: decoder vectors are held at length 1; `free`: they are not, and penalties and what
    is ranked use their lengths."""
    gate_on_decoder_norm: bool | None = None
    """Compare pre-activation times decoder length instead of the pre-activation alone. Absent: where
    decoder lengths are free and features are compared with each other, which is with top-k."""
    scale: ScaleKind = "dataset_centred_rms"
    """Normalisation of each hookpoint, measured over the whole store."""
    dtype: WeightType = "float32"
    """Type of matrices of weights, in training and in the artefact; biases and thresholds stay float32.
    Narrow ones are rounded from float32 copies that the optimiser keeps and updates."""

    @property
    @abstractmethod
    def reads(self) -> tuple[str, ...]:
        """What encode reads."""

    @property
    def writes(self) -> tuple[str, ...]:
        """What decode reconstructs."""
        return self.reads

    @property
    def involved(self) -> tuple[str, ...]:
        """All hookpoints it reads or reconstructs, each once."""
        return tuple(dict.fromkeys((*self.reads, *self.writes)))

    @property
    def subtracts(self) -> bool:
        """Whether the decoder bias is subtracted before encoding."""
        return False

    @property
    def ties(self) -> bool:
        """Whether the encoder starts as the decoder transposed, where `init.tie` does not say."""
        return self.reads == self.writes

    @property
    def norm_of_heads(self) -> Literal["l1", "l2"] | None:
        """How decoder lengths of several heads add up; None where there is one."""
        return None

    def scale_of(self, hookpoint: str) -> ScaleKind:
        """Return how a hookpoint is normalised."""
        del hookpoint
        return self.scale

    def parts(self) -> dict[str, Any]:
        """Return which parts it has, as `Options` names them."""
        return {}

    @property
    def layers(self) -> int:
        """How many layers have `d_sae` features each; 1 where there are none."""
        return 1

    @property
    def l0_scope(self) -> L0Scope:
        """What k counts over."""
        return "row"

    @property
    def other_init(self) -> frozenset[str]:
        """Options of `init` that say nothing about how its weights start."""
        return frozenset({"zero_cross_layer"})

    @property
    def other_kinds(self) -> dict[str, str]:
        """Kinds of activation functions that it cannot have, and why."""
        return {
            kind: f"ranks features of several layers, and this family has one: use {plain!r}"
            for kind, plain in (("layertopk", "topk"), ("batchlayertopk", "batchtopk"))
        }

    def counted(self, d_sae: int) -> int:
        """Return among how many features k chooses, with `d_sae` of them in a layer."""
        return d_sae if self.l0_scope == "layer" else d_sae * self.layers

    @model_validator(mode="after")
    def _one_width(self) -> Self:
        if (self.d_sae is None) == (self.expansion is None):
            msg = "give exactly one of d_sae and expansion"
            raise ValueError(msg)
        k = getattr(self.activation, "k", 0)
        if self.d_sae is not None and k > self.counted(self.d_sae):
            msg = f"activation.k = {k:g} is more than d_sae = {self.counted(self.d_sae)}"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _offered(self) -> Self:
        kind = self.activation.kind
        if kind in self.other_kinds:
            msg = f"activation.kind {kind!r} {self.other_kinds[kind]}"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _one_gate(self) -> Self:
        kind = self.activation.kind
        if self.activation.has_gate and self.gate_on_decoder_norm:
            msg = (
                f"gate_on_decoder_norm is set, but activation.kind {kind!r} compares with zero, where "
                "decoder lengths change nothing: remove gate_on_decoder_norm"
            )
            raise ValueError(msg)
        if self.activation.has_gate and self.parts().get("glu"):
            msg = (
                f"glu is set, but activation.kind {kind!r} has a gate of its own on the same "
                "pre-activations: remove glu, or use another activation"
            )
            raise ValueError(msg)
        return self

    @property
    def gated_on_lengths(self) -> bool:
        """Whether the gate compares pre-activation times decoder length."""
        if self.gate_on_decoder_norm is None:
            return self.activation.ranks and self.decoder_norm == "free"
        return self.gate_on_decoder_norm

    def features(self, width: int) -> int:
        """Return the number of features for an input of some width."""
        return self.d_sae or max(1, round((self.expansion or 1.0) * width))


class SaeSettings(LinearSettings):
    """A sparse autoencoder: reconstructs the hookpoint it reads."""

    family: Literal["sae"] = "sae"
    """Discriminator."""
    hookpoint: HookpointName
    """What it reads and reconstructs; must be in the activation store."""
    subtract_b_dec: bool = True
    """Subtract the decoder bias from the input before encoding."""
    glu: bool = False
    """Multiply pre-activations by sigmoid(x' W_glu + b_glu): a second encoder that dims them."""

    @property
    @override
    def reads(self) -> tuple[str, ...]:
        """Its hookpoint."""
        return (self.hookpoint,)

    @property
    @override
    def subtracts(self) -> bool:
        """As set."""
        return self.subtract_b_dec

    @override
    def parts(self) -> dict[str, Any]:
        """Return whether it has a GLU encoder."""
        return {"glu": self.glu}


class TranscoderSettings(LinearSettings):
    """A transcoder: reconstructs another hookpoint than it reads, such as an MLP's output."""

    family: Literal["transcoder"]
    """Discriminator."""
    hookpoint_in: HookpointName
    """What it reads; must be in the activation store."""
    hookpoint_out: HookpointName
    """What it reconstructs; must be in the activation store."""
    skip: bool = False
    """Add x' W_skip to the reconstruction: a linear map beside the features."""
    glu: bool = False
    """Multiply pre-activations by sigmoid(x' W_glu + b_glu): a second encoder that dims them."""

    @property
    @override
    def reads(self) -> tuple[str, ...]:
        """The hookpoint it reads."""
        return (self.hookpoint_in,)

    @property
    @override
    def writes(self) -> tuple[str, ...]:
        """The hookpoint it reconstructs."""
        return (self.hookpoint_out,)

    @override
    def parts(self) -> dict[str, Any]:
        """Return whether it has a skip and a GLU encoder."""
        return {"skip": self.skip, "glu": self.glu}


class CrossCoderSettings(LinearSettings):
    """A crosscoder: one code for several hookpoints, with a head at each."""

    family: Literal["crosscoder"]
    """Discriminator."""
    hookpoints: tuple[HookpointName, ...] = Field(min_length=1)
    """One head each, in order; must be in the activation store."""
    decoder_norm: Literal["free"] = "free"
    """A feature may be long at one head and short at another."""
    gate_on_decoder_norm: bool = True
    """Compare pre-activation times decoder length instead of the pre-activation alone."""
    head_norm: Literal["l1", "l2"] = "l1"
    """A feature's decoder length: the sum of its lengths at the heads, or the length of all side by
    side."""

    @property
    @override
    def reads(self) -> tuple[str, ...]:
        """All heads' hookpoints."""
        return self.hookpoints

    @property
    @override
    def norm_of_heads(self) -> Literal["l1", "l2"]:
        """As set."""
        return self.head_norm


class CltSettings(LinearSettings):
    """A cross-layer transcoder: features of each layer write to that layer and to all later ones."""

    family: Literal["clt"]
    """Discriminator."""
    hookpoints_in: tuple[HookpointName, ...] = Field(min_length=1)
    """What each layer's features read, first layer first, such as MLP inputs; must be in the activation
    store."""
    hookpoints_out: tuple[HookpointName, ...] = Field(min_length=1)
    """What each layer reconstructs, as many as `hookpoints_in` and in their order, such as MLP outputs."""
    d_sae: int | None = Field(default=None, ge=1)
    """Number of features of each layer. Give this or `expansion`."""
    decoder_norm: Literal["free"] = "free"
    """A feature may write much to one layer and little to another."""
    gate_on_decoder_norm: bool = True
    """Compare pre-activation times decoder length, over all layers that a feature writes to."""

    @property
    @override
    def reads(self) -> tuple[str, ...]:
        """What its layers read."""
        return self.hookpoints_in

    @property
    @override
    def writes(self) -> tuple[str, ...]:
        """What its layers reconstruct."""
        return self.hookpoints_out

    @property
    @override
    def ties(self) -> bool:
        """Never: a feature has a decoder vector at each later layer."""
        return False

    @property
    @override
    def layers(self) -> int:
        """How many layers have features."""
        return len(self.hookpoints_in)

    @property
    @override
    def l0_scope(self) -> L0Scope:
        """Each layer, where k counts in each; penalties and the kinds named after layers see all."""
        return "layer" if self.activation.kind in ("topk", "abstopk", "batchtopk") else "row"

    @property
    @override
    def other_init(self) -> frozenset[str]:
        """Weights are drawn between bounds of the family's own, and no encoder is tied."""
        bounds = {"decoder_bound", "encoder_bound", "decoder_vector_norm", "search_decoder_norm"}
        vectors = {"data_points", "data_noise", "active_subspace", "repeat_heads"}
        return frozenset({"tie", "tie_factor"} | bounds | vectors)

    @property
    @override
    def other_kinds(self) -> dict[str, str]:
        """None of those over layers; but a gate would need an auxiliary reconstruction of each layer."""
        return {
            "gated": "is not offered for cross-layer transcoders, where its gate would have to "
            "reconstruct each layer by itself: use 'jumprelu'"
        }

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        found = len(self.hookpoints_in), len(self.hookpoints_out)
        if found[0] != found[1]:
            msg = f"{found[0]} hookpoints_in and {found[1]} hookpoints_out: give one pair of each layer"
            raise ValueError(msg)
        for name in ("hookpoints_in", "hookpoints_out"):
            hooks = getattr(self, name)
            twice = sorted({hook for hook in hooks if hooks.count(hook) > 1})
            if twice:
                msg = f"{name} has {twice[0]!r} twice: each layer has a hookpoint of its own"
                raise ValueError(msg)
        return self


def _family_of(settings: Any) -> str:
    """Return the family of settings; the SAE's where none is named."""
    if isinstance(settings, Mapping):
        return str(settings.get("family", "sae"))
    return str(getattr(settings, "family", "sae"))


DictionarySettings = Annotated[
    Annotated[SaeSettings, Tag("sae")]
    | Annotated[TranscoderSettings, Tag("transcoder")]
    | Annotated[CrossCoderSettings, Tag("crosscoder")]
    | Annotated[CltSettings, Tag("clt")],
    Discriminator(_family_of),
]
"""The `[dictionary]` section of train, discriminated by `family`."""


class ScaleRecord(Model):
    """The normalisation of one hookpoint, as applied or as folded."""

    kind: ScaleKind | RowScaleKind
    """Which rule gave `a` and the mean."""
    a: float = Field(gt=0)
    """Factor: x' = a(x - mu), and back: y = y'/a + mu."""
    mean: str | None
    """Name of the tensor holding mu beside the weights; null when not centred."""
    rows: int = Field(ge=0)
    """Rows the moments were measured on."""
    excluded: tuple[str, ...]
    """Which rows were left out: special, ignored."""
    state: Literal["external", "folded"]
    """`external`: encode applies a and mu; `folded`: the weights already contain them."""


class SameAsTraining(Model):
    """Codes at inference are those of training: the activation function works row by row."""

    kind: Literal["same_as_training"] = "same_as_training"
    """Discriminator."""


class ThresholdInference(Model):
    """A feature fires where its gate score exceeds its `threshold`, whatever the batch."""

    kind: Literal["threshold"] = "threshold"
    """Discriminator."""
    source: Literal["exact", "ema", "imported"]
    """`exact`: calibrated on rows of the store, so that k features fire on average; `ema`: a running
    mean of the smallest score that training kept; `imported`: as another library left it."""
    rows: int | None = Field(default=None, ge=1)
    """Rows it was calibrated on; null unless exact."""
    l0: float | None = Field(default=None, ge=0)
    """Features that fire on one of these rows on average. Below k, they have too few positive
    scores."""
    l0_heldout: float | None = Field(default=None, ge=0)
    """The same on rows it was not calibrated on; null when not measured."""
    threshold_ema: float | None = Field(default=None, ge=0)
    """The running mean of training, for comparison; null when there was none."""


InferenceRecord = Annotated[SameAsTraining | ThresholdInference, Field(discriminator="kind")]
"""How codes are computed once training is over."""


class Options(Model):
    """Parts that not every dictionary of a family has."""

    glu: bool = False
    """A second encoder `W_glu`, `b_glu` multiplies pre-activations by its sigmoid."""
    skip: bool = False
    """A linear map `W_skip` of the input is added to the reconstruction."""


class Semantics(Model):
    """What the numbers in the weights mean."""

    subtract_b_dec: bool
    """The decoder bias is subtracted before encoding."""
    gate_on_decoder_norm: bool
    """The gate compares pre-activation times decoder length."""
    decoder_norm: Literal["unit", "free"]
    """Whether decoder vectors have length 1 (in the units of the stored weights at training)."""
    activation: Activation
    """Activation function with its parameters."""
    inference: InferenceRecord
    """How codes are computed at inference."""
    head_norm: Literal["l1", "l2"] | None = None
    """How decoder lengths of several heads add up to a feature's; null where there is one."""
    l0_scope: L0Scope
    """What k counts over: all features of a row, or those of a row in each layer."""
    firing: Literal["positive", "nonzero"]
    """Which entries count as firings: strictly positive ones, or all that are not zero."""


class ModelRecord(Model):
    """The language model a dictionary belongs to."""

    name: str
    """Hub name or local directory, as given to generate."""
    revision: str | None
    """Revision on the hub, if one was named."""
    weights_fingerprint: str | None
    """Digest of the model's configuration and weights."""
    processing: str
    """`raw` or `compatibility`; `unknown` for imported dictionaries."""
    capture_dtype: str | None
    """How the activations were stored that it was trained on."""


class TrainRecord(Model):
    """History: how the weights came to be. Reading them does not need it."""

    fingerprint: str
    """Fingerprint of the training settings and their parents."""
    rows: int
    """Rows seen."""
    steps: int
    """Optimiser steps."""
    settings: dict[str, JsonValue]
    """The training settings, whole."""


class ImportedRecord(Model):
    """Where an imported dictionary came from, and how exact it is."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    from_: str = Field(alias="from")
    """Path or name on the hub, as it was given."""
    library: str
    """Tool whose files they were, and what it calls this kind of dictionary."""
    version: str
    """Its release, as the files say it, or else the release whose format they are in."""
    max_error: float = Field(ge=0)
    """Largest relative difference of features and reconstructions between both sides, on a batch of
    rows of unequal lengths."""
    inexact: tuple[str, ...]
    """Why what is computed here is not exactly what the tool computes; empty where it is."""


class DictionaryConfig(Model):
    """`config.json`: every key present, null where it does not apply."""

    format: Literal["saestore.dictionary"] = "saestore.dictionary"
    """File type."""
    format_version: Literal[1] = 1
    """Major version of this record and of the tensor names beside it."""
    family: Literal["sae", "transcoder", "crosscoder", "clt"]
    """Which equations apply."""
    d_in: tuple[int, ...]
    """Width of each input hookpoint."""
    d_out: tuple[int, ...]
    """Width of each output hookpoint."""
    d_sae: int
    """Number of features; of a cross-layer transcoder, of each layer."""
    dtype: WeightType
    """Type of matrices of weights; biases and thresholds are float32, or float64 with float64."""
    hookpoints_in: tuple[HookpointName, ...]
    """What encode reads, in the order of d_in."""
    hookpoints_out: tuple[HookpointName, ...]
    """What decode reconstructs, in the order of d_out."""
    options: Options
    """Which parts it has."""
    semantics: Semantics
    """What the numbers mean."""
    scale: dict[str, ScaleRecord]
    """Normalisation of each hookpoint."""
    model: ModelRecord | None
    """The language model, null for synthetic data."""
    train: TrainRecord | None
    """History, null when unknown."""
    parents: tuple[Parent, ...]
    """Artefacts this one was made from."""
    imported: ImportedRecord | None = None
    """Which tool's files it was made from; null for dictionaries that were trained here."""
    versions: dict[str, str]
    """Library versions at training."""

    @property
    def layers(self) -> int:
        """How many layers have `d_sae` features each; 1 where there are none."""
        return len(self.d_in) if self.family == "clt" else 1

    @property
    def features(self) -> int:
        """Number of features, of all layers together."""
        return self.d_sae * self.layers
