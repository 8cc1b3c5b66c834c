"""Families whose encoder and decoder are linear maps, over hookpoints side by side.

    ŷ' = f W_dec + b_dec (+ x' W_skip)

See `linear_encoder` for f. ŷ' holds the reconstructions of all output hookpoints side by side: a
crosscoder's heads are stretches of them. What differs is how a family counts decoder lengths n, how its
weights start, and what it calls them in the file.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from saestore.dictionaries import kernels, linear_start, products, rewrites
from saestore.dictionaries.base import Beginning
from saestore.dictionaries.code import SparseCode, TrainingCode
from saestore.dictionaries.linear_encoder import LinearEncoder
from saestore.dictionaries.passes import DictionaryOutput, Rows
from saestore.dictionaries.revival import revived
from saestore.dictionaries.rewrites import Weights
from saestore.dictionaries.scale import Scale
from saestore.dictionaries.sides import Sides, sides_of
from saestore.errors import UnsupportedError
from saestore_schemas.dictionary import DictionaryConfig
from saestore_schemas.families import LinearSettings


class LinearDictionary(LinearEncoder):
    """Linear encoder, activation function, linear decoder.

    Attributes:
        W_dec: Decoder vectors, one a row.
        skip: Linear map from input to output beside the features, where there is one.
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
        joined = self._joined(config, tensors)
        super().__init__(config, scales, joined)
        self.W_dec = nn.Parameter(joined["W_dec"].contiguous())
        self.b_dec = nn.Parameter(joined["b_dec"].clone())
        self.skip = nn.Parameter(joined["W_skip"].clone()) if config.options.skip else None

    @classmethod
    @override
    def _started(
        cls,
        settings: LinearSettings,
        beginning: Beginning,
        config: DictionaryConfig,
        scales: Mapping[str, Scale],
    ) -> "LinearDictionary":
        """Return the dictionary that has a record, with starting weights of its own."""
        start = linear_start.DecoderStart(settings, beginning, config, scales)

        def made(tensors: Mapping[str, Tensor]) -> "LinearDictionary":
            return cls(config, scales, cls._separate(config, tensors))

        return made(start.tensors(start.length(made)))

    @classmethod
    @override
    def shapes(cls, config: DictionaryConfig) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor of the file format."""
        reads, writes = sides_of(config)
        found = cls._encoder_shapes(config)
        found |= {name: (width, config.d_sae) for name, width in cls._names("W_enc", reads)}
        for name, width in cls._names("W_dec", writes):
            found[name] = (config.d_sae, width)
        found |= {name: (width,) for name, width in cls._names("b_dec", writes)}
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
        reads, writes = sides_of(config)
        found = dict(tensors)
        for name, sides, axis in (("W_enc", reads, 0), ("W_dec", writes, 1), ("b_dec", writes, 0)):
            parts = [found.pop(part) for part, _ in cls._names(name, sides)]
            found[name] = parts[0] if len(parts) == 1 else torch.cat(parts, dim=axis)
        return found

    @classmethod
    def _separate(cls, config: DictionaryConfig, joined: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return joined tensors as the file has them."""
        reads, writes = sides_of(config)
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
        decoder = {"W_dec": self.W_dec.detach(), "b_dec": self.b_dec.detach()}
        tensors = self._tensors_with(decoder)
        if self.skip is not None:
            tensors["W_skip"] = self.skip.detach()
        return tensors

    @classmethod
    @abstractmethod
    def lengths(
        cls, decoder: Float[Tensor, "d_sae d_out"], config: DictionaryConfig
    ) -> Float[Tensor, " d_sae"]:
        """Return the decoder lengths n that a family gates and penalises with, differentiable."""

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
        decoder: Tensor = self.W_dec.detach() if detached else self.W_dec
        written, rest = code.decoded(decoder), self._rest(inputs, detached=detached)
        if written.dtype != rest.dtype:
            return self.writes.split(written + rest)
        return self.writes.split(kernels.added(written, rest))

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
        """Return what some features alone would add, from raw pre-activations, without b_dec."""
        return self.writes.split(revived(output.pre, self.W_dec, features, k))

    @override
    def folded(self) -> "LinearDictionary":
        """Return the same dictionary in raw units: it reads and reconstructs rows as they are stored."""
        return self._restored(rewrites.folded(self._weights()))

    @override
    def decoder_norms(self) -> Float[Tensor, " d_sae"]:
        """Return the length of each feature's decoder vector, in the weights' units."""
        return self.lengths(self._wide(self.W_dec), self.config)

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
    def logit_directions(self) -> Mapping[int, Float[Tensor, "d_sae d_model"]]:
        """Return what each feature writes at each output hookpoint: heads are never added."""
        return dict(enumerate(self.writes.split(self.decoder_vectors()).values()))

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

    @override
    def _weights(self) -> Weights:
        """Return all that it is."""
        config, lengths = self.config, type(self).lengths
        return Weights(
            config,
            self.scales,
            self._whole(),
            lengths=lambda tensors: lengths(tensors["W_dec"], config),
            divided=lambda tensors, by: {"W_dec": tensors["W_dec"] / by.unsqueeze(1)},
        )

    @override
    def _restored(self, weights: Weights) -> "LinearDictionary":
        """Return the dictionary with these weights."""
        separate = self._separate(weights.config, weights.tensors)
        return type(self)(weights.config, weights.scales, separate)
