"""Families whose encoders are linear maps, whatever their decoder is.

    h = (x' − s b_dec) W_enc + b_enc
    h = h * sigmoid(x' W_glu + b_glu)                 with a GLU encoder
    f = activation function of h, gated on h or on h * n

`LinearEncoder` has one, and x' holds the normalised rows of all input hookpoints side by side;
`LinearlyEncoded` has what families of several share with it. How a code is decoded, and what a decoder's
length n is, stands with the families.

Encoders are kept transposed in memory, one feature a row, because the sparse gradients, the dead
features and the fold all work on features.
"""

import copy
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from saestore.dictionaries import encoding, kernels, linear_start, precision, products, rewrites
from saestore.dictionaries.activation_functions import ACTIVATION_FUNCTIONS, activation_function
from saestore.dictionaries.base import Beginning, SparseDictionary
from saestore.dictionaries.code import RaggedCode, SparseCode
from saestore.dictionaries.passes import Rows
from saestore.dictionaries.pre_activation import PreActivation, Projection, Scratch
from saestore.dictionaries.rewrites import Weights
from saestore.dictionaries.scale import Scale
from saestore.dictionaries.sides import sides_of
from saestore_schemas.dictionary import DictionaryConfig
from saestore_schemas.families import LinearSettings


class LinearlyEncoded(SparseDictionary):
    """Linear encoders and an activation function.

    Attributes:
        reads: Input hookpoints.
        writes: Output hookpoints.
        b_enc: Encoder bias of each feature.
        b_dec: Decoder bias, output hookpoints side by side.
        activation: Activation function with its parameters.
    """

    b_enc: nn.Parameter
    b_dec: nn.Parameter

    def __init__(
        self,
        config: DictionaryConfig,
        scales: Mapping[str, Scale],
        tensors: Mapping[str, Tensor],
    ) -> None:
        """Take what every such family has; `tensors` with what is one number of each feature flat."""
        super().__init__()
        self.config = config
        self.scales = dict(scales)
        self.reads, self.writes = sides_of(config)
        parts = config.layers * config.gates
        self.activation = activation_function(config.semantics, tensors, parts=parts)
        self._scratch = Scratch()

    @classmethod
    @override
    def begin(cls, settings: LinearSettings, beginning: Beginning) -> "LinearlyEncoded":
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
            result = cls._started(settings, beginning, config, scales)
        result.b_dec.requires_grad_(settings.decoder_bias)
        return result

    @classmethod
    @abstractmethod
    def _started(
        cls,
        settings: Any,
        beginning: Beginning,
        config: DictionaryConfig,
        scales: Mapping[str, Scale],
    ) -> "LinearlyEncoded":
        """Return the dictionary that has a record, with starting weights of its own."""

    @classmethod
    @override
    def restore(
        cls,
        config: DictionaryConfig,
        scales: Mapping[str, Scale],
        tensors: Mapping[str, Tensor],
    ) -> "LinearlyEncoded":
        """Return the dictionary with these weights."""
        return cls(config, scales, tensors)

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

    @abstractmethod
    def _blocks(self, inputs: Rows) -> Iterator[PreActivation]:
        """Yield pre-activations of fixed blocks of rows; each is overwritten by the next."""

    @abstractmethod
    def _pre_activations(self, inputs: Rows, *, detached: bool = False) -> PreActivation:
        """Return pre-activations of normalised rows, differentiable.

        Args:
            inputs: The rows.
            detached: Whether encoder vectors count as constants.
        """

    @override
    def reconstruct_differentiably(self, inputs: Rows) -> dict[str, Float[Tensor, "row _"]]:
        """Return the reconstructions, differentiable in the inputs: what fires is held fixed."""
        if self.activation.has_gate:  # a JumpReLU's activations are its pre-activations
            return self.as_jumprelu().reconstruct_differentiably(inputs)
        rows = self.normalise(inputs)
        with torch.no_grad():
            code = self.encode_normalised(rows)
        pairs = kernels.Pairs(code.offsets, code.indices, code.d_sae)
        fired = RaggedCode(pairs, self._pre_activations(rows, detached=True).at(pairs))
        return {
            hook: self.scales[hook].denormalise(part, inputs.get(hook))
            for hook, part in self.decode_code(fired, rows, detached=True).items()
        }

    @override
    def with_unit_decoder(self) -> "LinearlyEncoded":
        """Return the same dictionary with decoders of length 1 and the gate on h."""
        return self._restored(rewrites.with_unit_decoder(self._weights()))

    @override
    def without_subtraction(self) -> "LinearlyEncoded":
        """Return the same dictionary, its encoder reading rows as they are."""
        return self._restored(rewrites.without_subtraction(self._weights()))

    @override
    def as_jumprelu(self, thresholds: Sequence[float] | None = None) -> "LinearlyEncoded":
        """Return a JumpReLU dictionary, with the same codes at inference or firing above thresholds."""
        weights = self._weights()
        if thresholds is None:
            return self._restored(rewrites.as_jumprelu(weights))
        rewrites.must_rank(weights)
        device = next(self.parameters()).device
        spread = torch.empty(self.columns, dtype=torch.float64, device=device)
        for (own, _), threshold in zip(self.ranked, thresholds, strict=True):
            spread[own] = threshold
        return self._restored(rewrites.above(weights, spread))

    @abstractmethod
    def _weights(self) -> Weights:
        """Return all that it is."""

    @abstractmethod
    def _restored(self, weights: Weights) -> "LinearlyEncoded":
        """Return the dictionary with these weights."""

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
    def thresholds(self) -> Float[Tensor, " _"] | None:
        """Return what gate scores must exceed at inference; None where that is no fixed number."""
        return self.activation.thresholds()

    @staticmethod
    def _wide(vectors: Tensor) -> Tensor:
        """Return vectors in the type in which one computes with them."""
        return vectors.to(precision.wide(vectors.dtype))

    def __deepcopy__(self, memo: dict[int, object]) -> "LinearlyEncoded":
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


