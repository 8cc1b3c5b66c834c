"""Starting weights of a Lorsa: random ones, or those of the attention it is to replace.

    random      W_Q, W_K uniform within √(6 / (d_in + d_qk)), W_V ~ N(0, 1/d_sae), W_O ~ N(0, 1/d_out), biases 0
    host        W_Q = W_host / a, b_Q = b_host + μ W_host, so that x' gives the host's queries; keys likewise;
                each host head serves n_qk / heads neighbouring groups
                W_V[i] in the directions of most variance of x W_V^j W_V^jᵀ, W_O[i] = W_V[i] W_V^j W_O^j, both of
                length 1: what head j writes for what the feature reads
    sign_flip   W_V[i], W_O[i] negated where z_i is positive on few rows: the same map, but it fires

then active subspace, decoder bias, the length of unit decoders, sign_flip and encoder bias, in this order. z
is measured on a sample of contexts that training sees again.
"""

import math
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from saestore.dictionaries import initial, linear_start, precision
from saestore.dictionaries.base import Beginning
from saestore.dictionaries.contexts import each
from saestore.dictionaries.host import HostAttention
from saestore.dictionaries.passes import Rows
from saestore.dictionaries.scale import Scale
from saestore.errors import ConfigError
from saestore_schemas.dictionary import DictionaryConfig
from saestore_schemas.families import LinearSettings


FLIPPED_BELOW = 0.2
"""Share of rows with z above 0 below which a feature's sign is turned (llamascopium)."""

Tensors = dict[str, Tensor]
Measure = Callable[[Rows], Float[Tensor, "_ d_sae"]]
"""Normalised rows to z."""


