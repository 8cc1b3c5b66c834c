"""Mixture of linear transforms: each feature adds a linear map of the input, of low rank.

    φ = activation function of h, gated on h or on h * n          h = x' W_enc + b_enc
    ŷ' = Σ_t φ_t (x' V_tᵀ) U_tᵀ + b_dec                           n_t = ‖U_t V_t‖_F

See `linear_encoder` for φ and `transforms` for the sum. A code alone cannot be decoded: the transforms
read x'. Weights: W_enc (d_in, d_sae), b_enc, b_dec, and for each rank r U.{r} (count, d_out, r) and V.{r}
(count, r, d_in); features are in the order of descending rank.

Without biases ŷ' is homogeneous of degree 2 in x': folding multiplies encoder and V by a, and U by 1/c.
Folding takes an input that is not centred, because φ_t U_t V_t μ is a bias of each transform, and there
is none to take it. The output may be centred.

Each transform starts with U and V between the same bounds, so that together those that are expected to
fire write about as much as the output is long; W_enc between ±1/√d_sae. How Anthropic starts them is not
published.

A feature writes another direction on each row. What stands for it where one is asked for is the leading
left singular vector of U_t V_t, times its singular value, signed as rows along its encoder vector write it.

Source: Anthropic 2025, "Sparse mixtures of linear transforms".
"""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from saestore.dictionaries import kernels, precision, rewrites
from saestore.dictionaries.base import Beginning
from saestore.dictionaries.code import SparseCode, TrainingCode
from saestore.dictionaries.linear_encoder import LinearEncoder
from saestore.dictionaries.linear_start import Start
from saestore.dictionaries.passes import DictionaryOutput, Rows
from saestore.dictionaries.revival import strongest
from saestore.dictionaries.rewrites import Tensors, Weights
from saestore.dictionaries.scale import Scale
from saestore.dictionaries.transforms import Group, Transforms
from saestore.errors import ConfigError, UnsupportedError
from saestore_schemas.analyze import LogitScore
from saestore_schemas.dictionary import DictionaryConfig
from saestore_schemas.families import MoltSettings


