"""Crosscoder: one code for several hookpoints, each encoded, and reconstructed, by a head of its own.

    h = Σ_l x'^l W_enc^l + b_enc          n^l_i = ‖W_dec^l[i]‖

    shared       ŷ'^l = f W_dec^l + b_dec^l         f = activation function of h, or of h N
    per_head     ŷ'^l = f^l W_dec^l + b_dec^l       f^l = activation function of h n^l, over n^l

    N_i = Σ_l n^l_i   (`head_norm` l1)    or    √(Σ_l n^l_i²)   (l2)

See `linear` for the rest, with N for n. L1 of the norms makes the loss a sum of SAE losses and lets a
feature belong to one head; L2 is better on squared error against L0 but takes that pressure away.
Weights: W_enc.{l} (d_l, d_sae), b_enc, W_dec.{l} (d_sae, d_l), b_dec.{l}, heads numbered in the order of
the hookpoints, which may differ in width.

With gating per head a feature is on at some heads and off at others; where it is on, its activation is h,
at every head the same number. A code has a column of each head and feature, those of a head beside each
other: k counts, penalties weigh (Σ_l f^l n^l) and thresholds stand at each head, threshold (L, d_sae). h is
computed once. Folding divides W_dec^l by a_l and with it n^l, so that θ^l becomes θ^l/a_l. `regating` says where
one kind of gating is the other.

Source: Lindsey et al. 2024, "Sparse Crosscoders for Cross-Layer Features and Model Diffing" (shared);
arXiv:2509.17196 and llamascopium, which divides n^l out of what it selected (per head).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from typing_extensions import override

from saestore.dictionaries import kernels
from saestore.dictionaries.base import Beginning
from saestore.dictionaries.code import SparseCode, TrainingCode
from saestore.dictionaries.linear import LinearDictionary
from saestore.dictionaries.linear_encoder import LinearlyEncoded
from saestore.dictionaries.passes import DictionaryOutput, Rows
from saestore.dictionaries.pre_activation import PreActivation, Projection, Repeated
from saestore.dictionaries.regating import regated
from saestore.dictionaries.revival import revived
from saestore.dictionaries.rewrites import Weights
from saestore.dictionaries.scale import Scale
from saestore.dictionaries.sides import Sides
from saestore_schemas.dictionary import DictionaryConfig
from saestore_schemas.families import LinearSettings
from saestore_schemas.gating import Gating


class CrossCoder(LinearDictionary):
    """A crosscoder whose heads share one gate."""

    family: ClassVar[str] = "crosscoder"
    by_head: ClassVar[bool] = True

    @classmethod
    @override
    def begin(cls, settings: LinearSettings, beginning: Beginning) -> LinearlyEncoded:
        """Return an untrained dictionary, with the settings' kind of gating; see `linear_start`."""
        if settings.parts()["gating"] == "per_head" and cls is CrossCoder:
            return PerHeadCrossCoder.begin(settings, beginning)
        return super().begin(settings, beginning)

    @classmethod
    @override
    def restore(
        cls,
        config: DictionaryConfig,
        scales: Mapping[str, Scale],
        tensors: Mapping[str, Tensor],
    ) -> "CrossCoder":
        """Return the dictionary with these weights, with the record's kind of gating."""
        kind = PerHeadCrossCoder if config.options.gating == "per_head" else CrossCoder
        return kind(config, scales, tensors)

    @classmethod
    @override
    def shapes(cls, config: DictionaryConfig) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor of the file format."""
        found = super().shapes(config)
        if config.options.gating == "per_head" and "threshold" in found:
            found["threshold"] = (config.gates, config.d_sae)
        return found

    @classmethod
    @override
    def lengths(
        cls, decoder: Float[Tensor, "d_sae d_out"], config: DictionaryConfig
    ) -> Float[Tensor, " d_sae"]:
        """Return the norm over heads of the lengths of each feature's decoder vectors."""
        if config.semantics.head_norm == "l2":
            joined: Tensor = torch.linalg.vector_norm(decoder, dim=1)
            return joined
        return cls._each_head(decoder, config).sum(dim=1)

    @staticmethod
    def _each_head(decoder: Tensor, config: DictionaryConfig) -> Float[Tensor, "d_sae head"]:
        sides = Sides(config.hookpoints_out, config.d_out)
        parts = sides.split(decoder).values()
        return torch.stack([torch.linalg.vector_norm(part, dim=1) for part in parts], dim=1)

    @override
    def with_gating(self, gating: Gating) -> "CrossCoder":
        """Return a crosscoder whose heads gate as one or each by itself, with the same codes.

        A feature that writes nothing at a head, where heads gate by themselves, never fires there.

        Raises:
            UnsupportedError: Codes would be others, and why.
        """
        if gating == self.config.options.gating:
            return self
        tensors = self.tensors()
        decoder = self.W_dec.detach().double()
        found = regated(
            self.config,
            gating,
            norms=self._each_head(decoder, self.config),
            lengths=self.lengths(decoder, self.config),
            threshold=tensors.get("threshold"),
        )
        if found.threshold is not None:
            tensors["threshold"] = found.threshold.to(tensors["threshold"].dtype)
        return self.restore(found.config, self.scales, tensors)

    def head_norms(self) -> Float[Tensor, "d_sae head"]:
        """Return the length of each feature's decoder vector at each head, in the weights' units."""
        return self._each_head(self._wide(self.W_dec.detach()), self.config)


