"""Sparse autoencoder: reconstructs the hookpoint it reads.

    h = (x' − s b_dec) W_enc + b_enc
    f = activation function of h, gated on h or on h * n, with n_i = ‖W_dec[i]‖
    ŷ' = f W_dec + b_dec

Weights: W_enc (d_in, d_sae), b_enc, W_dec (d_sae, d_in), b_dec. The encoder is kept transposed in
memory, one feature a row, because the sparse gradients, the dead features and the fold all work on
features.

Source: Bricken et al. 2023, "Towards Monosemanticity"; Gao et al. 2024 (arXiv:2406.04093).
"""

import copy
from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, pad
from typing_extensions import override

from saestore.dictionaries import kernels, products
from saestore.dictionaries.activation_functions import activation_function
from saestore.dictionaries.base import Beginning, DictionaryOutput, SparseDictionary
from saestore.dictionaries.code import SparseCode
from saestore.dictionaries.pre_activation import PreActivation, Scratch
from saestore.dictionaries.scale import Scale, measured
from saestore.errors import ConfigError, UnsupportedError
from saestore.lake import manifest as manifests
from saestore_schemas.dictionary import (
    DictionaryConfig,
    InferenceRecord,
    SaeSettings,
    Semantics,
)


ENCODE_ROWS = 256
"""Rows of one encoder product at inference. Always this many, the last ones filled up with zeros:
libraries choose their arithmetic by the shape, and a row's code must not depend on its mates."""

PRODUCT_FEATURES = 16
"""Narrower encoder products are filled up to this width: below it MKL sums a row differently from
place to place in the block (seen at up to 11 columns, never from 13 on)."""


