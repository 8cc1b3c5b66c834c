"""What every sparse dictionary can do. A family is one subclass in one file and a registry entry.

    x' = a (x − μ)         normalise
    f  = encode(x')        which features, how strongly
    ŷ' = decode(f)         normalised units
    ŷ  = ŷ'/c + ν          raw units

The public methods speak raw units. `forward` speaks normalised ones, because that is where losses
live; the losses themselves are outside, in the trainer.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn
from typing_extensions import override

from saestore.dictionaries import contexts, precision
from saestore.dictionaries.activation_functions import ActivationFunction
from saestore.dictionaries.code import SparseCode, TrainingCode
from saestore.dictionaries.host import Host
from saestore.dictionaries.passes import DictionaryOutput, Layer, Rows
from saestore.dictionaries.scale import MomentsLike, Scale
from saestore.dictionaries.sides import Sides
from saestore.dictionaries.transforms import Transforms
from saestore.errors import ConfigError, HookpointNotFoundError, UnsupportedError
from saestore_schemas.analyze import LogitScore
from saestore_schemas.dictionary import DictionaryConfig, ThresholdInference
from saestore_schemas.gating import Gating
from saestore_schemas.train import InitSettings


HostT = TypeVar("HostT", bound=Host)


@dataclass(frozen=True)
class Beginning:
    """What an untrained dictionary is made from, beside its own settings.

    Attributes:
        widths: Width of each hookpoint.
        moments: Moments of each hookpoint.
        init: How weights start.
        rng: Random stream of the starting weights.
        excluded: Which rows the moments leave out.
        sample: Rows of each hookpoint in raw units, for options that measure something.
        source: The dictionary that weights are taken from.
        host: What of the language model they are taken from.
    """

    widths: Mapping[str, int]
    moments: Mapping[str, MomentsLike]
    init: InitSettings
    rng: np.random.Generator
    excluded: tuple[str, ...]
    sample: Mapping[str, Float[Tensor, "row _"]] | None = None
    source: "SparseDictionary | None" = None
    host: Host | None = None

    def width(self, hookpoint: str) -> int:
        """Return a hookpoint's width.

        Raises:
            HookpointNotFoundError: It has none.
        """
        if hookpoint not in self.widths:
            raise HookpointNotFoundError(
                pattern=hookpoint, where="the activation store", known=tuple(self.widths)
            )
        return self.widths[hookpoint]

    def host_as(self, kind: type[HostT]) -> HostT | None:
        """Return what of the language model weights are taken from; None where they are not.

        Args:
            kind: What a family takes.

        Raises:
            ConfigError: They are to be, and it is not given.
        """
        if isinstance(self.host, kind):
            return self.host
        if self.init.from_host is None:
            return None
        raise ConfigError(
            field="init.from_host",
            found="no host model",
            expected=f"its {self.init.from_host}",
            hint="train on a store by `saestore train` or OpenLake.train, or give build() a host",
        )

    def directions(
        self, count: int, width: int, length: float
    ) -> Float64[np.ndarray, "feature d_out"]:
        """Return random isotropic vectors of one length."""
        vectors = self.rng.standard_normal((count, width))
        vectors *= length / np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors


class SparseDictionary(nn.Module, ABC):
    """A sparse dictionary: `encode`, `decode`, and what its features look like.

    Attributes:
        config: What the weights mean; everything a reader needs.
        scales: Hookpoint to normalisation.
        activation: Activation function with its parameters.
    """

    family: ClassVar[str]
    """Name in settings and `config.json`."""
    logit_score: ClassVar[LogitScore] = "direction"
    """Name in the tables of logits of what `logit_directions` says."""
    reads_contexts: ClassVar[bool] = False
    """Whether a row's code depends on the rows before it: rows are then handed over as `ContextRows`."""

    config: DictionaryConfig
    scales: dict[str, Scale]
    activation: ActivationFunction

    @property
    def hookpoints_in(self) -> tuple[str, ...]:
        """What encode reads."""
        return self.config.hookpoints_in

    @property
    def hookpoints_out(self) -> tuple[str, ...]:
        """What decode reconstructs."""
        return self.config.hookpoints_out

    @property
    def d_sae(self) -> int:
        """Number of features; of all layers, where there are layers."""
        return self.config.features

    @property
    def gates(self) -> int:
        """How often each feature is decided on: once, or at each head that gates by itself.

        A code has a column of each feature and gate, those of a gate beside each other: `by_feature`
        says what each feature does.
        """
        return self.config.gates

    @property
    def columns(self) -> int:
        """Columns of a code: features times gates."""
        return self.config.columns

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Its features by layer, first layer first; as one where there are no layers."""
        name = self.hookpoints_in[0] if len(self.hookpoints_in) == 1 else ""
        return (Layer(name, slice(0, self.columns), self.hookpoints_out),)

    @property
    def ranked(self) -> tuple[tuple[slice, float], ...]:
        """Columns among which k chooses, and how many: all, those of each layer, or of each head."""
        semantics = self.config.semantics
        k = float(semantics.activation.model_dump()["k"])
        if semantics.l0_scope == "layer":
            return tuple((layer.features, k) for layer in self.layers)
        if semantics.l0_scope == "head" and not semantics.ranks_together:
            return tuple((own, k) for own in self._gate_columns())
        return ((slice(0, self.columns), k * self.gates),)

    def _gate_columns(self) -> list[slice]:
        """Return the columns of each gate."""
        return [slice(g * self.d_sae, (g + 1) * self.d_sae) for g in range(self.gates)]

    @property
    def groups(self) -> dict[str, dict[str, slice]]:
        """Columns that are worth numbers of their own, by what they have in common; none by default.

        Such as `layer`: each layer's name and features, one after the other; or `head`.
        """
        if self.gates > 1:
            return {"head": dict(zip(self.hookpoints_out, self._gate_columns(), strict=True))}
        layers = {layer.name: layer.features for layer in self.layers}
        return {"layer": layers} if len(layers) > 1 else {}

    def by_feature(self, code: SparseCode) -> SparseCode:
        """Return a code with one value of each feature: the largest of those at its gates."""
        return code if self.gates == 1 else code.largest(self.gates)

    def l0(self, code: TrainingCode) -> Int64[Tensor, " row"]:
        """Return how many features fire on each row, at one gate or more."""
        return code.l0() if self.gates == 1 else self.by_feature(code.to_sparse()).l0()

    def ranks(self) -> Int64[Tensor, " d_sae"] | None:
        """Return the rank of each feature's linear map; None where features write vectors."""
        return None

    def normalise(self, inputs: Rows) -> Rows:
        """Return the rows in normalised units; a folded dictionary's are the raw ones."""
        return contexts.each(inputs, lambda hook, rows: self.scales[hook].normalise(rows))

    def encode(
        self, inputs: Mapping[str, Float[Tensor, "row _"]] | Float[Tensor, "row _"]
    ) -> SparseCode:
        """Return the firings of rows in raw units.

        Deterministic: a row's code does not depend on its batch mates, or, where the family reads
        contexts, on those outside its context.

        Args:
            inputs: Rows of each input hookpoint; a bare tensor when there is only one. A family that
                reads contexts takes plain rows as one context.

        Raises:
            ConfigError: A width is not the dictionary's.
            HookpointNotFoundError: An input hookpoint is missing.
        """
        with torch.no_grad():
            return self.encode_normalised(self.normalise(self.as_inputs(inputs)))

    def decode(
        self,
        code: SparseCode,
        inputs: Mapping[str, Float[Tensor, "row _"]] | Float[Tensor, "row _"] | None = None,
    ) -> dict[str, Float[Tensor, "row _"]]:
        """Return each output hookpoint's reconstruction in raw units.

        Args:
            code: Firings.
            inputs: The rows that were encoded, for families whose decoder reads them, and where rows
                were normalised one by one.
        """
        raw: Rows = {} if inputs is None else self.as_inputs(inputs)
        rows = self.normalise(raw) if raw else None
        with torch.no_grad():
            return {
                hook: self.scales[hook].denormalise(part, raw.get(hook))
                for hook, part in self.decode_normalised(code, rows).items()
            }

    def reconstruct(
        self, inputs: Mapping[str, Float[Tensor, "row _"]] | Float[Tensor, "row _"]
    ) -> dict[str, Float[Tensor, "row _"]]:
        """Return decode(encode(inputs)), raw units in and out."""
        return self.decode(self.encode(inputs), inputs)

    @abstractmethod
    def reconstruct_differentiably(self, inputs: Rows) -> dict[str, Float[Tensor, "row _"]]:
        """Return `reconstruct`, differentiable in the inputs alone: what fires is held fixed.

        Args:
            inputs: Rows of each input hookpoint, in raw units and in the type of `as_inputs`.
        """

    def as_inputs(self, inputs: Rows | Float[Tensor, "row _"]) -> Rows:
        """Return the rows by input hookpoint, in the weights' type, float32 at least, and on their device.

        Raises:
            ConfigError: A width is not the dictionary's.
            HookpointNotFoundError: An input hookpoint is missing.
        """
        given = {self.hookpoints_in[0]: inputs} if isinstance(inputs, Tensor) else inputs
        like = next(self.parameters())
        kind = precision.wide(like.dtype)
        widths = dict(zip(self.hookpoints_in, self.config.d_in, strict=True))

        def taken(hook: str, rows: Tensor) -> Tensor:
            if rows.shape[1] != widths[hook]:
                raise ConfigError(
                    field=hook,
                    found=rows.shape[1],
                    expected=f"rows of width {widths[hook]}",
                    hint="this dictionary was trained on another hookpoint or model",
                )
            return rows.to(device=like.device, dtype=kind)

        return contexts.each(contexts.only(given, self.hookpoints_in), taken)

    @classmethod
    @abstractmethod
    def begin(cls, settings: Any, beginning: Beginning) -> "SparseDictionary":
        """Return an untrained dictionary.

        Raises:
            ConfigError: A setting contradicts the widths or the moments.
            HookpointNotFoundError: A hookpoint has no width or moments.
        """

    @classmethod
    @abstractmethod
    def restore(
        cls,
        config: DictionaryConfig,
        scales: Mapping[str, Scale],
        tensors: Mapping[str, Tensor],
    ) -> "SparseDictionary":
        """Return the dictionary with these weights, named as in the file format."""

    @classmethod
    @abstractmethod
    def shapes(cls, config: DictionaryConfig) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor of the file format."""

    @override
    @abstractmethod
    def forward(self, inputs: Mapping[str, Float[Tensor, "row _"]]) -> DictionaryOutput:
        """Return code and reconstruction of normalised rows, with training semantics."""

    @abstractmethod
    def encode_normalised(self, inputs: Mapping[str, Float[Tensor, "row _"]]) -> SparseCode:
        """Return the firings of normalised rows, with inference semantics."""

    @abstractmethod
    def decode_normalised(
        self, code: SparseCode, inputs: Mapping[str, Float[Tensor, "row _"]] | None = None
    ) -> dict[str, Float[Tensor, "row _"]]:
        """Return the reconstructions in normalised units."""

    @abstractmethod
    def decode_code(
        self, code: TrainingCode, inputs: Rows, *, detached: bool = False
    ) -> dict[str, Float[Tensor, "row _"]]:
        """Return the reconstructions of a training code in normalised units, differentiable.

        Args:
            code: The code.
            inputs: The normalised rows that gave it.
            detached: Whether the decoder counts as a constant.
        """

    @abstractmethod
    def decode_between(
        self, code: TrainingCode, inputs: Rows, start: int, stop: int
    ) -> dict[str, Float[Tensor, "row _"]]:
        """Return what a range of features adds to the reconstructions, differentiable; no bias."""

    @abstractmethod
    def without_features(self, inputs: Rows) -> dict[str, Float[Tensor, "... _"]]:
        """Return each output hookpoint's reconstruction where no feature fires, differentiable.

        The decoder bias, and what else a family writes beside its features.
        """

    @abstractmethod
    def gate_scores(
        self, inputs: Mapping[str, Float[Tensor, "row _"]] | Float[Tensor, "row _"]
    ) -> Iterator[Float[Tensor, "row d_sae"]]:
        """Yield the gate scores of rows in raw units, block by block.

        The same numbers that encode compares, bit for bit; each block is overwritten by the next.

        Args:
            inputs: Rows of each input hookpoint; a bare tensor when there is only one.
        """

    def contributions(
        self,
        inputs: Rows | Float[Tensor, "row _"],
        features: Int64[Tensor, " pair"],
        queries: Int64[Tensor, " pair"],
    ) -> Float[Tensor, "pair position"]:
        """Return what each row of a context adds to pre-activations, of families that read contexts.

        Over the rows of the context they sum to the pre-activation, whose bits depend on the context and the
        feature alone.

        Args:
            inputs: Rows of one context in raw units.
            features: Whose pre-activations.
            queries: At which row of the context each.

        Raises:
            UnsupportedError: A row's code depends on that row alone.
            ConfigError: There are several contexts.
        """
        del inputs, features, queries
        raise UnsupportedError(
            f"a row's code of a {self.family} depends on that row alone",
            found=self.family,
            expected="a family whose features attend to other rows",
            hint="ask a dictionary whose `reads_contexts` is true",
        )

    @abstractmethod
    def reconstruct_with(
        self,
        inputs: Mapping[str, Float[Tensor, "row _"]],
        output: DictionaryOutput,
        features: Int64[Tensor, " feature"],
        k: int,
    ) -> dict[str, Float[Tensor, "row _"]]:
        """Return what some features alone would add, for losses that revive dead ones.

        On each row the `k` of `features` with the largest gate score are used with their raw
        pre-activation, negative ones too; no decoder bias. Gradient reaches encoder and decoder of
        these features only (and what their pre-activations read).

        Args:
            inputs: The normalised rows of the forward pass.
            output: Its result.
            features: Which features may be used, ascending.
            k: How many on one row, at most `len(features)`.
        """

    @abstractmethod
    def folded(self) -> "SparseDictionary":
        """Return the same dictionary with its normalisation moved into the weights.

        Codes and reconstructions are the same numbers; afterwards all weights are in raw units.

        Raises:
            UnsupportedError: It is folded already.
        """

    def in_raw_units(self) -> "SparseDictionary":
        """Return the dictionary with its normalisation in the weights.

        Itself where it is there already, and where rows are normalised one by one: then its weights
        are in raw units up to a positive factor of each row. Where folding would change the order of
        a top-k, decoder lengths go into the activations first.
        """
        if not any(scale.external and not scale.by_row for scale in self.scales.values()):
            return self
        try:
            return self.folded()
        except UnsupportedError:
            return self.with_unit_decoder().folded()

    @abstractmethod
    def with_unit_decoder(self) -> "SparseDictionary":
        """Return the same dictionary with decoder vectors of length 1 and the gate on h.

        Activations take their decoder vector's length. Features whose decoder vector is zero keep
        their weights, or fall silent where the gate was on h times that length.

        Raises:
            UnsupportedError: It ranks pre-activations of features with unequal lengths.
        """

    @abstractmethod
    def without_subtraction(self) -> "SparseDictionary":
        """Return the same dictionary, the decoder bias no longer subtracted before encoding."""

    @abstractmethod
    def as_jumprelu(self, thresholds: Sequence[float] | None = None) -> "SparseDictionary":
        """Return a JumpReLU dictionary: with the same codes at inference for all inputs, or firing elsewhere.

        Args:
            thresholds: What gate scores shall exceed instead of being ranked: one number of each of
                `ranked`.

        Raises:
            UnsupportedError: Its activation function ranks a row's features, and no thresholds are
                given; or they are, and its firings are not what exceeds a number.
        """

    def with_gating(self, gating: Gating) -> "SparseDictionary":
        """Return the same dictionary with heads that gate as one, or each by itself; the same codes.

        Raises:
            UnsupportedError: Codes would be others, or it has no heads.
        """
        raise UnsupportedError(
            f"a dictionary of family {self.family!r} has no heads that could gate as one or by themselves",
            found=self.family,
            expected="a crosscoder",
            hint=f"leave out gating {gating}",
        )

    @abstractmethod
    def decoder_norms(self) -> Float[Tensor, " d_sae"]:
        """Return the length of each feature's decoder vector, in the weights' units."""

    def column_norms(self) -> Float[Tensor, " _"]:
        """Return the length of what each column of a code writes, in the weights' units."""
        return self.decoder_norms()

    @abstractmethod
    def encoder_norms(self) -> Float[Tensor, " d_sae"]:
        """Return the length of each feature's encoder vector."""

    @abstractmethod
    def encoder_bias(self) -> Float[Tensor, " d_sae"]:
        """Return each feature's encoder bias."""

    @abstractmethod
    def encoder_vectors(self) -> Float[Tensor, "d_sae _"]:
        """Return each feature's encoder vector, those of several hookpoints side by side."""

    @abstractmethod
    def decoder_vectors(self) -> Float[Tensor, "d_sae _"]:
        """Return each feature's decoder vector, those of several hookpoints side by side."""

    def decoder_vectors_at(self, hookpoint: str) -> Float[Tensor, "d_sae d_out"]:
        """Return what each feature writes at one output hookpoint; zeros where it writes nothing there.

        Raises:
            HookpointNotFoundError: It reconstructs no such hookpoint.
        """
        writes = Sides(self.hookpoints_out, self.config.d_out)
        if hookpoint not in writes.hookpoints:
            raise HookpointNotFoundError(
                pattern=hookpoint, where="what is reconstructed", known=writes.hookpoints
            )
        return writes.split(self.decoder_vectors())[hookpoint]

    @abstractmethod
    def enc_dec_cosine(self) -> Float[Tensor, " d_sae"]:
        """Return the cosine of each feature's encoder and decoder vector; NaN where one is zero."""

    @abstractmethod
    def thresholds(self) -> Float[Tensor, " _"] | None:
        """Return each column's threshold, or None for activation functions without one."""

    def threshold_names(self) -> frozenset[str]:
        """Return which of `named_parameters` are thresholds: they have a learning rate of their own."""
        return frozenset(f"activation.{name}" for name in self.activation.learned_thresholds)

    @abstractmethod
    def logit_directions(self) -> Mapping[int, Float[Tensor, "d_sae d_model"]]:
        """Return what each feature writes to the hookpoints that count by themselves, by their number.

        Of all that reaches the last layer together it is the sum, under 0. Call it on a folded one.
        """

    @property
    def maps(self) -> Transforms | None:
        """The linear maps by which features write, where each writes another vector on each row."""
        return None

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return the weights by the names of the file format."""

    @abstractmethod
    def decoder_bias_norm(self) -> float:
        """Return the length of the decoder bias, of all heads together."""

    @property
    def fixes_l0(self) -> bool:
        """Whether the activation function sets L0 by itself, so that no penalty is needed."""
        return self.activation.fixes_l0

    def scalars(self) -> dict[str, float]:
        """Return numbers of the activation function worth logging, such as k."""
        return self.activation.scalars()

    @abstractmethod
    def project_gradient_(self, weights: Mapping[str, Tensor] | None = None) -> None:
        """Remove the part of the gradient that a constraint on the weights forbids.

        Args:
            weights: What is trained, by the names of `named_parameters`, where it is not the
                parameters themselves.
        """

    @abstractmethod
    def renormalise_(self, weights: Mapping[str, Tensor] | None = None) -> None:
        """Bring the weights back onto their constraint after a step.

        Args:
            weights: As above.
        """

    def with_threshold(
        self, threshold: float | Sequence[float], record: ThresholdInference
    ) -> "SparseDictionary":
        """Return the same dictionary, firing at inference where gate scores exceed a threshold.

        Args:
            threshold: One of all columns, or one of each of `ranked`.
            record: How it was found.

        Raises:
            UnsupportedError: Its activation function uses no threshold that is calibrated.
        """
        semantics = self.config.semantics
        if semantics.inference.kind != "threshold":
            raise UnsupportedError(
                f"{semantics.activation.kind} needs no calibrated threshold",
                found=semantics.activation.kind,
                expected="an activation function whose codes depend on the batch, such as batchtopk",
                hint="use the dictionary as it is",
            )
        tensors = self.tensors()
        given = tensors["threshold"]
        each = given.new_tensor(threshold).reshape(-1, 1)
        spread = each.expand(len(each), given.numel() // len(each))
        tensors["threshold"] = spread.reshape(given.shape).clone()
        changed = semantics.model_copy(update={"inference": record})
        config = self.config.model_copy(update={"semantics": changed})
        return self.restore(config, self.scales, tensors)

    def with_config(self, config: DictionaryConfig) -> "SparseDictionary":
        """Return the same dictionary with another record of its history."""
        return self.restore(config, self.scales, self.tensors())