class Molt(LinearEncoder):
    """A mixture of linear transforms.

    Attributes:
        U: By rank, what transforms write with.
        V: By rank, what transforms read with.
        b_dec: Decoder bias.
    """

    family: ClassVar[str] = "molt"
    logit_score: ClassVar[LogitScore] = "left_singular"

    def __init__(
        self,
        config: DictionaryConfig,
        scales: Mapping[str, Scale],
        tensors: Mapping[str, Tensor],
    ) -> None:
        """Take weights by the names of the file.

        Raises:
            UnsupportedError: Its input is centred.
        """
        super().__init__(config, scales, tensors)
        for hookpoint in self.hookpoints_in:
            if self.scales[hookpoint].external and self.scales[hookpoint].mean is not None:
                raise UnsupportedError(
                    f"rows of {hookpoint} are centred before transforms read them, which adds a bias to "
                    "each that no weights can contain",
                    found=self.scales[hookpoint].record.kind,
                    expected="a normalisation without a mean, such as dataset_rms",
                    hint="set dictionary.scale = 'dataset_rms'; scale_out may centre the output",
                )
        self.U = nn.ParameterDict({f"{r}": tensors[f"U.{r}"].contiguous() for r in self.counts})
        self.V = nn.ParameterDict({f"{r}": tensors[f"V.{r}"].contiguous() for r in self.counts})
        self.b_dec = nn.Parameter(tensors["b_dec"].clone())

    @property
    def counts(self) -> dict[int, int]:
        """How many transforms of each rank, descending."""
        return self.config.options.ranks or {}

    @property
    def transforms(self) -> Transforms:
        """The transforms of all features, differentiable."""
        return Transforms(tuple(Group(self.U[f"{r}"], self.V[f"{r}"]) for r in self.counts))

    @classmethod
    @override
    def _started(
        cls,
        settings: MoltSettings,
        beginning: Beginning,
        config: DictionaryConfig,
        scales: Mapping[str, Scale],
    ) -> "Molt":
        """Return the dictionary that has a record, with starting weights of its own.

        Raises:
            ConfigError: A rank is more than input or output are wide.
        """
        (d_in,), (d_out,) = config.d_in, config.d_out
        highest = max(settings.ranks)
        if highest > min(d_in, d_out):
            raise ConfigError(
                field="dictionary.ranks",
                found=highest,
                expected=f"at most {min(d_in, d_out)}, the rank of any map from {d_in} to {d_out}",
                hint="remove that rank, and add transforms of lower ones",
            )
        start = Start(settings, beginning, config, scales)
        bound = 1 / math.sqrt(config.d_sae)
        encoder = beginning.rng.uniform(-bound, bound, (config.d_sae, d_in))
        found = {"W_enc": torch.from_numpy(encoder.T), "b_dec": torch.from_numpy(start.bias)}
        found |= start.owned(encoder)
        gain = _gain(settings, beginning, config, scales)
        for rank, count in (config.options.ranks or {}).items():
            # E‖UVx'‖² = d_out rank var² ‖x'‖², the variance of a uniform draw being bound²/3.
            bound = math.sqrt(3 * gain / math.sqrt(d_out * rank))
            for name, shape in (("U", (count, d_out, rank)), ("V", (count, rank, d_in))):
                drawn = beginning.rng.uniform(-bound, bound, shape)
                found[f"{name}.{rank}"] = torch.from_numpy(drawn)
        found = {name: tensor.contiguous() for name, tensor in found.items()}
        return cls(config, scales, precision.rounded(found, settings.dtype))

    @classmethod
    @override
    def shapes(cls, config: DictionaryConfig) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor of the file format."""
        (d_in,), (d_out,) = config.d_in, config.d_out
        found = cls._encoder_shapes(config)
        found |= {"W_enc": (d_in, config.d_sae), "b_dec": (d_out,)}
        for rank, count in (config.options.ranks or {}).items():
            found |= {f"U.{rank}": (count, d_out, rank), f"V.{rank}": (count, rank, d_in)}
        return found

    @override
    def tensors(self) -> dict[str, Tensor]:
        """Return the weights by the names of the file format."""
        decoder = {f"U.{r}": self.U[f"{r}"].detach() for r in self.counts}
        decoder |= {f"V.{r}": self.V[f"{r}"].detach() for r in self.counts}
        return self._tensors_with({**decoder, "b_dec": self.b_dec.detach()})

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
        transforms = self.transforms.detached() if detached else self.transforms
        bias: Tensor = self.b_dec.detach() if detached else self.b_dec
        return self.writes.split(code.transformed(self.reads.joined(inputs), transforms) + bias)

    @override
    def decode_between(
        self, code: TrainingCode, inputs: Rows, start: int, stop: int
    ) -> dict[str, Float[Tensor, "row _"]]:
        """Return what a range of features adds to the reconstructions, differentiable."""
        chosen, transforms = code.between(start, stop), self.transforms.between(start, stop)
        return self.writes.split(chosen.transformed(self.reads.joined(inputs), transforms))

    @override
    def without_features(self, inputs: Rows) -> dict[str, Float[Tensor, "... _"]]:
        """Return the decoder bias, differentiable."""
        return self.writes.split(self.b_dec)

    @override
    def decode_normalised(
        self, code: SparseCode, inputs: Rows | None = None
    ) -> dict[str, Float[Tensor, "row _"]]:
        """Return the reconstructions in normalised units.

        Raises:
            UnsupportedError: The rows that were encoded are not given.
        """
        if inputs is None:
            raise UnsupportedError(
                "this dictionary puts its input through transforms: a code alone does not say what it read",
                found="codes",
                expected="codes and the rows that were encoded",
                hint="decode(code, inputs)",
            )
        pairs = kernels.Pairs(code.offsets, code.indices, code.d_sae)
        rows = self.reads.joined(inputs)
        return self.writes.split(self.transforms.of_pairs(rows, code.values, pairs) + self.b_dec)

    @override
    def reconstruct_with(
        self, inputs: Rows, output: DictionaryOutput, features: Int64[Tensor, " feature"], k: int
    ) -> dict[str, Float[Tensor, "row _"]]:
        """Return what some features alone would add, from raw pre-activations, without b_dec."""
        rows = self.reads.joined(inputs)
        if k >= len(features):
            strengths = output.pre.of(features).dense()
            return self.writes.split(self.transforms.of(features).of_all(rows, strengths))
        pairs, strengths = output.pre.chosen(strongest(k), features)
        return self.writes.split(self.transforms.of_pairs(rows, strengths, pairs))

    @override
    def folded(self) -> "Molt":
        """Return the same dictionary in raw units.

        W_enc *= a; V *= a; U /= c; b_dec = b_dec/c + ν; θ on h n: θ a/c
        """
        given = self._weights()
        rewrites.refuse_folding(given)
        a, c = (self.scales[side.hookpoints[0]].record.a for side in (self.reads, self.writes))
        _, centre = given.spread(self.writes)
        old = given.exact()
        tensors = {
            **old,
            **given.moved(gate=a / c if given.on_lengths else 1.0),
            "W_enc": old["W_enc"] * a,
            **_each(old, "U.", 1 / c),
            **_each(old, "V.", a),
            "b_dec": old["b_dec"] / c + centre,
        }
        return self._restored(given.rewritten(tensors, {}, scales=given.contained()))

    @override
    def decoder_norms(self) -> Float[Tensor, " d_sae"]:
        """Return ‖U_t V_t‖_F of each feature, in the weights' units."""
        return self._wide_transforms().norms()

    @override
    def decoder_vectors(self) -> Float[Tensor, "d_sae _"]:
        """Return what stands for each feature's decoder vector: see the top of this file."""
        transforms = self._wide_transforms().detached()
        parts = [group.leading() for group in transforms.groups]
        written, read = (torch.cat(each) for each in zip(*parts, strict=True))
        along = torch.linalg.vecdot(read, self.encoder_vectors())
        signed: Tensor = torch.where(along < 0, -1.0, 1.0).unsqueeze(1) * written
        return signed

    @override
    def enc_dec_cosine(self) -> Float[Tensor, " d_sae"]:
        """Return NaN: a transform is no vector."""
        return torch.full_like(self.b_enc.detach(), torch.nan)

    @override
    def logit_directions(self) -> Mapping[int, Float[Tensor, "d_sae d_model"]]:
        """Return what stands for what each feature writes: see the top of this file."""
        return {0: self.decoder_vectors()}

    @property
    @override
    def maps(self) -> Transforms | None:
        """The transforms, as constants."""
        return self._wide_transforms().detached()

    @property
    @override
    def groups(self) -> dict[str, dict[str, slice]]:
        """The features of each rank, where there are several."""
        places = [place for place, _ in self.transforms.located()]
        ranks = {f"rank{rank}": place for rank, place in zip(self.counts, places, strict=True)}
        return {"rank": ranks} if len(ranks) > 1 else {}

    @override
    def ranks(self) -> Int64[Tensor, " d_sae"]:
        """Return the rank of each feature's transform."""
        ranks, counts = (
            torch.tensor(list(each)) for each in zip(*self.counts.items(), strict=True)
        )
        return ranks.repeat_interleave(counts)

    @override
    def project_gradient_(self, weights: Mapping[str, Tensor] | None = None) -> None:
        """Do nothing: transforms are free."""

    @override
    def renormalise_(self, weights: Mapping[str, Tensor] | None = None) -> None:
        """Do nothing: transforms are free."""

    def _wide_transforms(self) -> Transforms:
        return self.transforms.wide(precision.wide(next(iter(self.U.values())).dtype))

    @override
    def _weights(self) -> Weights:
        """Return all that it is."""
        tensors = self.tensors()
        ranks = self.counts
        return Weights(
            self.config,
            self.scales,
            tensors,
            lengths=lambda given: _transforms(given, ranks).norms(),
            divided=lambda given, by: _divided(given, ranks, by),
        )

    @override
    def _restored(self, weights: Weights) -> "Molt":
        """Return the dictionary with these weights."""
        return type(self)(weights.config, weights.scales, weights.tensors)


