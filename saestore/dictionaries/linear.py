"""Families whose encoder and decoder are linear maps, over hookpoints side by side.

    h = (x' − s b_dec) W_enc + b_enc
    h = h * sigmoid(x' W_glu + b_glu)                 with a GLU encoder
    f = activation function of h, gated on h or on h * n
    ŷ' = f W_dec + b_dec (+ x' W_skip)

x' holds the normalised rows of all input hookpoints, ŷ' the reconstructions of all output hookpoints:
a crosscoder's heads are stretches of them. What differs is how a family counts decoder lengths n, how
its weights start, and what it calls them in the file.

Encoders are kept transposed in memory, one feature a row, because the sparse gradients, the dead
features and the fold all work on features.
"""

import copy
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import pad
from typing_extensions import override

from saestore.dictionaries import kernels, linear_start, precision, products, rewrites, selection
from saestore.dictionaries.activation_functions import ACTIVATION_FUNCTIONS, activation_function
from saestore.dictionaries.base import Beginning, DictionaryOutput, Rows, SparseDictionary
from saestore.dictionaries.code import SparseCode, TrainingCode
from saestore.dictionaries.pre_activation import PreActivation, Projection, Scratch
from saestore.dictionaries.rewrites import Weights
from saestore.dictionaries.scale import Scale
from saestore.dictionaries.sides import Sides
from saestore.errors import UnsupportedError
from saestore_schemas.dictionary import DictionaryConfig, LinearSettings


ENCODE_ROWS = 256
"""Rows of one encoder product at inference. Always this many, the last ones filled up with zeros:
libraries choose their arithmetic by the shape, and a row's code must not depend on its mates."""

PRODUCT_FEATURES = 16
"""Narrower encoder products are filled up to this width: below it MKL sums a row differently from
place to place in the block (seen at up to 11 columns, never from 13 on)."""

RANKED_BYTES = 8 << 20
"""Gate scores of some features are copied so many bytes at a time to be ranked: all of them at once
may be as large as all pre-activations."""