class LinearEncoder(LinearlyEncoded):
    """One linear encoder, over input hookpoints side by side.

    Attributes:
        encoder: Encoder vectors, one a row: W_enc transposed.
        glu: Vectors of the second encoder, one a row, with a GLU encoder.
        b_glu: Its bias.
    """

    def __init__(
        self,
        config: DictionaryConfig,
        scales: Mapping[str, Scale],
        tensors: Mapping[str, Tensor],
    ) -> None:
        """Take weights by the names of the file, hookpoints side by side."""
        super().__init__(config, scales, tensors)
        self.encoder = nn.Parameter(tensors["W_enc"].T.contiguous())
        self.b_enc = nn.Parameter(tensors[self.activation.bias_name].clone())
        self.glu: nn.Parameter | None = None
        self.b_glu: nn.Parameter | None = None
        if config.options.glu:
            self.glu = nn.Parameter(tensors["W_glu"].T.contiguous())
            self.b_glu = nn.Parameter(tensors["b_glu"].clone())

    @property
    def W_enc(self) -> Float[Tensor, "d_in d_sae"]:  # noqa: N802 - the field's name
        """Encoder, a view."""
        return self.encoder.T

    def _tensors_with(self, decoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights of encoder, decoder and activation function by the names of the file."""
        tensors = {
            "W_enc": self.W_enc.detach().contiguous(),
            self.activation.bias_name: self.b_enc.detach(),
            **decoder,
            **self.activation.tensors(),
        }
        if self.glu is not None and self.b_glu is not None:
            tensors |= {"W_glu": self.glu.T.detach().contiguous(), "b_glu": self.b_glu.detach()}
        return tensors

    @classmethod
    def _encoder_shapes(cls, config: DictionaryConfig) -> dict[str, tuple[int, ...]]:
        """Return the shapes of what does not depend on how it decodes; not of W_enc."""
        d_sae, width = config.d_sae, sum(config.d_in)
        kind = ACTIVATION_FUNCTIONS[config.semantics.activation.kind]
        found: dict[str, tuple[int, ...]] = {kind.bias_name: (d_sae,), **kind.shapes(d_sae)}
        if config.options.glu:
            found |= {"W_glu": (width, d_sae), "b_glu": (d_sae,)}
        return found

    @override
    def _blocks(self, inputs: Rows) -> Iterator[PreActivation]:
        """Yield pre-activations of fixed blocks of rows; each is overwritten by the next."""
        rows = self.reads.joined(inputs).contiguous()
        # Once for all blocks: a product with narrow vectors would widen them each time.
        encoder = self._wide(self.encoder)
        glu = None if self.glu is None else self._wide(self.glu)
        lengths = self.column_norms()
        for block, given in encoding.blocks(rows):
            yield self._pre_activation(block, encoder, glu, lengths, given=given)

    @override
    def encoder_vectors(self) -> Float[Tensor, "d_sae _"]:
        """Return each feature's encoder vector."""
        return self._wide(self.encoder.detach())

    @override
    def _pre_activations(self, inputs: Rows, *, detached: bool = False) -> PreActivation:
        """Return pre-activations of normalised rows, differentiable."""
        rows, lengths = self.reads.joined(inputs), self.column_norms()
        encoder: Tensor = self.encoder.detach() if detached else self.encoder
        glu: Tensor | None = self.glu
        if glu is not None and detached:
            glu = glu.detach()
        return self._pre_activation(rows, encoder, glu, lengths, given=None)

    def _pre_activation(
        self,
        rows: Tensor,
        encoder: Tensor,
        glu: Tensor | None,
        lengths: Tensor,
        *,
        given: int | None,
    ) -> PreActivation:
        """Return h and g of normalised rows, not computed yet; of the first `given` rows only."""
        shift = self.b_dec if self.config.semantics.subtract_b_dec else None
        read = rows if shift is None else rows - shift.detach()
        memory, dtype = self._scratch, products.asked(rows.device)
        linear = Projection(read, shift, encoder, self.b_enc, dtype, memory, "z", given, lent=True)
        dimmer = None
        if glu is not None and self.b_glu is not None:
            dimmer = Projection(rows, None, glu, self.b_glu, dtype, memory, "t", given)
        on_lengths = self.config.semantics.gate_on_decoder_norm
        return PreActivation(linear, dimmer, lengths, on_lengths, memory)
