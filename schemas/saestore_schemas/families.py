"""Settings of each family of sparse dictionaries: the `[dictionary]` section of `train`.

A family is one class here, beside its file in `saestore.dictionaries`; what all share stands in
`LinearSettings`, and what a family answers differently is a property that it overrides.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator
from typing_extensions import override

from saestore_schemas.attention import AttentionSettings
from saestore_schemas.base import Model
from saestore_schemas.dictionary import Activation, L0Scope, ScaleKind, WeightType
from saestore_schemas.gating import Gating, contradiction, with_ranking
from saestore_schemas.names import HookpointName


OF_VECTORS = frozenset({
    "tie", "tie_factor", "decoder_bound", "encoder_bound", "decoder_vector_norm", "search_decoder_norm",
    "data_points", "data_noise", "active_subspace", "repeat_heads",
})  # fmt: skip
"""Options of `init` that draw, choose or tie encoder and decoder vectors."""


class LinearSettings(Model):
    """What families with linear encoders have in common."""

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
    def reads_contexts(self) -> bool:
        """Whether a row's code depends on the rows before it in its context."""
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
        return frozenset({"zero_cross_layer", "sign_flip"})

    @property
    def hosts(self) -> frozenset[str]:
        """Which parts of the language model its weights may start from, as `init.from_host` names them."""
        return frozenset()

    def objection(self) -> str | None:
        """Return why it cannot have its activation function; None where it can."""
        plain = self.activation.of_one_layer
        if plain is None:
            return None
        return f"ranks features of several layers, and this family has one: use {plain!r}"

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
        objection = self.objection()
        if getattr(self.activation, "rank_over", None) and self.l0_scope != "head":
            objection = "has rank_over, and no heads that gate by themselves: remove rank_over"
        if objection is not None:
            msg = f"activation.kind {self.activation.kind!r} {objection}"
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


class BetweenSettings(LinearSettings):
    """What families have in common that reconstruct one hookpoint from another."""

    hookpoint_in: HookpointName
    """What it reads, such as an MLP's or an attention's input; must be in the activation store."""
    hookpoint_out: HookpointName
    """What it reconstructs, such as their output; must be in the activation store."""

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


class TranscoderSettings(BetweenSettings):
    """A transcoder: reconstructs another hookpoint than it reads, such as an MLP's output."""

    family: Literal["transcoder"]
    """Discriminator."""
    skip: bool = False
    """Add x' W_skip to the reconstruction: a linear map beside the features."""
    glu: bool = False
    """Multiply pre-activations by sigmoid(x' W_glu + b_glu): a second encoder that dims them."""

    @property
    @override
    def hosts(self) -> frozenset[str]:
        """An MLP."""
        return frozenset({"mlp"})

    @override
    def parts(self) -> dict[str, Any]:
        """Return whether it has a skip and a GLU encoder."""
        return {"skip": self.skip, "glu": self.glu}


class CrossCoderSettings(LinearSettings):
    """A crosscoder: one code for several hookpoints, with a head at each.

    It is acausal: every feature reads at all of them, and may write at all. For causal ones see `clt`.
    """

    family: Literal["crosscoder"]
    """Discriminator."""
    hookpoints: tuple[HookpointName, ...] = Field(min_length=1)
    """One head each, in order; must be in the activation store."""
    gating: Gating = "shared"
    """`shared`: a feature fires at all heads or at none (Anthropic). `per_head`: each head compares
    pre-activation times its own decoder length, so that a feature may fire at some heads only; k
    counts at each (llamascopium)."""
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

    @override
    def parts(self) -> dict[str, Any]:
        """Return how its heads gate."""
        return {"gating": self.gating}

    @property
    @override
    def l0_scope(self) -> L0Scope:
        """Each head, where heads gate by themselves and k counts."""
        return "head" if self.gating == "per_head" and self.activation.ranks else "row"

    @override
    def objection(self) -> str | None:
        """Return that a gate of its own would be the same at all heads."""
        if not self.activation.has_gate or self.gating == "shared":
            return super().objection()
        return (
            "compares with zero, whatever the length of a decoder vector, so that all heads decide alike: "
            "use gating = 'shared'"
        )

    @model_validator(mode="before")
    @classmethod
    def _ranking(cls, given: Any) -> Any:
        return with_ranking(given)

    @model_validator(mode="after")
    def _of_each_head(self) -> Self:
        wrong = contradiction(self.gating, self.head_norm, on_lengths=self.gate_on_decoder_norm)
        if wrong is not None:
            raise ValueError(wrong)
        return self


class CltSettings(LinearSettings):
    """A cross-layer transcoder: features of each layer write to that layer and to all later ones.

    With the same hookpoints in and out it is a weakly causal crosscoder; with those of one layer less on
    either side, reading the earlier and writing the later, a strictly causal one.
    """

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

    @override
    def parts(self) -> dict[str, Any]:
        """Return how many layers it has."""
        return {"layers": self.layers}

    @property
    @override
    def l0_scope(self) -> L0Scope:
        """Each layer, where k counts in each; penalties and the kinds named after layers see all."""
        each = self.activation.ranks and self.activation.of_one_layer is None
        return "layer" if each else "row"

    @property
    @override
    def other_init(self) -> frozenset[str]:
        """Weights are drawn between bounds of the family's own, and no encoder is tied."""
        return OF_VECTORS | {"sign_flip"}

    @override
    def objection(self) -> str | None:
        """Return that a gate would need an auxiliary reconstruction of each layer."""
        if not self.activation.has_gate:
            return None
        return (
            "is not offered for cross-layer transcoders, where its gate would have to reconstruct "
            "each layer by itself: use 'jumprelu'"
        )

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


