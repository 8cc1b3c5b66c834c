"""Cross-layer transcoder: features of each layer write to that layer and to all later ones.

    h^s  = x'^s W_enc^s + b_enc^s                    f^s = activation function of h^s, or of h^s n^s
    ŷ'^t = Σ_{s≤t} f^s W_dec^{s→t} + b_dec^t         n^s_i = ‖concat_{t≥s} W_dec^{s→t}[i]‖

Features of all layers stand in one axis, feature i of layer s at s d_sae + i: counters, penalties, sparse
products and analysis see one code of L d_sae features. Pre-activations of the L encoders are stretches
of one matrix. k counts in each layer (`topk`, `batchtopk`) or over all (`layertopk`, `batchlayertopk`).

Decoders are kept by source, as the file has them: all that a feature writes is one row of
(L − s) d_out numbers, so a firing is one gather, n a row's length, and no decoder exists from a layer to
an earlier one. With F features a layer, weights are L F (d_in + (L + 1)/2 d_out) numbers: in training, with
gradients and moments, decoders take 8 L (L + 1) F d_out bytes, the square of the layers, and the step's
pre-activations 4 L F bytes a row (8 with the gate on h n, where that is ranked over all layers). `python -m benchmarks clt_memory` measures it.

Weights start as W_enc^s ~ U(±1/√d_sae) and W_dec^{s→t} ~ U(±1/√(L d_out)), so that what a row gets from
all layers together does not grow with their number; with `init.zero_cross_layer` features write to their
own layer only at the start. Folding is W_enc^s *= a_s; b_enc^s −= a_s μ_s W_enc^s; W_dec^{s→t} /= c_t;
b_dec^t = b_dec^t/c_t + ν_t. θ on h stays; on h n it follows n, which unequal c_t change feature by
feature, and a top-k that ranks h n is refused then.

In the file: W_enc.{s} (d_in, d_sae), b_enc.{s}, W_dec.{s} (d_sae, L − s, d_out) with targets s … L − 1, b_dec.{t},
threshold (L, d_sae). Rows must be shuffled; CLTs can be rewarded for shortcuts through layers that the
model does not take.

Source: Ameisen et al. 2025, "Circuit Tracing: Revealing Computational Graphs in Language Models"; the
bounds as in llamascopium.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from saestore.dictionaries import encoding, kernels, precision, products, rewrites
from saestore.dictionaries.activation_functions import ACTIVATION_FUNCTIONS
from saestore.dictionaries.base import Beginning
from saestore.dictionaries.code import SparseCode, TrainingCode
from saestore.dictionaries.linear_encoder import LinearlyEncoded
from saestore.dictionaries.linear_start import Start
from saestore.dictionaries.passes import DictionaryOutput, Layer, Rows
from saestore.dictionaries.pre_activation import (
    PreActivation,
    Projection,
    Projections,
    encoded,
)
from saestore.dictionaries.revival import revived
from saestore.dictionaries.rewrites import Tensors, Weights
from saestore.dictionaries.scale import Scale
from saestore.dictionaries.sides import Sides
from saestore.errors import ConfigError
from saestore_schemas.dictionary import DictionaryConfig
from saestore_schemas.families import CltSettings, LinearSettings


class CrossLayerTranscoder(LinearlyEncoded):
    """A cross-layer transcoder.

    Attributes:
        encoders: Of each layer, encoder vectors, one a row: W_enc.{s} transposed.
        decoders: Of each layer, what each feature writes to that layer and the later ones, one row.
    """

    family: ClassVar[str] = "clt"

    def __init__(
        self,
        config: DictionaryConfig,
        scales: Mapping[str, Scale],
        tensors: Mapping[str, Tensor],
    ) -> None:
        """Take weights by the names of the file."""
        joined = _joined(config, tensors)
        super().__init__(config, scales, joined)
        layers = range(config.layers)
        self.encoders = nn.ParameterList(joined[f"W_enc.{s}"].T.contiguous() for s in layers)
        self.b_enc = nn.Parameter(joined["b_enc"])
        self.decoders = nn.ParameterList(joined[f"W_dec.{s}"].contiguous() for s in layers)
        self.b_dec = nn.Parameter(joined["b_dec"])

    @classmethod
    @override
    def begin(cls, settings: LinearSettings, beginning: Beginning) -> LinearlyEncoded:
        """Return an untrained dictionary.

        Raises:
            ConfigError: A setting contradicts the widths, the moments, the sample or the dictionary
                that weights are taken from; or layers differ in width.
            HookpointNotFoundError: The store has no such hookpoint.
        """
        for name, hooks in (("in", settings.reads), ("out", settings.writes)):
            widths = [beginning.width(hook) for hook in hooks]
            if len(set(widths)) > 1:
                raise ConfigError(
                    field=f"dictionary.hookpoints_{name}",
                    found=f"widths {', '.join(map(str, widths))}",
                    expected="hookpoints of one width",
                    hint="name the same kind of hookpoint of each layer",
                )
        return super().begin(settings, beginning)

    @classmethod
    @override
    def _started(
        cls,
        settings: CltSettings,
        beginning: Beginning,
        config: DictionaryConfig,
        scales: Mapping[str, Scale],
    ) -> "CrossLayerTranscoder":
        """Return the dictionary that has a record, with starting weights of its own."""
        start = Start(settings, beginning, config, scales)
        layers, d_sae, width = config.layers, config.d_sae, config.d_out[0]
        found, shifts = {"b_dec": torch.from_numpy(start.bias)}, []
        for s, (hook, d_in) in enumerate(zip(config.hookpoints_in, config.d_in, strict=True)):
            bound, decoder_bound = d_sae**-0.5, (layers * width) ** -0.5
            encoder = beginning.rng.uniform(-bound, bound, (d_sae, d_in))
            shape = (d_sae, layers - s, width)
            decoder = beginning.rng.uniform(-decoder_bound, decoder_bound, shape)
            if beginning.init.zero_cross_layer:
                decoder[:, 1:] = 0
            found[f"W_enc.{s}"] = torch.from_numpy(encoder.T)
            found[f"W_dec.{s}"] = torch.from_numpy(decoder)
            shifts.append(start.shift(encoder, Sides((hook,), (d_in,))))
        measured = [shift for shift in shifts if shift is not None]
        found |= start.moved(np.concatenate(measured) if measured else None)
        found = {name: tensor.contiguous() for name, tensor in found.items()}
        rounded = precision.rounded(_separate(config, found), settings.dtype)
        return cls(config, scales, rounded)

    @classmethod
    @override
    def shapes(cls, config: DictionaryConfig) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor of the file format."""
        count, d_sae = config.layers, config.d_sae
        kind = ACTIVATION_FUNCTIONS[config.semantics.activation.kind]
        found: dict[str, tuple[int, ...]] = dict.fromkeys(kind.shapes(d_sae), (count, d_sae))
        for layer, (d_in, d_out) in enumerate(zip(config.d_in, config.d_out, strict=True)):
            found[f"W_enc.{layer}"] = (d_in, d_sae)
            found[f"b_enc.{layer}"] = (d_sae,)
            found[f"W_dec.{layer}"] = (d_sae, count - layer, d_out)
            found[f"b_dec.{layer}"] = (d_out,)
        return found

    @override
    def tensors(self) -> dict[str, Tensor]:
        """Return the weights by the names of the file format."""
        return _separate(self.config, self._whole())

    def _whole(self) -> dict[str, Tensor]:
        """Return the weights, features of all layers in one axis."""
        found = {"b_enc": self.b_enc.detach(), "b_dec": self.b_dec.detach()}
        found |= self.activation.tensors()
        for layer, (encoder, decoder) in enumerate(zip(self.encoders, self.decoders, strict=True)):
            found[f"W_enc.{layer}"] = encoder.detach().T.contiguous()
            found[f"W_dec.{layer}"] = decoder.detach()
        return found

    @property
    @override
    def layers(self) -> tuple[Layer, ...]:
        """Its layers; features of each answer for what is missing at their own output."""
        hooks = zip(self.hookpoints_in, self.hookpoints_out, strict=True)
        return tuple(
            Layer(hook, slice(*span), (out,))
            for (hook, out), span in zip(hooks, self._spans(), strict=True)
        )

    def _spans(self) -> list[tuple[int, int]]:
        """Return the first feature of each layer, and the one after its last."""
        return list(pairwise(range(0, self.d_sae + 1, self.config.d_sae)))

    @override
    def forward(self, inputs: Rows) -> DictionaryOutput:
        """Return code and reconstruction of normalised rows, with training semantics."""
        pre = self._pre_activations(inputs)
        code = self.activation.code(pre)
        return DictionaryOutput(code, self.decode_code(code, inputs), pre)

    @override
    def decode_code(
        self, code: TrainingCode, inputs: Rows, *, detached: bool = False
    ) -> dict[str, Float[Tensor, "row _"]]:
        """Return the reconstructions in normalised units, differentiable."""
        bias: Tensor = self.b_dec.detach() if detached else self.b_dec
        total = bias.expand(len(inputs[self.hookpoints_in[0]]), -1).clone()
        sizes = [self.config.d_sae] * len(self.decoders)
        for part, decoder in zip(code.split(sizes), self.decoders, strict=True):
            own: Tensor = decoder.detach() if detached else decoder
            total = kernels.added(total, part.decoded(own))
        return self.writes.split(total)

    @override
    def decode_between(
        self, code: TrainingCode, inputs: Rows, start: int, stop: int
    ) -> dict[str, Float[Tensor, "row _"]]:
        """Return what a range of features adds to the reconstructions, differentiable."""
        total = self.b_dec.new_zeros(len(inputs[self.hookpoints_in[0]]), self.writes.width)
        for decoder, (first, last) in zip(self.decoders, self._spans(), strict=True):
            low, high = max(start, first), min(stop, last)
            if low < high:
                part = code.between(low, high).decoded(decoder[low - first : high - first])
                total = kernels.added(total, part)
        return self.writes.split(total)

    @override
    def without_features(self, inputs: Rows) -> dict[str, Float[Tensor, "... _"]]:
        """Return the decoder biases, differentiable."""
        return self.writes.split(self.b_dec)

    @override
    def _blocks(self, inputs: Rows) -> Iterator[PreActivation]:
        """Yield pre-activations of fixed blocks of rows; each is overwritten by the next."""
        # Once for all blocks: a product with narrow vectors would widen them each time.
        encoders, lengths = [self._wide(encoder) for encoder in self.encoders], self.decoder_norms()
        each = [encoding.blocks(inputs[hook].contiguous()) for hook in self.hookpoints_in]
        for blocks in zip(*each, strict=True):
            rows = [block for block, _ in blocks]
            yield self._pre_activation(rows, encoders, lengths, given=blocks[0][1])

    @override
    def decode_normalised(
        self, code: SparseCode, inputs: Rows | None = None
    ) -> dict[str, Float[Tensor, "row _"]]:
        """Return the reconstructions in normalised units."""
        total = self.b_dec.expand(code.n_rows, -1).clone()
        pairs = kernels.Pairs(code.offsets, code.indices, code.d_sae)
        for decoder, span in zip(self.decoders, self._spans(), strict=True):
            own, places = pairs.between(*span)
            part = own.by_rows(code.values[places], decoder)
            total[:, -part.shape[1] :] += part
        return self.writes.split(total)

    @override
    def reconstruct_with(
        self, inputs: Rows, output: DictionaryOutput, features: Int64[Tensor, " feature"], k: int
    ) -> dict[str, Float[Tensor, "row _"]]:
        """Return what some features alone would add to their own layers, without b_dec."""
        found = {}
        for layer, decoder in zip(self.layers, self.decoders, strict=True):
            first, last = layer.features.start, layer.features.stop
            own = features[(features >= first) & (features < last)] - first
            if len(own):
                (hook,) = layer.writes
                width = self.config.d_out[0]
                pre = output.pre.between(first, last)
                found[hook] = revived(pre, decoder[:, :width], own, k)
        return found

    @override
    def folded(self) -> "CrossLayerTranscoder":
        """Return the same dictionary in raw units: it reads and reconstructs rows as they are stored."""
        given = self._weights()
        rewrites.refuse_folding(given)
        old = given.exact()
        c, centre = given.spread(self.writes)
        rewrites.refuse_unequal(given, c)
        tensors, shifts = {"b_dec": old["b_dec"] / c + centre}, []
        for s, (hook, d_in) in enumerate(zip(self.hookpoints_in, self.config.d_in, strict=True)):
            a, mean = given.spread(Sides((hook,), (d_in,)))
            encoder, decoder = old[f"W_enc.{s}"], old[f"W_dec.{s}"]
            shifts.append((a * mean) @ encoder)
            tensors[f"W_enc.{s}"] = encoder * a.unsqueeze(1)
            tensors[f"W_dec.{s}"] = decoder / c[-decoder.shape[1] :]
        gate: Tensor | float = 1.0
        if given.on_lengths:
            gate = rewrites.ratio(given.lengths(tensors), given.lengths(old))
        tensors |= given.moved(shift=torch.cat(shifts), gate=gate)
        return self._restored(given.rewritten(tensors, {}, scales=given.contained()))

    @override
    def _weights(self) -> Weights:
        """Return all that it is."""
        layers = self.config.layers
        return Weights(
            self.config,
            self.scales,
            self._whole(),
            lengths=lambda tensors: torch.cat(
                [_lengths(tensors[f"W_dec.{s}"]) for s in range(layers)]
            ),
            divided=lambda tensors, by: {
                f"W_dec.{s}": tensors[f"W_dec.{s}"] / own.unsqueeze(1)
                for s, own in enumerate(by.chunk(layers))
            },
            multiplied=lambda tensors, by: {
                f"W_enc.{s}": tensors[f"W_enc.{s}"] * own for s, own in enumerate(by.chunk(layers))
            },
        )

    @override
    def _restored(self, weights: Weights) -> "CrossLayerTranscoder":
        """Return the dictionary with these weights."""
        separate = _separate(weights.config, weights.tensors)
        return type(self)(weights.config, weights.scales, separate)

    @override
    def decoder_norms(self) -> Float[Tensor, " d_sae"]:
        """Return the length of all that each feature writes, in the weights' units."""
        return torch.cat([_lengths(self._wide(decoder)) for decoder in self.decoders])

    @override
    def decoder_vectors_at(self, hookpoint: str) -> Float[Tensor, "d_sae d_out"]:
        """Return what each feature writes to one layer; zeros of later layers' features."""
        if hookpoint not in self.hookpoints_out:
            return super().decoder_vectors_at(hookpoint)
        target, width = self.hookpoints_out.index(hookpoint), self.config.d_out[0]
        found = self._wide(self.b_enc.detach()).new_zeros(self.d_sae, width)
        for s, span in enumerate(self._spans()[: target + 1]):
            place = (target - s) * width
            found[slice(*span)] = self.decoders[s].detach()[:, place : place + width]
        return found

    @override
    def encoder_vectors(self) -> Float[Tensor, "d_sae _"]:
        """Return each feature's encoder vector, each in the space of its own layer's input."""
        return torch.cat([self._wide(encoder.detach()) for encoder in self.encoders])

    @override
    def decoder_vectors(self) -> Float[Tensor, "d_sae _"]:
        """Return what each feature writes to all layers side by side, zeros to earlier ones."""
        return torch.cat([self.decoder_vectors_at(hook) for hook in self.hookpoints_out], dim=1)

    @override
    def enc_dec_cosine(self) -> Float[Tensor, " d_sae"]:
        """Return NaN: a feature reads one hookpoint, and writes to several others."""
        return torch.full_like(self.b_enc.detach(), torch.nan)

    @override
    def logit_directions(self) -> Mapping[int, Float[Tensor, "d_sae d_model"]]:
        """Return the sum of what each feature writes, which is what reaches the last layer."""
        d_sae, width = self.config.d_sae, self.config.d_out[0]
        parts = [self._wide(d.detach()).view(d_sae, -1, width).sum(dim=1) for d in self.decoders]
        return {0: torch.cat(parts)}

    @override
    def project_gradient_(self, weights: Mapping[str, Tensor] | None = None) -> None:
        """Leave the gradient as it is: decoders are free."""

    @override
    def renormalise_(self, weights: Mapping[str, Tensor] | None = None) -> None:
        """Leave the weights as they are: decoders are free."""

    @override
    def _pre_activations(self, inputs: Rows, *, detached: bool = False) -> PreActivation:
        """Return pre-activations of normalised rows, differentiable."""
        rows = [inputs[hook] for hook in self.hookpoints_in]
        encoders = [each.detach() if detached else each for each in self.encoders]
        return self._pre_activation(rows, encoders, self.decoder_norms(), given=None)

    def _pre_activation(
        self,
        rows: Sequence[Tensor],
        encoders: Sequence[Tensor],
        lengths: Tensor,
        *,
        given: int | None,
    ) -> PreActivation:
        """Return h and g of each layer's normalised rows, in kept memory; of the first `given` only."""
        first, parts = slice(given), []
        held = self._scratch.take("z", len(rows[0]), self.d_sae, self._wide(self.b_enc.detach()))
        for own, encoder, span in zip(rows, encoders, self._spans(), strict=True):
            values, bias = held[:, slice(*span)], self.b_enc[slice(*span)]
            encoded(own, encoder, bias, values, self._scratch, products.asked(own.device))
            parts.append(Projection.known_as(values[first], own[first], None, encoder, bias))
        linear = Projections(held[first], tuple(parts))
        on_lengths = self.config.semantics.gate_on_decoder_norm
        return PreActivation(linear, None, lengths, on_lengths, self._scratch)


