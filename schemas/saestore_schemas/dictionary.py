"""Sparse dictionaries: activation functions, and the record that describes weights.

The record is `config.json` beside the weights: everything a reader needs to compute what training
computed, with nothing implied by a default. The settings that make a dictionary stand in `families`.
"""

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import ConfigDict, Field, JsonValue, field_validator

from saestore_schemas.attention import AttentionSettings
from saestore_schemas.base import Model
from saestore_schemas.gating import Gating
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
    rank_over: Literal["head", "heads"] | None = None
    """What is ranked together in a crosscoder whose heads gate by themselves: `head`, the features at
    each head, or `heads`, those at all heads, with k at each on average. Null where there is no choice."""


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

L0Scope = Literal["row", "layer", "head"]
"""What k counts over: all features of a row, those of a row in each layer, or those at each head."""

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
    """Features that fire on one of these rows on average; where k counts in each layer or at each head,
    those of all together. Below k, they have too few positive scores."""
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
    gating: Gating | None = None
    """Whether heads gate as one or each by itself; null where there are no heads."""
    layers: int | None = Field(default=None, ge=1)
    """How many layers have `d_sae` features each; null where there are none."""
    attention: AttentionSettings | None = None
    """How features attend to earlier rows; null where a code is of one row."""
    ranks: dict[int, int] | None = None
    """How many transforms of each rank, in the order of the features; null where there are none."""

    @field_validator("ranks")
    @classmethod
    def _descending(cls, ranks: dict[int, int] | None) -> dict[int, int] | None:
        """Return the ranks in the order of the features, whatever order a file had them in."""
        return None if ranks is None else dict(sorted(ranks.items(), reverse=True))


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
    """What k counts over: all features of a row, those of a row in each layer, or those at each head."""
    firing: Literal["positive", "nonzero"]
    """Which entries count as firings: strictly positive ones, or all that are not zero."""

    @property
    def ranks_together(self) -> bool:
        """Whether what k counts at each head is ranked at all heads together."""
        return getattr(self.activation, "rank_over", None) == "heads"


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


class HeadRecord(Model):
    """Where a hookpoint of a dictionary lies that was trained on several stores at once."""

    hookpoint: HookpointName
    """What it is called in its language model; the dictionary calls it by the name of its head."""
    model: ModelRecord | None
    """Its language model, null where nobody said."""


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
    family: Literal["sae", "transcoder", "crosscoder", "clt", "lorsa", "molt"]
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
    """The language model, null for synthetic data, and where heads are of several."""
    heads: dict[str, HeadRecord] | None = None
    """Where each hookpoint lies, by the name it has here; null where these are the model's own names."""
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
        return self.options.layers or 1

    @property
    def features(self) -> int:
        """Number of features, of all layers together."""
        return self.d_sae * self.layers

    @property
    def gates(self) -> int:
        """How often each feature is decided on: once, or at each head that gates by itself."""
        return len(self.d_out) if self.options.gating == "per_head" else 1

    @property
    def columns(self) -> int:
        """Columns of a code: one of each feature and gate, those of a gate beside each other."""
        return self.features * self.gates