class LorsaSettings(BetweenSettings):
    """Low-rank sparse attention: reconstructs what attention writes, from what it reads."""

    family: Literal["lorsa"]
    """Discriminator."""
    attention: AttentionSettings
    """Groups of features that attend alike, and how."""
    gate_on_decoder_norm: bool = True
    """Compare pre-activation times decoder length instead of the pre-activation alone."""

    @property
    @override
    def reads_contexts(self) -> bool:
        """A row attends to the rows before it."""
        return True

    @property
    @override
    def hosts(self) -> frozenset[str]:
        """Attention."""
        return frozenset({"attention"})

    @override
    def parts(self) -> dict[str, Any]:
        """Return how it attends."""
        return {"attention": self.attention}

    @property
    @override
    def other_init(self) -> frozenset[str]:
        """What a row's encoder vector would be set by: features read through attention."""
        return (OF_VECTORS - {"active_subspace"}) | {"zero_cross_layer", "firing_rate"}

    @override
    def objection(self) -> str | None:
        """Return that a gate has two biases, and there is one to attend to."""
        if not self.activation.has_gate:
            return super().objection()
        return (
            "has two biases on one pre-activation, and a lorsa's is attended to with the values: use "
            "'jumprelu'"
        )

    @override
    def features(self, width: int) -> int:
        """Return the number of features: with `expansion`, the nearest that groups divide."""
        groups = self.attention.n_qk
        return self.d_sae or groups * max(1, round((self.expansion or 1.0) * width / groups))

    @model_validator(mode="after")
    def _other_hookpoints(self) -> Self:
        if self.hookpoint_in == self.hookpoint_out:
            msg = (
                f"hookpoint_in and hookpoint_out are both {self.hookpoint_in!r}: attention writes "
                "elsewhere than it reads"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _whole_groups(self) -> Self:
        if self.d_sae is not None and self.d_sae % self.attention.n_qk:
            near = max(1, round(self.d_sae / self.attention.n_qk)) * self.attention.n_qk
            msg = (
                f"d_sae = {self.d_sae} features do not make {self.attention.n_qk} groups of equal size: "
                f"the nearest number that does is {near}"
            )
            raise ValueError(msg)
        return self


class MoltSettings(BetweenSettings):
    """A mixture of linear transforms: each feature adds a linear map of the input, of low rank."""

    family: Literal["molt"]
    """Discriminator."""
    d_sae: int | None = Field(default=None, ge=1)
    """Number of features: the sum of the counts in `ranks`, which need not be given."""
    expansion: None = None
    """Not for a molt: `ranks` say how many features there are."""
    ranks: dict[int, int] = Field(min_length=1)
    """How many transforms of each rank, such as `{ 64 = 1, 32 = 2, 16 = 4 }`; d_sae is their sum.
    Features are in the order of descending rank."""
    decoder_norm: Literal["free"] = "free"
    """Transforms may be long or short."""
    gate_on_decoder_norm: bool = True
    """Compare pre-activation times the transform's Frobenius norm instead of the pre-activation alone."""
    scale: ScaleKind = "dataset_rms"
    """Normalisation of what it reads, without a mean: no transform can contain one."""
    scale_out: ScaleKind = "dataset_centred_rms"
    """Normalisation of what it reconstructs."""

    @property
    @override
    def other_init(self) -> frozenset[str]:
        """Maps are drawn between bounds of the family's own, and no encoder is tied."""
        return super().other_init | OF_VECTORS

    @override
    def scale_of(self, hookpoint: str) -> ScaleKind:
        """Return how a hookpoint is normalised: input and output each have a setting."""
        return self.scale if hookpoint == self.hookpoint_in else self.scale_out

    @override
    def parts(self) -> dict[str, Any]:
        """Return its ranks."""
        return {"ranks": self.ranks}

    @field_validator("ranks")
    @classmethod
    def _some_of_each(cls, ranks: dict[int, int]) -> dict[int, int]:
        wrong = {rank: count for rank, count in ranks.items() if rank < 1 or count < 1}
        if wrong:
            msg = f"{wrong}: ranks and their counts are 1 or more"
            raise ValueError(msg)
        return ranks

    @model_validator(mode="before")
    @classmethod
    def _sum_of_ranks(cls, given: Any) -> Any:
        """Fill in d_sae."""
        if not isinstance(given, Mapping) or not isinstance(given.get("ranks"), Mapping):
            return given
        counts = list(given["ranks"].values())
        if not all(isinstance(count, int) and count > 0 for count in counts):
            return given  # which says what is wrong with them
        if given.get("expansion") is not None or given.get("d_sae") not in {None, sum(counts)}:
            name = "d_sae" if given.get("expansion") is None else "expansion"
            msg = (
                f"{name} = {given[name]} is set, but ranks say how many features there are: "
                f"{sum(counts)}; remove {name}"
            )
            raise ValueError(msg)
        return {**given, "d_sae": sum(counts)}

    @model_validator(mode="after")
    def _transforms(self) -> Self:
        if self.hookpoint_in == self.hookpoint_out:
            msg = (
                f"hookpoint_in and hookpoint_out are both {self.hookpoint_in!r}, which one transform, "
                "the identity, reconstructs: name two"
            )
            raise ValueError(msg)
        if self.scale == "dataset_centred_rms":
            msg = (
                "scale 'dataset_centred_rms' subtracts the mean of what is read, which adds a bias to each "
                "transform that no weights of a molt can contain: use 'dataset_rms'; scale_out may centre"
            )
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
    | Annotated[CltSettings, Tag("clt")]
    | Annotated[LorsaSettings, Tag("lorsa")]
    | Annotated[MoltSettings, Tag("molt")],
    Discriminator(_family_of),
]
"""The `[dictionary]` section of train, discriminated by `family`."""