def _lengths(decoder: Float[Tensor, "d_sae _"]) -> Float[Tensor, " d_sae"]:
    """Return the length of all that each feature of one layer writes, differentiable."""
    norms: Tensor = torch.linalg.vector_norm(decoder, dim=1)
    return norms


def _joined(config: DictionaryConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a file with features of all layers in one axis, and decoders flat."""
    layers = range(config.layers)
    found = {name: tensor for name, tensor in tensors.items() if "." not in name}
    found = {name: tensor.flatten() for name, tensor in found.items()}
    for name in ("b_enc", "b_dec"):
        found[name] = torch.cat([tensors[f"{name}.{layer}"] for layer in layers])
    for layer in layers:
        found[f"W_enc.{layer}"] = tensors[f"W_enc.{layer}"]
        found[f"W_dec.{layer}"] = tensors[f"W_dec.{layer}"].flatten(1)
    return found


def _separate(config: DictionaryConfig, joined: Tensors) -> dict[str, Tensor]:
    """Return joined tensors as the file has them."""
    layers, found = config.layers, {}
    for name, tensor in joined.items():
        if name.startswith("W_dec."):
            found[name] = tensor.reshape(config.d_sae, -1, config.d_out[0])
        elif name.startswith("W_enc."):
            found[name] = tensor
        elif name.startswith("b_"):  # all layers have one width
            found |= {f"{name}.{s}": part.clone() for s, part in enumerate(tensor.chunk(layers))}
        else:
            found[name] = tensor.view(layers, -1)
    return found