class Start(linear_start.Start):
    """The weights that one Lorsa starts from."""

    def __init__(
        self,
        settings: LinearSettings,
        beginning: Beginning,
        config: DictionaryConfig,
        scales: Mapping[str, Scale],
    ) -> None:
        """Take what they are made from.

        Raises:
            ConfigError: Features do not make whole groups, or an option needs what is not there.
        """
        assert config.options.attention is not None  # noqa: S101 - the settings' own
        self.host = beginning.host_as(HostAttention)
        super().__init__(settings, beginning, config, scales)
        self.beginning, self.scales = beginning, scales
        self.attention = config.options.attention
        (self.d_in,), (self.d_out,) = config.d_in, config.d_out
        if self.d_sae % self.attention.n_qk:
            raise ConfigError(
                field="dictionary.d_sae",
                found=self.d_sae,
                expected=f"a multiple of attention.n_qk = {self.attention.n_qk}",
            )

    def tensors(self) -> Tensors:
        """Return all weights but for what is measured with them.

        Raises:
            ConfigError: An option needs what is not there, or the host has another shape.
        """
        found = self._random()
        if self.host is not None:
            found |= self._of_host(self._fitting(self.host), found["W_V"])
        if self.init.active_subspace is not None:
            found["W_O"] = self._in_subspace(found["W_O"])
        if self.settings.decoder_norm == "unit":
            found["W_O"] = _unit(found["W_O"])
        found["b_dec"] = torch.from_numpy(self.bias)
        return precision.rounded(found, self.settings.dtype)

    def settled(self, tensors: Tensors, measure: Measure) -> Tensors:
        """Return the weights after what is measured with them.

        Args:
            tensors: Weights.
            measure: Computes z with them.
        """
        init, found = self.init, {name: each.double() for name, each in tensors.items()}
        if not (init.sign_flip or init.center_encoder_bias):
            return tensors
        kind = precision.wide(getattr(torch, self.settings.dtype))
        z = measure(each(self._sample(), lambda _, rows: rows.to(kind))).double()
        if init.sign_flip:
            positive = (z > 0).double().mean(dim=0)
            signs = torch.where(positive < FLIPPED_BELOW, -1.0, 1.0).double()
            found["W_V"] *= signs.unsqueeze(1)
            found["W_O"] *= signs.unsqueeze(1)
            found["b_V"] *= signs
            z = z * signs
        if init.center_encoder_bias:
            found["b_V"] -= z.mean(dim=0)
        return precision.rounded(found, self.settings.dtype)

    def _random(self) -> Tensors:
        """Return weights that nothing but chance says."""
        rng, attention, d_sae = self.beginning.rng, self.attention, self.d_sae
        group, width = attention.n_qk, attention.d_qk
        bound = math.sqrt(6 / (self.d_in + width))
        shape = (group, self.d_in, width)
        drawn = {
            "W_Q": rng.uniform(-bound, bound, shape),
            "W_K": rng.uniform(-bound, bound, shape),
            "W_V": rng.standard_normal((d_sae, self.d_in)) / math.sqrt(d_sae),
            "W_O": rng.standard_normal((d_sae, self.d_out)) / math.sqrt(self.d_out),
        }
        found = {name: torch.from_numpy(array) for name, array in drawn.items()}
        found |= {name: torch.zeros(group, width).double() for name in ("b_Q", "b_K")}
        if attention.qk_norm == "rms":
            found |= {name: torch.ones(group, width).double() for name in ("q_norm", "k_norm")}
        owned = self.moved(None)
        return found | {"b_V": owned.pop("b_enc"), **owned}

    def _of_host(self, host: HostAttention, vectors: Float64[Tensor, "feature d_in"]) -> Tensors:
        """Return queries, keys, values and outputs of the host's heads.

        Args:
            host: The host's attention.
            vectors: Random value vectors.
        """
        (reads,) = self.reads.hookpoints
        scale, repeat = self.scales[reads], self.attention.n_qk // host.heads
        mean = torch.zeros(self.d_in).double() if scale.mean is None else scale.mean.double()
        found: Tensors = {}
        for side, weight, bias, norm in (
            ("q", host.W_Q, host.b_Q, host.q_norm), ("k", host.W_K, host.b_K, host.k_norm),
        ):  # fmt: skip
            weights = host.expanded(weight.detach().double())
            own = torch.zeros(1).double() if bias is None else host.expanded(bias.double())
            moved = own + torch.einsum("d,hdk->hk", mean, weights)
            name = side.upper()
            found[f"W_{name}"] = (weights / scale.record.a).repeat_interleave(repeat, dim=0)
            found[f"b_{name}"] = moved.repeat_interleave(repeat, dim=0)
            if norm is not None:
                each_head = norm.double() if norm.dim() > 1 else norm.double().unsqueeze(0)
                spread = host.expanded(each_head)
                found[f"{side}_norm"] = spread.repeat_interleave(repeat, dim=0)
        found["W_V"], found["W_O"] = self._low_rank(host, vectors)
        return found

    def _low_rank(
        self, host: HostAttention, vectors: Float64[Tensor, "feature d_in"]
    ) -> tuple[Float64[Tensor, "feature d_in"], Float64[Tensor, "feature d_out"]]:
        """Return what features of each head read, and what the head writes for it."""
        (hookpoint,) = self.reads.hookpoints
        rows = self._raw()[hookpoint]
        values = host.W_V.detach().double()
        directions = [_of_values(rows, value) for value in values]
        shared = host.heads // len(values)
        reads, writes = [], []
        for head, own in enumerate(vectors.chunk(host.heads)):
            here = directions[head // shared]
            chosen = _unit(own[:, : len(here)] @ here)
            reads.append(chosen)
            out = values[head // shared] @ host.W_O[head].detach().double()
            writes.append(_unit(chosen @ out))
        return torch.cat(reads), torch.cat(writes)

    def _fitting(self, host: HostAttention) -> HostAttention:
        """Return the host's attention.

        Raises:
            ConfigError: It has another shape.
        """
        shape = (host.W_Q.shape[1], host.W_O.shape[2])
        if shape != (self.d_in, self.d_out):
            raise ConfigError(
                field="host",
                found=f"attention from width {shape[0]} to {shape[1]}",
                expected=f"one from width {self.d_in} to {self.d_out}, those of the hookpoints",
            )
        if self.attention.d_qk != host.width:
            raise ConfigError(
                field="dictionary.attention.d_qk",
                found=self.attention.d_qk,
                expected=f"{host.width}, as the host has",
            )
        if self.attention.n_qk % host.heads or self.d_sae % host.heads:
            raise ConfigError(
                field="dictionary.attention.n_qk",
                found=f"{self.attention.n_qk} groups of {self.d_sae} features",
                expected=f"a multiple of the host's {host.heads} heads, of both",
            )
        normed = host.q_norm is not None
        if normed != (self.attention.qk_norm == "rms"):
            raise ConfigError(
                field="dictionary.attention.qk_norm",
                found=self.attention.qk_norm,
                expected="rms, as the host has" if normed else "none: the host has no norm",
            )
        return host

    def _in_subspace(
        self, vectors: Float64[Tensor, "feature d_out"]
    ) -> Float64[Tensor, "feature d_out"]:
        """Return decoder vectors in the directions in which targets vary most, as long as before."""
        rank = self.init.active_subspace or 1
        directions = torch.from_numpy(initial.active_subspace(self.rows(self.writes), rank))
        if self.host is not None:  # they say where in the subspace they lie
            found = vectors @ directions @ directions.T
        else:
            found = vectors[:, :rank] @ directions.T
        lengths: Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        return _unit(found) * lengths

    def _raw(self) -> Rows:
        """Return the sample in raw units, in the contexts it lies in."""
        if self.beginning.sample is None:
            raise linear_start.unsampled()
        return each(self.beginning.sample, lambda _, rows: rows.double())

    def _sample(self) -> Rows:
        """Return the sample, normalised, in the contexts it lies in."""
        return each(self._raw(), lambda hook, rows: self.scales[hook].normalise(rows))


def _of_values(
    rows: Float64[Tensor, "row d_in"], value: Float64[Tensor, "d_in d"]
) -> Float64[Tensor, "_ d_in"]:
    """Return the orthonormal directions in which x W Wᵀ varies, most first, for rows x.

    A triangle of W's width has all variances of x W, so that no matrix of all rows is taken apart.
    """
    seen = rows @ value
    triangle = torch.linalg.qr(seen - seen.mean(dim=0), mode="r").R
    _, lengths, directions = torch.linalg.svd(triangle @ value.T, full_matrices=False)
    there = lengths > lengths[0] * len(rows) * torch.finfo(torch.float32).eps
    found: Tensor = directions[there]
    return found


def _unit(vectors: Float64[Tensor, "feature d"]) -> Float64[Tensor, "feature d"]:
    """Return vectors at length 1."""
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return vectors / lengths
