"""Sparse autoencoder: reconstructs the hookpoint it reads.

    h = (x' − s b_dec) W_enc + b_enc
    h = h * sigmoid(x' W_glu + b_glu)                 with a GLU encoder
    f = activation function of h, gated on h or on h * n, with n_i = ‖W_dec[i]‖
    ŷ' = f W_dec + b_dec

Weights: W_enc (d_in, d_sae), b_enc, W_dec (d_sae, d_in), b_dec, with a GLU encoder W_glu and b_glu,
and those of the activation function. Encoders are kept transposed in memory, one feature a row,
because the sparse gradients, the dead features and the fold all work on features.

Source: Bricken et al. 2023, "Towards Monosemanticity"; Gao et al. 2024 (arXiv:2406.04093).
"""

import copy
from collections.abc import Iterator, Mapping
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import pad
from typing_extensions import override

from saestore.dictionaries import kernels, products, sae_rewrites, selection
from saestore.dictionaries.activation_functions import ACTIVATION_FUNCTIONS, activation_function
from saestore.dictionaries.base import Beginning, DictionaryOutput, SparseDictionary
from saestore.dictionaries.code import SparseCode, TrainingCode
from saestore.dictionaries.pre_activation import PreActivation, Projection, Scratch
from saestore.dictionaries.sae_rewrites import Weights
from saestore.dictionaries.sae_start import Start, weights_of
from saestore.dictionaries.scale import Scale, measured
from saestore.errors import ConfigError
from saestore.lake import manifest as manifests
from saestore_schemas.dictionary import DictionaryConfig, Options, SaeSettings, Semantics


ENCODE_ROWS = 256
"""Rows of one encoder product at inference. Always this many, the last ones filled up with zeros:
libraries choose their arithmetic by the shape, and a row's code must not depend on its mates."""

PRODUCT_FEATURES = 16
"""Narrower encoder products are filled up to this width: below it MKL sums a row differently from
place to place in the block (seen at up to 11 columns, never from 13 on)."""

RANKED_BYTES = 8 << 20
"""Gate scores of some features are copied so many bytes at a time to be ranked: all of them at once
may be as large as all pre-activations."""