class Sae(SparseDictionary):
    """A sparse autoencoder.

    Attributes:
        encoder: Encoder vectors, one a row: W_enc transposed.
        b_enc: Encoder bias.
        W_dec: Decoder vectors, one a row.
        b_dec: Decoder bias.
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
        self.b_enc = nn.Parameter(tensors["b_enc"].clone())
        self.W_dec = nn.Parameter(tensors["W_dec"].contiguous())
        self.b_dec = nn.Parameter(tensors["b_dec"].clone())
        self.activation = activation_function(config.semantics.activation)
        self._scratch = Scratch()

    @classmethod
    @override
    def begin(cls, settings: SaeSettings, beginning: Beginning) -> "Sae":
        """Return an untrained SAE.

        W_dec: random directions of length r (1 for unit decoders); W_enc = tie_factor * W_dec
        transposed; b_enc = 0; b_dec = 0 or the mean of the normalised rows.

        Raises:
            ConfigError: A setting contradicts the widths or the moments.
            HookpointNotFoundError: The store has no such hookpoint.
        """
        hook, init = settings.hookpoint, beginning.init
        width = beginning.width(hook)
        d_sae = settings.d_sae or max(1, round((settings.expansion or 1.0) * width))
        k = getattr(settings.activation, "k", 0)
        if k > d_sae:
            raise ConfigError(
                field="dictionary.activation.k", found=k, expected=f"at most d_sae = {d_sae}"
            )
        moments = beginning.moments[hook]
        scale = measured(hook, settings.scale, moments, beginning.excluded)
        decoder = torch.from_numpy(beginning.directions(d_sae, width, init.decoder_vector_norm))
        bias = torch.zeros(width)
        if init.decoder_bias == "mean" and scale.mean is None:
            bias = torch.tensor(moments.mean * scale.record.a, dtype=torch.float32)
        result = cls(
            _record(settings, width, d_sae, scale),
            {hook: scale},
            {
                "W_enc": (init.tie_factor * decoder.T).float(),
                "b_enc": torch.zeros(d_sae),
                "W_dec": decoder.float(),
                "b_dec": bias,
            },
        )
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
        return {
            "W_enc": (d_in, d_sae),
            "b_enc": (d_sae,),
            "W_dec": (d_sae, d_in),
            "b_dec": (d_in,),
        }

    @override
    def tensors(self) -> dict[str, Tensor]:
        """Return the weights by the names of the file format."""
        return {
            "W_enc": self.W_enc.detach().contiguous(),
            "b_enc": self.b_enc.detach(),
            "W_dec": self.W_dec.detach(),
            "b_dec": self.b_dec.detach(),
        }

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
        rows = inputs[self.hookpoint]
        read = self._read(rows)
        pre = self._pre_activation(read, rows=len(rows))
        code = self.activation.code(pre)
        reconstruction = code.decoded(self.W_dec) + self.b_dec
        return DictionaryOutput(code, {self.hookpoint: reconstruction}, pre.values, pre.gate)

    @override
    def encode_normalised(self, inputs: Mapping[str, Float[Tensor, "row _"]]) -> SparseCode:
        """Return the firings of normalised rows, in fixed blocks of rows."""
        read = self._read(inputs[self.hookpoint].contiguous())
        parts = []
        for start in range(0, max(len(read), 1), ENCODE_ROWS):
            block = read[start : start + ENCODE_ROWS]
            given = len(block)
            if given < ENCODE_ROWS:
                block = pad(block, (0, 0, 0, ENCODE_ROWS - given))
            pre = self._pre_activation(block, rows=ENCODE_ROWS)
            whole = pre.gate is pre.values
            values = pre.values[:given]
            parts.append(self.activation.firings(values, values if whole else pre.gate[:given]))
        return SparseCode.concatenated(parts)

    @override
    def decode_normalised(
        self, code: SparseCode, inputs: Mapping[str, Float[Tensor, "row _"]] | None = None
    ) -> dict[str, Float[Tensor, "row _"]]:
        """Return the reconstruction in normalised units."""
        summed = embedding_bag(
            code.indices,
            self.W_dec,
            code.offsets,
            per_sample_weights=code.values,
            mode="sum",
            include_last_offset=True,
        )
        return {self.hookpoint: summed + self.b_dec}

    @override
    def reconstruct_with(
        self,
        inputs: Mapping[str, Float[Tensor, "row _"]],
        output: DictionaryOutput,
        features: Int64[Tensor, " feature"],
        k: int,
    ) -> dict[str, Float[Tensor, "row _"]]:
        """Return what some features alone would add, from raw pre-activations, without b_dec.

        The pre-activations of these features alone are computed again, so that nothing here costs
        what all features would.
        """
        read = self._read(inputs[self.hookpoint])
        encoder, decoder = self.encoder[features], self.W_dec[features]
        bias = self.b_enc[features]
        gate = output.gate[:, features]
        values = output.pre_activation[:, features]
        if k >= len(features):
            activations = kernels.dense(read, encoder, bias, values)
            return {self.hookpoint: activations @ decoder}
        indices = torch.topk(gate, k, dim=1, sorted=False).indices
        pairs = kernels.Pairs(indices, len(features))
        picked = values.gather(1, indices)
        keep = torch.ones_like(indices, dtype=torch.bool)
        kept = kernels.picked(read, encoder, bias, picked, keep, pairs)
        return {self.hookpoint: kernels.decoded(kept, decoder, pairs)}

    @override
    def folded(self) -> "Sae":
        """Return the same SAE in raw units: it reads and reconstructs rows as they are stored.

        W_enc *= a; b_enc −= a μ W_enc + s b_dec W_enc; W_dec /= a; b_dec = b_dec/a + μ; s = 0.
        Computed in float64 and rounded once.

        Raises:
            UnsupportedError: It is folded already.
        """
        scale = self.scales[self.hookpoint]
        if not scale.external:
            raise UnsupportedError(
                f"the normalisation of {self.hookpoint} is folded into the weights already",
                found="state folded",
                expected="state external",
                hint="use the dictionary as it is: folding twice would scale it twice",
            )
        a = scale.record.a
        old = {name: tensor.double() for name, tensor in self.tensors().items()}
        mean = torch.zeros_like(old["b_dec"])
        if scale.mean is not None:
            mean = scale.mean.to(mean)
        shift = a * mean
        if self.config.semantics.subtract_b_dec:
            shift = shift + old["b_dec"]
        new = {
            "W_enc": old["W_enc"] * a,
            "b_enc": old["b_enc"] - shift @ old["W_enc"],
            "W_dec": old["W_dec"] / a,
            "b_dec": old["b_dec"] / a + mean,
        }
        record = scale.record.model_copy(update={"state": "folded"})
        config = self.config.model_copy(
            update={
                "scale": {self.hookpoint: record},
                "semantics": self.config.semantics.model_copy(update={"subtract_b_dec": False}),
            }
        )
        dtype = self.encoder.dtype
        return Sae(
            config,
            {self.hookpoint: Scale(record, scale.mean)},
            {name: tensor.to(dtype) for name, tensor in new.items()},
        )

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
        """Return None: ReLU and top-k compare with zero or with each other."""
        return None

    @override
    def logit_directions(self) -> Float[Tensor, "d_sae d_model"]:
        """Return the decoder vectors: what each feature writes into the residual stream."""
        return self.W_dec.detach()

    @property
    @override
    def fixes_l0(self) -> bool:
        """Whether the activation function sets L0 by itself."""
        return self.activation.fixes_l0

    @override
    def scalars(self) -> dict[str, float]:
        """Return numbers of the activation function worth logging."""
        return self.activation.scalars()

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

    def _read(self, rows: Tensor) -> Tensor:
        """Return what the encoder reads."""
        return rows - self.b_dec if self.config.semantics.subtract_b_dec else rows

    def _pre_activation(self, read: Tensor, *, rows: int) -> PreActivation:
        """Return h and g of what the encoder reads, in kept memory."""
        with torch.no_grad():
            encoder: Tensor = self.encoder
            bias: Tensor = self.b_enc
            missing = PRODUCT_FEATURES - self.d_sae
            if missing > 0:
                encoder, bias = pad(encoder, (0, 0, 0, missing)), pad(bias, (0, missing))
            h = self._scratch.take("h", rows, len(encoder), encoder)
            h = products.biased(read, encoder, bias, h)[:, : self.d_sae]
            g = h
            if self.config.semantics.gate_on_decoder_norm:
                g = self._scratch.take("g", rows, self.d_sae, self.encoder)
                torch.mul(h, self.decoder_norms(), out=g)
        return PreActivation(h, g, read, self.encoder, self.b_enc)

    def __deepcopy__(self, memo: dict[int, object]) -> "Sae":
        """Copy weights; kept memory starts anew."""
        result = Sae(
            copy.deepcopy(self.config, memo),
            self.scales,
            {name: tensor.clone() for name, tensor in self.tensors().items()},
        )
        for mine, theirs in zip(self.parameters(), result.parameters(), strict=True):
            theirs.requires_grad_(mine.requires_grad)
        return result


def _record(settings: SaeSettings, width: int, d_sae: int, scale: Scale) -> DictionaryConfig:
    """Return the record of an untrained SAE."""
    versions = manifests.library_versions()
    return DictionaryConfig(
        family="sae",
        d_in=(width,),
        d_out=(width,),
        d_sae=d_sae,
        dtype=settings.dtype,
        hookpoints_in=(settings.hookpoint,),
        hookpoints_out=(settings.hookpoint,),
        semantics=Semantics(
            subtract_b_dec=settings.subtract_b_dec,
            gate_on_decoder_norm=settings.gate_on_decoder_norm,
            decoder_norm=settings.decoder_norm,
            activation=settings.activation,
            inference=InferenceRecord(kind="same_as_training"),
            l0_scope="row",
            firing="positive",
        ),
        scale={settings.hookpoint: scale.record},
        model=None,
        train=None,
        parents=(),
        versions={name: versions[name] for name in ("saestore", "torch")},
    )