def _transforms(tensors: Tensors, ranks: Mapping[int, int]) -> Transforms:
    return Transforms(tuple(Group(tensors[f"U.{r}"], tensors[f"V.{r}"]) for r in ranks))


def _each(tensors: Tensors, name: str, factor: float) -> dict[str, Tensor]:
    """Return the tensors whose names begin so, times a factor."""
    return {each: t * factor for each, t in tensors.items() if each.startswith(name)}


def _divided(
    tensors: Tensors, ranks: Mapping[int, int], by: Float[Tensor, " d_sae"]
) -> dict[str, Tensor]:
    """Return U, each feature's divided by a number."""
    parts = torch.split(by, list(ranks.values()))
    return {
        f"U.{rank}": tensors[f"U.{rank}"] / part[:, None, None]
        for rank, part in zip(ranks, parts, strict=True)
    }


def _gain(
    settings: MoltSettings,
    beginning: Beginning,
    config: DictionaryConfig,
    scales: Mapping[str, Scale],
) -> float:
    """Return how long one transform's output is to be for an input of length 1.

    The output's root mean square, over the transforms expected to fire on a row: k, or those that
    `init.firing_rate` says, or half of them.
    """
    lengths = []
    for hook in (settings.hookpoint_in, settings.hookpoint_out):
        moments, scale = beginning.moments[hook], scales[hook]
        squares = moments.norm_sq_sum if scale.mean is None else float(moments.m2.sum())
        lengths.append(scale.record.a * math.sqrt(squares / max(moments.count, 1)))
    rate = beginning.init.firing_rate or 0.5
    active = getattr(settings.activation, "k", rate * config.d_sae)
    return lengths[1] / (max(active, 1.0) * (lengths[0] or 1.0))