class PerHeadCrossCoder(CrossCoder):
    """A crosscoder whose heads gate by themselves."""

    @classmethod
    @override
    def _joined(cls, config: DictionaryConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a file, heads side by side, thresholds of all heads in one axis."""
        found = super()._joined(config, tensors)
        if "threshold" in found:
            found["threshold"] = found["threshold"].flatten()
        return found

    @classmethod
    @override
    def _separate(cls, config: DictionaryConfig, joined: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return joined tensors as the file has them; one threshold of a feature is that of all heads."""
        found = super()._separate(config, joined)
        if "threshold" in found:
            each = found["threshold"].view(-1, config.d_sae)
            found["threshold"] = each.expand(config.gates, -1).contiguous()
        return found

    @override
    def column_norms(self) -> Float[Tensor, " _"]:
        """Return the length of each feature's decoder vector at each head, head by head."""
        return _by_head(self._each_head(self._wide(self.W_dec), self.config))

    @override
    def decode_code(
        self, code: TrainingCode, inputs: Rows, *, detached: bool = False
    ) -> dict[str, Float[Tensor, "row _"]]:
        """Return the reconstructions in normalised units, differentiable."""
        decoder: Tensor = self.W_dec.detach() if detached else self.W_dec
        parts = zip(code.split([self.d_sae] * self.gates), self._vectors(decoder), strict=True)
        written = torch.cat([part.decoded(vectors) for part, vectors in parts], dim=1)
        return self.writes.split(written + self._rest(inputs, detached=detached))

    @override
    def decode_between(
        self, code: TrainingCode, inputs: Rows, start: int, stop: int
    ) -> dict[str, Float[Tensor, "row _"]]:
        """Return what a range of features adds to the reconstructions, differentiable."""
        found = {}
        vectors = self._vectors(self.W_dec[start:stop])
        for hook, own, each in zip(self.hookpoints_out, self._gate_columns(), vectors, strict=True):
            part = code.between(own.start + start, own.start + stop)
            found[hook] = part.decoded(each)
        return found

    @override
    def decode_normalised(
        self, code: SparseCode, inputs: Rows | None = None
    ) -> dict[str, Float[Tensor, "row _"]]:
        """Return the reconstructions in normalised units."""
        pairs = kernels.Pairs(code.offsets, code.indices, code.d_sae)
        parts = []
        for own, vectors in zip(self._gate_columns(), self._vectors(self.W_dec), strict=True):
            fired, places = pairs.between(own.start, own.stop)
            parts.append(fired.by_rows(code.values[places], vectors))
        return self.writes.split(torch.cat(parts, dim=1) + self.b_dec)

    @override
    def reconstruct_with(
        self, inputs: Rows, output: DictionaryOutput, features: Int64[Tensor, " feature"], k: int
    ) -> dict[str, Float[Tensor, "row _"]]:
        """Return what some columns alone would add, from raw pre-activations, without b_dec.

        Each head uses its own share of the `k` on a row.
        """
        found, most = {}, max(1, k // self.gates)
        vectors = self._vectors(self.W_dec)
        for hook, own, each in zip(self.hookpoints_out, self._gate_columns(), vectors, strict=True):
            mine = features[(features >= own.start) & (features < own.stop)] - own.start
            pre = output.pre.between(own.start, own.stop)
            found[hook] = revived(pre, each, mine, most)
        return found

    def _vectors(self, decoder: Float[Tensor, "d_sae _"]) -> list[Float[Tensor, "d_sae d_out"]]:
        """Return each head's decoder vectors, as views."""
        return list(self.writes.split(decoder).values())

    @override
    def _pre_activation(
        self,
        rows: Tensor,
        encoder: Tensor,
        glu: Tensor | None,
        lengths: Tensor,
        *,
        given: int | None,
    ) -> PreActivation:
        """Return h and what each head makes of it; h computed once, of the first `given` rows only."""
        pre = super()._pre_activation(rows, encoder, glu, lengths, given=given)
        linear = pre.linear
        if not isinstance(linear, Projection):
            raise TypeError(linear)
        read = linear.rows[:given]
        once = Projection.known_as(linear.values, read, linear.shift, linear.vectors, linear.bias)
        return PreActivation(
            Repeated(once, self.gates), None, lengths, on_lengths=True, memory=pre.memory
        )

    @override
    def _weights(self) -> Weights:
        """Return all that it is, with the lengths that gate."""
        given, config = super()._weights(), self.config

        def lengths(tensors: Mapping[str, Tensor]) -> Float[Tensor, " _"]:
            return _by_head(self._each_head(tensors["W_dec"], config))

        return replace(given, lengths=lengths)


def _by_head(norms: Float[Tensor, "d_sae head"]) -> Float[Tensor, " _"]:
    """Return a number of each feature and head, head by head."""
    return norms.T.reshape(-1)