class LinearDictionary(SparseDictionary):
    """Linear encoder, activation function, linear decoder.

    Attributes:
        reads: Input hookpoints.
        writes: Output hookpoints.
        encoder: Encoder vectors, one a row: W_enc transposed.
        b_enc: Encoder bias.
        W_dec: Decoder vectors, one a row.
        b_dec: Decoder bias.
        glu: Vectors of the second encoder, one a row, with a GLU encoder.
        b_glu: Its bias.
        skip: Linear map from input to output beside the features, where there is one.
        activation: Activation function with its parameters.
    """

    by_head: ClassVar[bool] = False
    """Whether the file has tensors of each hookpoint, such as `W_enc.0`, instead of one."""

    def __init__(
        self,
        config: DictionaryConfig,
        scales: Mapping[str, Scale],
        tensors: Mapping[str, Tensor],
    ) -> None:
        """Take weights by the names of the file."""
        super().__init__()
        self.config = config
        self.scales = dict(scales)
        self.reads, self.writes = _sides(config)
        joined = self._joined(config, tensors)
        self.encoder = nn.Parameter(joined["W_enc"].T.contiguous())
        kind = ACTIVATION_FUNCTIONS[config.semantics.activation.kind]
        self.b_enc = nn.Parameter(joined[kind.bias_name].clone())
        self.W_dec = nn.Parameter(joined["W_dec"].contiguous())
        self.b_dec = nn.Parameter(joined["b_dec"].clone())
        self.glu: nn.Parameter | None = None
        self.b_glu: nn.Parameter | None = None
        if config.options.glu:
            self.glu = nn.Parameter(joined["W_glu"].T.contiguous())
            self.b_glu = nn.Parameter(joined["b_glu"].clone())
        self.skip = nn.Parameter(joined["W_skip"].clone()) if config.options.skip else None
        self.activation = activation_function(config.semantics, tensors)
        self._scratch = Scratch()

    @classmethod
    @override
    def begin(cls, settings: LinearSettings, beginning: Beginning) -> "LinearDictionary":
        """Return an untrained dictionary: see `linear_start`.

        Raises:
            ConfigError: A setting contradicts the widths, the moments, the sample or the dictionary
                that weights are taken from.
            HookpointNotFoundError: The store has no such hookpoint.
        """
        config, scales = linear_start.record(settings, beginning)
        if beginning.source is not None:
            named = str(beginning.init.dictionary)
            theirs, tensors = linear_start.weights_of(beginning.source, config, named=named)
            if any(scale.external for scale in theirs.values()):
                # The same numbers go on meaning the same.
                scales = theirs
                records = {hook: scale.record for hook, scale in scales.items()}
                config = config.model_copy(update={"scale": records})
            result = cls(config, scales, tensors)
        else:
            start = linear_start.Start(settings, beginning, config, scales)

            def made(tensors: Mapping[str, Tensor]) -> "LinearDictionary":
                return cls(config, scales, cls._separate(config, tensors))

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
    ) -> "LinearDictionary":
        """Return the dictionary with these weights."""
        return cls(config, scales, tensors)

    @classmethod
    @override
    def shapes(cls, config: DictionaryConfig) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor of the file format."""
        d_sae, (reads, writes) = config.d_sae, _sides(config)
        kind = ACTIVATION_FUNCTIONS[config.semantics.activation.kind]
        found: dict[str, tuple[int, ...]] = {kind.bias_name: (d_sae,), **kind.shapes(d_sae)}
        found |= {name: (width, d_sae) for name, width in cls._names("W_enc", reads)}
        for name, width in cls._names("W_dec", writes):
            found[name] = (d_sae, width)
        found |= {name: (width,) for name, width in cls._names("b_dec", writes)}
        if config.options.glu:
            found |= {"W_glu": (reads.width, d_sae), "b_glu": (d_sae,)}
        if config.options.skip:
            found["W_skip"] = (reads.width, writes.width)
        return found

    @classmethod
    def _names(cls, name: str, sides: Sides) -> list[tuple[str, int]]:
        """Return what a tensor is called in the file, head by head or whole, and how wide it is."""
        if not cls.by_head:
            return [(name, sides.width)]
        return [(f"{name}.{head}", width) for head, width in enumerate(sides.widths)]

    @classmethod
    def _joined(cls, config: DictionaryConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a file, those of several heads side by side."""
        reads, writes = _sides(config)
        found = dict(tensors)
        for name, sides, axis in (("W_enc", reads, 0), ("W_dec", writes, 1), ("b_dec", writes, 0)):
            parts = [found.pop(part) for part, _ in cls._names(name, sides)]
            found[name] = parts[0] if len(parts) == 1 else torch.cat(parts, dim=axis)
        return found

    @classmethod
    def _separate(cls, config: DictionaryConfig, joined: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return joined tensors as the file has them."""
        reads, writes = _sides(config)
        sides = {"W_enc": (reads, 0), "W_dec": (writes, 1), "b_dec": (writes, 0)}
        found: dict[str, Tensor] = {}
        for name, whole in joined.items():
            if name not in sides:
                found[name] = whole
                continue
            side, axis = sides[name]
            names = cls._names(name, side)
            parts = torch.split(whole, [width for _, width in names], dim=axis)
            found |= {part: t.contiguous() for (part, _), t in zip(names, parts, strict=True)}
        return found

    @override
    def tensors(self) -> dict[str, Tensor]:
        """Return the weights by the names of the file format."""
        return self._separate(self.config, self._whole())

    def _whole(self) -> dict[str, Tensor]:
        """Return the weights, hookpoints side by side."""
        tensors = {
            "W_enc": self.W_enc.detach().contiguous(),
            self.activation.bias_name: self.b_enc.detach(),
            "W_dec": self.W_dec.detach(),
            "b_dec": self.b_dec.detach(),
            **self.activation.tensors(),
        }
        if self.glu is not None and self.b_glu is not None:
            tensors |= {"W_glu": self.glu.T.detach().contiguous(), "b_glu": self.b_glu.detach()}
        if self.skip is not None:
            tensors["W_skip"] = self.skip.detach()
        return tensors

    @property
    def W_enc(self) -> Float[Tensor, "d_in d_sae"]:  # noqa: N802 - the field's name
        """Encoder, a view."""
        return self.encoder.T

    @classmethod
    @abstractmethod
    def lengths(
        cls, decoder: Float[Tensor, "d_sae d_out"], config: DictionaryConfig
    ) -> Float[Tensor, " d_sae"]:
        """Return the decoder lengths n that a family gates and penalises with, differentiable."""

    @override
    def forward(self, inputs: Rows) -> DictionaryOutput:
        """Return code and reconstruction of normalised rows, with training semantics."""
        pre = self._pre_activation(self.reads.joined(inputs), self.encoder, self.glu, given=None)
        code = self.activation.code(pre)
        return DictionaryOutput(code, self.decode_code(code, inputs), pre)

    @override
    def decode_code(
        self, code: TrainingCode, inputs: Rows, *, detached: bool = False
    ) -> dict[str, Float[Tensor, "row _"]]:
        """Return the reconstructions in normalised units, differentiable."""
        decoder: Tensor = self.W_dec.detach() if detached else self.W_dec
        return self.writes.split(code.decoded(decoder) + self._rest(inputs, detached=detached))

    @override
    def decode_between(
        self, code: TrainingCode, inputs: Rows, start: int, stop: int
    ) -> dict[str, Float[Tensor, "row _"]]:
        """Return what a range of features adds to the reconstructions, differentiable."""
        return self.writes.split(code.between(start, stop).decoded(self.W_dec[start:stop]))

    @override
    def without_features(self, inputs: Rows) -> dict[str, Float[Tensor, "... _"]]:
        """Return the decoder bias, and what the skip adds, differentiable."""
        return self.writes.split(self._rest(inputs))

    def _rest(self, inputs: Rows, *, detached: bool = False) -> Float[Tensor, "... _"]:
        """Return what no feature writes: the decoder bias, and what the skip adds."""
        bias: Tensor = self.b_dec.detach() if detached else self.b_dec
        if self.skip is None:
            return bias
        skip: Tensor = self.skip.detach() if detached else self.skip
        return products.mixed(self.reads.joined(inputs), skip) + bias

    @override
    def encode_normalised(self, inputs: Rows) -> SparseCode:
        """Return the firings of normalised rows, in fixed blocks of rows."""
        parts = [self.activation.firings(pre) for pre in self._blocks(inputs)]
        return SparseCode.concatenated(parts)

    @override
    def gate_scores(
        self, inputs: Rows | Float[Tensor, "row _"]
    ) -> Iterator[Float[Tensor, "row d_sae"]]:
        """Yield the gate scores of rows in raw units, block by block, by the arithmetic of encode."""
        with torch.no_grad():
            for pre in self._blocks(self.normalise(self.as_inputs(inputs))):
                yield pre.gate

    def _blocks(self, inputs: Rows) -> Iterator[PreActivation]:
        """Yield pre-activations of fixed blocks of rows; each is overwritten by the next."""
        rows = self.reads.joined(inputs).contiguous()
        # Once for all blocks: a product with narrow vectors would widen them each time.
        encoder = self._wide(self.encoder)
        glu = None if self.glu is None else self._wide(self.glu)
        for start in range(0, max(len(rows), 1), ENCODE_ROWS):
            block = rows[start : start + ENCODE_ROWS]
            given = len(block)
            if given < ENCODE_ROWS:
                block = pad(block, (0, 0, 0, ENCODE_ROWS - given))
            yield self._pre_activation(block, encoder, glu, given=given)

    @override
    def decode_normalised(
        self, code: SparseCode, inputs: Rows | None = None
    ) -> dict[str, Float[Tensor, "row _"]]:
        """Return the reconstructions in normalised units.

        Raises:
            UnsupportedError: There is a skip, and its inputs are not given.
        """
        if self.skip is not None and inputs is None:
            raise UnsupportedError(
                "this dictionary adds a linear map of its input: a code alone does not say what it read",
                found="codes",
                expected="codes and the rows that were encoded",
                hint="decode(code, inputs)",
            )
        pairs = kernels.Pairs(code.offsets, code.indices, code.d_sae)
        summed = pairs.by_rows(code.values, self.W_dec)
        return self.writes.split(summed + self._rest(inputs or {}))

    @override
    def reconstruct_with(
        self, inputs: Rows, output: DictionaryOutput, features: Int64[Tensor, " feature"], k: int
    ) -> dict[str, Float[Tensor, "row _"]]:
        """Return what some features alone would add, from raw pre-activations, without b_dec.

        Scores are ranked some rows at a time, and everything after that touches the chosen pairs only.
        """
        if k >= len(features):
            pre = output.pre.of(features)
            return self.writes.split(products.mixed(pre.dense(), self.W_dec[features]))
        gate = output.pre.gate
        step = max(1, RANKED_BYTES // (len(features) * gate.element_size()))
        largest = [
            torch.topk(gate[start : start + step, features], k, dim=1, sorted=False).indices
            for start in range(0, len(gate), step)
        ]
        pairs = kernels.Pairs(*selection.of_indices(features[torch.cat(largest)]), self.d_sae)
        return self.writes.split(kernels.decoded(output.pre.at(pairs), self.W_dec, pairs))

    @override
    def folded(self) -> "LinearDictionary":
        """Return the same dictionary in raw units: it reads and reconstructs rows as they are stored."""
        return self._restored(rewrites.folded(self._weights()))

    @override
    def with_unit_decoder(self) -> "LinearDictionary":
        """Return the same dictionary with decoder vectors of length 1 and the gate on h."""
        return self._restored(rewrites.with_unit_decoder(self._weights()))

    @override
    def without_subtraction(self) -> "LinearDictionary":
        """Return the same dictionary, its encoder reading rows as they are."""
        return self._restored(rewrites.without_subtraction(self._weights()))

    @override
    def as_jumprelu(self) -> "LinearDictionary":
        """Return a JumpReLU dictionary with the same codes at inference."""
        return self._restored(rewrites.as_jumprelu(self._weights()))

    @override
    def decoder_norms(self) -> Float[Tensor, " d_sae"]:
        """Return the length of each feature's decoder vector, in the weights' units."""
        return self.lengths(self._wide(self.W_dec), self.config)

    @override
    def encoder_norms(self) -> Float[Tensor, " d_sae"]:
        """Return the length of each feature's encoder vector."""
        norms: Tensor = torch.linalg.vector_norm(self.encoder_vectors(), dim=1)
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
        return self._wide(self.encoder.detach())

    @override
    def decoder_vectors(self) -> Float[Tensor, "d_sae _"]:
        """Return each feature's decoder vector."""
        return self._wide(self.W_dec.detach())

    @override
    def enc_dec_cosine(self) -> Float[Tensor, " d_sae"]:
        """Return the cosine of each feature's encoder and decoder vector.

        NaN where one is zero, and where input and output have different widths.
        """
        encoder, decoder = self.encoder_vectors(), self.decoder_vectors()
        if self.reads.widths != self.writes.widths:
            return torch.full_like(self.b_enc.detach(), torch.nan)
        lengths = self.encoder_norms() * torch.linalg.vector_norm(decoder, dim=1)
        cosine: Tensor = torch.linalg.vecdot(encoder, decoder) / lengths
        return cosine

    @override
    def thresholds(self) -> Float[Tensor, " d_sae"] | None:
        """Return what gate scores must exceed at inference; None where that is no fixed number."""
        return self.activation.thresholds()

    @override
    def logit_directions(self) -> Float[Tensor, "d_sae d_model"]:
        """Return what each feature writes at the last output hookpoint."""
        return self.writes.split(self.decoder_vectors())[self.writes.hookpoints[-1]]

    @override
    def project_gradient_(self, weights: Mapping[str, Tensor] | None = None) -> None:
        """Remove what of each decoder vector's gradient points along it, for unit decoders."""
        W_dec = self.W_dec if weights is None else weights["W_dec"]
        if self.config.semantics.decoder_norm == "unit" and W_dec.grad is not None:
            along = torch.linalg.vecdot(W_dec.grad, W_dec.detach())
            W_dec.grad.addcmul_(W_dec.detach(), along.unsqueeze(1), value=-1)

    @override
    def renormalise_(self, weights: Mapping[str, Tensor] | None = None) -> None:
        """Bring each decoder vector back to length 1, for unit decoders."""
        W_dec = self.W_dec if weights is None else weights["W_dec"]
        if self.config.semantics.decoder_norm == "unit":
            with torch.no_grad():
                W_dec.div_(self.lengths(W_dec, self.config).unsqueeze(1))

    @staticmethod
    def _wide(vectors: Tensor) -> Tensor:
        """Return vectors in the type in which one computes with them."""
        return vectors.to(precision.wide(vectors.dtype))

    def _weights(self) -> Weights:
        """Return all that it is."""
        return Weights(self.config, self.scales, self._whole(), type(self).lengths)

    def _restored(self, weights: Weights) -> "LinearDictionary":
        """Return the dictionary with these weights."""
        separate = self._separate(weights.config, weights.tensors)
        return type(self)(weights.config, weights.scales, separate)

    def _pre_activation(
        self, rows: Tensor, encoder: Tensor, glu: Tensor | None, *, given: int | None
    ) -> PreActivation:
        """Return h and g of normalised rows, in kept memory; of the first `given` rows only."""
        read = rows - self.b_dec if self.config.semantics.subtract_b_dec else rows
        first = slice(given)
        linear = self._projection("z", read, encoder, self.b_enc, first)
        values, dimmer = linear.values, None
        lengths = self.decoder_norms()
        on_lengths = self.config.semantics.gate_on_decoder_norm
        with torch.no_grad():
            if glu is not None and self.b_glu is not None:
                dimmer = self._projection("t", rows, glu, self.b_glu, first)
                values = torch.sigmoid(dimmer.values).mul_(linear.values)
            gate = values
            if on_lengths:
                gate = self._scratch.take("g", len(values), self.d_sae, values)
                torch.mul(values, lengths, out=gate)
        return PreActivation(values, gate, linear, dimmer, lengths, on_lengths)

    def _projection(
        self, name: str, rows: Tensor, vectors: Tensor, bias: Tensor, first: slice
    ) -> Projection:
        """Return rows times vectors plus a bias, in kept memory."""
        with torch.no_grad():
            missing = PRODUCT_FEATURES - self.d_sae
            wide: Tensor = vectors
            wide_bias = self._wide(bias)
            if missing > 0:
                wide, wide_bias = pad(vectors, (0, 0, 0, missing)), pad(wide_bias, (0, missing))
            values = self._scratch.take(name, len(rows), len(wide), wide_bias)
            values = products.biased(rows, wide, wide_bias, values)[first, : self.d_sae]
        return Projection(values, rows[first], vectors, bias)

    def __deepcopy__(self, memo: dict[int, object]) -> "LinearDictionary":
        """Copy weights; kept memory starts anew."""
        result = type(self)(
            copy.deepcopy(self.config, memo),
            self.scales,
            {name: tensor.clone() for name, tensor in self.tensors().items()},
        )
        for mine, theirs in zip(self.parameters(), result.parameters(), strict=True):
            theirs.requires_grad_(mine.requires_grad)
        for name, buffer in result.named_buffers():
            buffer.copy_(self.get_buffer(name))
        return result


def _sides(config: DictionaryConfig) -> tuple[Sides, Sides]:
    """Return what a dictionary reads and what it writes."""
    return Sides(config.hookpoints_in, config.d_in), Sides(config.hookpoints_out, config.d_out)