class Sae(SparseDictionary):
    """A sparse autoencoder.

    Attributes:
        encoder: Encoder vectors, one a row: W_enc transposed.
        b_enc: Encoder bias.
        W_dec: Decoder vectors, one a row.
        b_dec: Decoder bias.
        glu: Vectors of the second encoder, one a row, with a GLU encoder.
        b_glu: Its bias.
        activation: Activation function with its parameters.
    """

    family: ClassVar[str] = "sae"

    def __init__(
        self,
        config: DictionaryConfig,
        scales: Mapping[str, Scale],
        tensors: Mapping[str, Tensor],
    ) -> None:
        super().__init__()
        self.config = config
        self.scales = dict(scales)
        self.encoder = nn.Parameter(tensors["W_enc"].T.contiguous())
        kind = ACTIVATION_FUNCTIONS[config.semantics.activation.kind]
        self.b_enc = nn.Parameter(tensors[kind.bias_name].clone())
        self.W_dec = nn.Parameter(tensors["W_dec"].contiguous())
        self.b_dec = nn.Parameter(tensors["b_dec"].clone())
        self.glu: nn.Parameter | None = None
        self.b_glu: nn.Parameter | None = None
        if config.options.glu:
            self.glu = nn.Parameter(tensors["W_glu"].T.contiguous())
            self.b_glu = nn.Parameter(tensors["b_glu"].clone())
        self.activation = activation_function(config.semantics, tensors)
        self._scratch = Scratch()

    @classmethod
    @override
    def begin(cls, settings: SaeSettings, beginning: Beginning) -> "Sae":
        """Return an untrained SAE: see `sae_start`.

        Raises:
            ConfigError: A setting contradicts the widths, the moments, the sample or the dictionary
                that weights are taken from.
            HookpointNotFoundError: The store has no such hookpoint.
        """
        hook, init = settings.hookpoint, beginning.init
        width = beginning.width(hook)
        d_sae = settings.features(width)
        k = getattr(settings.activation, "k", 0)
        if k > d_sae:  # with `expansion`, known only now
            raise ConfigError(
                field="dictionary.activation.k", found=k, expected=f"at most d_sae = {d_sae}"
            )
        scale = measured(hook, settings.scale, beginning.moments[hook], beginning.excluded)
        config = _record(settings, width, d_sae, scale)
        if beginning.source is not None:
            scales, tensors = weights_of(beginning.source, config, named=str(init.dictionary))
            if scales[hook].external:  # the same numbers go on meaning the same
                config = config.model_copy(update={"scale": {hook: scales[hook].record}})
                scale = scales[hook]
            result = cls(config, {hook: scale}, tensors)
        else:
            start = Start(settings, beginning, scale, d_sae)
            made = partial(cls, config, {hook: scale})
            result = made(start.tensors(start.length(made)))
        result.b_dec.requires_grad_(settings.decoder_bias)
        return result

    @classmethod
    @override
    def restore(
        cls,
        config: DictionaryConfig,
        scales: Mapping[str, Scale],
        tensors: Mapping[str, Tensor],
    ) -> "Sae":
        """Return the SAE with these weights."""
        return cls(config, scales, tensors)

    @classmethod
    @override
    def shapes(cls, config: DictionaryConfig) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor of the file format."""
        d_in, d_sae = config.d_in[0], config.d_sae
        kind = ACTIVATION_FUNCTIONS[config.semantics.activation.kind]
        glu = {"W_glu": (d_in, d_sae), "b_glu": (d_sae,)} if config.options.glu else {}
        return {
            "W_enc": (d_in, d_sae),
            kind.bias_name: (d_sae,),
            "W_dec": (d_sae, d_in),
            "b_dec": (d_in,),
            **glu,
            **kind.shapes(d_sae),
        }

    @override
    def tensors(self) -> dict[str, Tensor]:
        """Return the weights by the names of the file format."""
        tensors = {
            "W_enc": self.W_enc.detach().contiguous(),
            self.activation.bias_name: self.b_enc.detach(),
            "W_dec": self.W_dec.detach(),
            "b_dec": self.b_dec.detach(),
            **self.activation.tensors(),
        }
        if self.glu is not None and self.b_glu is not None:
            tensors |= {"W_glu": self.glu.T.detach().contiguous(), "b_glu": self.b_glu.detach()}
        return tensors

    @property
    def W_enc(self) -> Float[Tensor, "d_in d_sae"]:  # noqa: N802 - the field's name
        """Encoder, a view."""
        return self.encoder.T

    @property
    def hookpoint(self) -> str:
        """What it reads and reconstructs."""
        return self.hookpoints_in[0]

    @override
    def forward(self, inputs: Mapping[str, Float[Tensor, "row _"]]) -> DictionaryOutput:
        """Return code and reconstruction of normalised rows, with training semantics."""
        pre = self._pre_activation(inputs[self.hookpoint], given=None)
        code = self.activation.code(pre)
        return DictionaryOutput(code, self.decode_code(code), pre)

    @override
    def decode_code(
        self, code: TrainingCode, *, detached: bool = False
    ) -> dict[str, Float[Tensor, "row _"]]:
        """Return the reconstruction in normalised units, differentiable."""
        weights: tuple[Tensor, Tensor] = (self.W_dec, self.b_dec)
        W_dec, b_dec = (each.detach() for each in weights) if detached else weights
        return {self.hookpoint: code.decoded(W_dec) + b_dec}

    @override
    def decode_between(
        self, code: TrainingCode, start: int, stop: int
    ) -> dict[str, Float[Tensor, "row _"]]:
        """Return what a range of features adds to the reconstruction, differentiable."""
        return {self.hookpoint: code.between(start, stop).decoded(self.W_dec[start:stop])}

    @override
    def decoder_biases(self) -> dict[str, Float[Tensor, " d_out"]]:
        """Return the decoder bias, differentiable."""
        return {self.hookpoint: self.b_dec}

    @override
    def encode_normalised(self, inputs: Mapping[str, Float[Tensor, "row _"]]) -> SparseCode:
        """Return the firings of normalised rows, in fixed blocks of rows."""
        parts = [self.activation.firings(pre) for pre in self._blocks(inputs)]
        return SparseCode.concatenated(parts)

    @override
    def gate_scores(
        self, inputs: Mapping[str, Float[Tensor, "row _"]] | Float[Tensor, "row _"]
    ) -> Iterator[Float[Tensor, "row d_sae"]]:
        """Yield the gate scores of rows in raw units, block by block, by the arithmetic of encode."""
        with torch.no_grad():
            for pre in self._blocks(self.normalise(self.as_inputs(inputs))):
                yield pre.gate

    def _blocks(self, inputs: Mapping[str, Float[Tensor, "row _"]]) -> Iterator[PreActivation]:
        """Yield pre-activations of fixed blocks of rows; each is overwritten by the next."""
        rows = inputs[self.hookpoint].contiguous()
        for start in range(0, max(len(rows), 1), ENCODE_ROWS):
            block = rows[start : start + ENCODE_ROWS]
            given = len(block)
            if given < ENCODE_ROWS:
                block = pad(block, (0, 0, 0, ENCODE_ROWS - given))
            yield self._pre_activation(block, given=given)

    @override
    def decode_normalised(
        self, code: SparseCode, inputs: Mapping[str, Float[Tensor, "row _"]] | None = None
    ) -> dict[str, Float[Tensor, "row _"]]:
        """Return the reconstruction in normalised units."""
        pairs = kernels.Pairs(code.offsets, code.indices, code.d_sae)
        return {self.hookpoint: pairs.by_rows(code.values, self.W_dec) + self.b_dec}

    @override
    def reconstruct_with(
        self,
        inputs: Mapping[str, Float[Tensor, "row _"]],
        output: DictionaryOutput,
        features: Int64[Tensor, " feature"],
        k: int,
    ) -> dict[str, Float[Tensor, "row _"]]:
        """Return what some features alone would add, from raw pre-activations, without b_dec.

        Scores are ranked some rows at a time, and everything after that touches the chosen pairs only.
        """
        if k >= len(features):
            return {self.hookpoint: output.pre.of(features).dense() @ self.W_dec[features]}
        gate = output.pre.gate
        step = max(1, RANKED_BYTES // (len(features) * gate.element_size()))
        largest = [
            torch.topk(gate[start : start + step, features], k, dim=1, sorted=False).indices
            for start in range(0, len(gate), step)
        ]
        pairs = kernels.Pairs(*selection.of_indices(features[torch.cat(largest)]), self.d_sae)
        return {self.hookpoint: kernels.decoded(output.pre.at(pairs), self.W_dec, pairs)}

    @override
    def folded(self) -> "Sae":
        """Return the same SAE in raw units: it reads and reconstructs rows as they are stored."""
        return self._restored(sae_rewrites.folded(self._weights()))

    @override
    def with_unit_decoder(self) -> "Sae":
        """Return the same SAE with decoder vectors of length 1 and the gate on h."""
        return self._restored(sae_rewrites.with_unit_decoder(self._weights()))

    @override
    def without_subtraction(self) -> "Sae":
        """Return the same SAE, its encoder reading rows as they are."""
        return self._restored(sae_rewrites.without_subtraction(self._weights()))

    @override
    def as_jumprelu(self) -> "Sae":
        """Return a JumpReLU SAE with the same codes at inference."""
        return self._restored(sae_rewrites.as_jumprelu(self._weights()))

    @override
    def decoder_norms(self) -> Float[Tensor, " d_sae"]:
        """Return the length of each feature's decoder vector, in the weights' units."""
        norms: Tensor = torch.linalg.vector_norm(self.W_dec, dim=1)
        return norms

    @override
    def encoder_norms(self) -> Float[Tensor, " d_sae"]:
        """Return the length of each feature's encoder vector."""
        norms: Tensor = torch.linalg.vector_norm(self.encoder.detach(), dim=1)
        return norms

    @override
    def encoder_bias(self) -> Float[Tensor, " d_sae"]:
        """Return each feature's encoder bias."""
        return self.b_enc.detach()

    @override
    def decoder_bias_norm(self) -> float:
        """Return the length of the decoder bias."""
        return float(torch.linalg.vector_norm(self.b_dec.detach()))

    @override
    def encoder_vectors(self) -> Float[Tensor, "d_sae _"]:
        """Return each feature's encoder vector."""
        return self.encoder.detach()

    @override
    def decoder_vectors(self) -> Float[Tensor, "d_sae _"]:
        """Return each feature's decoder vector."""
        return self.W_dec.detach()

    @override
    def enc_dec_cosine(self) -> Float[Tensor, " d_sae"]:
        """Return the cosine of each feature's encoder and decoder vector; NaN where one is zero."""
        encoder, decoder = self.encoder.detach(), self.W_dec.detach()
        lengths = self.encoder_norms() * self.decoder_norms().detach()
        cosine: Tensor = torch.linalg.vecdot(encoder, decoder) / lengths
        return cosine

    @override
    def thresholds(self) -> Float[Tensor, " d_sae"] | None:
        """Return what gate scores must exceed at inference; None where that is no fixed number."""
        return self.activation.thresholds()

    @override
    def logit_directions(self) -> Float[Tensor, "d_sae d_model"]:
        """Return the decoder vectors: what each feature writes into the residual stream."""
        return self.W_dec.detach()

    @override
    def project_gradient_(self) -> None:
        """Remove what of each decoder vector's gradient points along it, for unit decoders."""
        if self.config.semantics.decoder_norm == "unit" and self.W_dec.grad is not None:
            along = torch.linalg.vecdot(self.W_dec.grad, self.W_dec.detach())
            self.W_dec.grad.addcmul_(self.W_dec.detach(), along.unsqueeze(1), value=-1)

    @override
    def renormalise_(self) -> None:
        """Bring each decoder vector back to length 1, for unit decoders."""
        if self.config.semantics.decoder_norm == "unit":
            with torch.no_grad():
                self.W_dec.div_(torch.linalg.vector_norm(self.W_dec, dim=1, keepdim=True))

    def _weights(self) -> Weights:
        """Return all that it is."""
        return Weights(self.config, self.scales, self.tensors())

    def _restored(self, weights: Weights) -> "Sae":
        """Return the SAE with these weights."""
        return Sae(weights.config, weights.scales, weights.tensors)

    def _pre_activation(self, rows: Tensor, *, given: int | None) -> PreActivation:
        """Return h and g of normalised rows, in kept memory; of the first `given` rows only."""
        read = rows - self.b_dec if self.config.semantics.subtract_b_dec else rows
        first = slice(given)
        linear = self._projection("z", read, self.encoder, self.b_enc, first)
        values, dimmer = linear.values, None
        lengths = self.decoder_norms()
        on_lengths = self.config.semantics.gate_on_decoder_norm
        with torch.no_grad():
            if self.glu is not None and self.b_glu is not None:
                dimmer = self._projection("t", rows, self.glu, self.b_glu, first)
                values = torch.sigmoid(dimmer.values).mul_(linear.values)
            gate = values
            if on_lengths:
                gate = self._scratch.take("g", len(values), self.d_sae, self.encoder)
                torch.mul(values, lengths, out=gate)
        return PreActivation(values, gate, linear, dimmer, lengths, on_lengths)

    def _projection(
        self, name: str, rows: Tensor, vectors: Tensor, bias: Tensor, first: slice
    ) -> Projection:
        """Return rows times vectors plus a bias, in kept memory."""
        with torch.no_grad():
            missing = PRODUCT_FEATURES - self.d_sae
            wide: Tensor = vectors
            wide_bias: Tensor = bias
            if missing > 0:
                wide, wide_bias = pad(vectors, (0, 0, 0, missing)), pad(bias, (0, missing))
            values = self._scratch.take(name, len(rows), len(wide), wide)
            values = products.biased(rows, wide, wide_bias, values)[first, : self.d_sae]
        return Projection(values, rows[first], vectors, bias)

    def __deepcopy__(self, memo: dict[int, object]) -> "Sae":
        """Copy weights; kept memory starts anew."""
        result = Sae(
            copy.deepcopy(self.config, memo),
            self.scales,
            {name: tensor.clone() for name, tensor in self.tensors().items()},
        )
        for mine, theirs in zip(self.parameters(), result.parameters(), strict=True):
            theirs.requires_grad_(mine.requires_grad)
        for name, buffer in result.named_buffers():
            buffer.copy_(self.get_buffer(name))
        return result


def _record(settings: SaeSettings, width: int, d_sae: int, scale: Scale) -> DictionaryConfig:
    """Return the record of an untrained SAE."""
    versions = manifests.library_versions()
    kind = ACTIVATION_FUNCTIONS[settings.activation.kind]
    return DictionaryConfig(
        family="sae",
        d_in=(width,),
        d_out=(width,),
        d_sae=d_sae,
        dtype=settings.dtype,
        hookpoints_in=(settings.hookpoint,),
        hookpoints_out=(settings.hookpoint,),
        options=Options(glu=settings.glu),
        semantics=Semantics(
            subtract_b_dec=settings.subtract_b_dec,
            gate_on_decoder_norm=settings.gate_on_decoder_norm,
            decoder_norm=settings.decoder_norm,
            activation=settings.activation,
            inference=kind.inference(),
            l0_scope="row",
            firing=kind.firing,
        ),
        scale={settings.hookpoint: scale.record},
        model=None,
        train=None,
        parents=(),
        versions={name: versions[name] for name in ("saestore", "torch")},
    )
