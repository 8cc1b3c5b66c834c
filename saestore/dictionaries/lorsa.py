"""Lorsa, low-rank sparse attention: reconstructs what attention writes by many features of rank one.

    Q = turn(norm(x' W_Q[q] + b_Q[q])), K likewise        turn: rotary positions, norm: RMS, both optional
    A^q = softmax over u ≤ t of (Q_t · K_u / scale)
    z_{t,i} = Σ_u A^{q(i)}_{t,u} (x'_u · W_V[i] + b_V[i])        q(i) = ⌊i / (d_sae / n_qk)⌋
    f = activation function of z, gated on z or on z n          n_i = ‖W_O[i]‖
    ŷ' = f W_O + b_dec

A feature reads by queries and keys that it shares with its group, and by a value vector of its own; it
writes one vector. Rows attend within their document and to what stands before it (`contexts`).
Weights: W_Q, W_K (n_qk, d_in, d_qk), b_Q, b_K (n_qk, d_qk), W_V (d_sae, d_in), b_V, W_O (d_sae, d_out), b_dec,
and q_norm, k_norm (n_qk, d_qk) with a norm. Masks and rotary tables are computed.

The patterns of a row sum to 1, so a bias of the values comes through attention as it is: b_V is the
encoder bias, W_V the encoder and W_O the decoder of everything that works on features (`linear`).

Source: He et al. 2025 (arXiv:2504.20938).
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from saestore.dictionaries import attention, lorsa_start, precision, products, rewrites, rotary
from saestore.dictionaries.base import Beginning
from saestore.dictionaries.contexts import Contexts, around
from saestore.dictionaries.host import HostAttention
from saestore.dictionaries.linear import LinearDictionary
from saestore.dictionaries.passes import Rows
from saestore.dictionaries.pre_activation import Computed, PreActivation
from saestore.dictionaries.scale import Scale
from saestore.errors import ConfigError
from saestore_schemas.attention import AttentionSettings
from saestore_schemas.dictionary import DictionaryConfig
from saestore_schemas.families import LinearSettings


PATTERN_ERROR = 0.02
"""Share of attention that may go elsewhere than in the host: in bfloat16 some thousandths do."""


class Lorsa(LinearDictionary):
    """A Lorsa.

    Attributes:
        attention: How its features attend.
        W_Q: Query projection of each group.
        W_K: Key projection of each group.
        b_Q: Query bias of each group.
        b_K: Key bias of each group.
        q_norm: Weights of the queries' norm, with one.
        k_norm: Weights of the keys' norm, with one.
    """

    family: ClassVar[str] = "lorsa"
    reads_contexts: ClassVar[bool] = True

    def __init__(
        self,
        config: DictionaryConfig,
        scales: Mapping[str, Scale],
        tensors: Mapping[str, Tensor],
    ) -> None:
        """Take weights by the names of the file."""
        super().__init__(config, scales, tensors)
        self.attention = _attention(config)
        self.W_Q = nn.Parameter(tensors["W_Q"].clone())
        self.W_K = nn.Parameter(tensors["W_K"].clone())
        self.b_Q = nn.Parameter(tensors["b_Q"].clone())
        self.b_K = nn.Parameter(tensors["b_K"].clone())
        self.q_norm: nn.Parameter | None = None
        self.k_norm: nn.Parameter | None = None
        if self.attention.qk_norm == "rms":
            self.q_norm = nn.Parameter(tensors["q_norm"].clone())
            self.k_norm = nn.Parameter(tensors["k_norm"].clone())

    @classmethod
    @override
    def _started(
        cls,
        settings: LinearSettings,
        beginning: Beginning,
        config: DictionaryConfig,
        scales: Mapping[str, Scale],
    ) -> "Lorsa":
        """Return the dictionary of starting weights: see `lorsa_start`."""
        start = lorsa_start.Start(settings, beginning, config, scales)
        made = cls(config, scales, start.tensors())
        if start.host is not None:
            made._attends_like(start.host)
        return cls(config, scales, start.settled(made.tensors(), made.pre_activations))

    @classmethod
    @override
    def shapes(cls, config: DictionaryConfig) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor of the file format."""
        (d_in,), (d_out,), d_sae = config.d_in, config.d_out, config.d_sae
        settings = _attention(config)
        group = (settings.n_qk, settings.d_qk)
        found = super().shapes(config)
        for name in ("W_enc", "b_enc", "W_dec"):
            del found[name]
        found |= {"W_V": (d_sae, d_in), "b_V": (d_sae,), "W_O": (d_sae, d_out)}
        found |= dict.fromkeys(("b_Q", "b_K"), group)
        found |= dict.fromkeys(("W_Q", "W_K"), (settings.n_qk, d_in, settings.d_qk))
        if settings.qk_norm == "rms":
            found |= dict.fromkeys(("q_norm", "k_norm"), group)
        return found

    @classmethod
    @override
    def _joined(cls, config: DictionaryConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a file, those of features by the names of linear families."""
        found = dict(tensors)
        found["W_enc"] = found.pop("W_V").T
        found["b_enc"], found["W_dec"] = found.pop("b_V"), found.pop("W_O")
        return found

    @classmethod
    @override
    def _separate(cls, config: DictionaryConfig, joined: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return such tensors as the file has them."""
        found = dict(joined)
        found["W_V"] = found.pop("W_enc").T.contiguous()
        found["b_V"], found["W_O"] = found.pop("b_enc"), found.pop("W_dec")
        return found

    @override
    def _whole(self) -> dict[str, Tensor]:
        """Return all weights."""
        return super()._whole() | {name: each.detach() for name, each in self._own().items()}

    def _own(self) -> dict[str, Tensor]:
        """Return what no other family has: queries and keys."""
        found: dict[str, Tensor] = {"W_Q": self.W_Q, "W_K": self.W_K}
        found |= {"b_Q": self.b_Q, "b_K": self.b_K}
        if self.q_norm is not None and self.k_norm is not None:
            found |= {"q_norm": self.q_norm, "k_norm": self.k_norm}
        return found

    @classmethod
    @override
    def lengths(
        cls, decoder: Float[Tensor, "d_sae d_out"], config: DictionaryConfig
    ) -> Float[Tensor, " d_sae"]:
        """Return the length of each feature's decoder vector."""
        del config
        lengths: Tensor = torch.linalg.vector_norm(decoder, dim=1)
        return lengths

    def pre_activations(self, inputs: Rows) -> Float[Tensor, "_ d_sae"]:
        """Return z of the wanted rows, given normalised ones."""
        with torch.no_grad():
            return torch.cat([pre.values for pre in self._blocks(inputs)])

    @override
    def _blocks(self, inputs: Rows) -> Iterator[PreActivation]:
        """Yield pre-activations of the wanted rows context by context.

        All rows of a context are computed, whichever are wanted, and nothing else: what a library's
        arithmetic depends on is then a context's length alone.
        """
        rows, contexts = around(inputs, self.reads.hookpoints[0])
        lengths = self.decoder_norms()
        for start, stop, first, last in contexts.spans():
            if first == last:
                continue
            alone = Contexts.one(stop - start, rows.device)
            alone = dataclasses.replace(alone, documents=contexts.documents[start:stop])
            # A copy begins where any other does: MKL sums by the alignment of what it reads.
            z = self._attended(rows[start:stop].clone(), alone, self.encoder)
            wanted = contexts.wanted[first:last] - start
            yield self._gated(z if len(wanted) == len(z) else z[wanted], lengths)
        if not len(contexts.wanted):
            nothing = self._wide(self.b_enc.detach()).new_empty(0, self.d_sae)
            yield self._gated(nothing, lengths)

    def _gated(
        self, z: Float[Tensor, "row d_sae"], lengths: Float[Tensor, " d_sae"]
    ) -> PreActivation:
        """Return z, to be gated."""
        on_lengths = self.config.semantics.gate_on_decoder_norm
        return PreActivation(Computed(z), None, lengths, on_lengths, self._scratch)

    @override
    def _pre_activations(self, inputs: Rows, *, detached: bool = False) -> PreActivation:
        """Return pre-activations of the wanted rows, differentiable."""
        rows, contexts = around(inputs, self.reads.hookpoints[0])
        encoder: Tensor = self.encoder.detach() if detached else self.encoder
        return self._gated(self._attended(rows, contexts, encoder), self.decoder_norms())

    def _attended(
        self,
        rows: Float[Tensor, "row d_in"],
        contexts: Contexts,
        encoder: Float[Tensor, "d_sae d_in"],
    ) -> Float[Tensor, "_ d_sae"]:
        """Return z of the wanted rows, differentiable."""
        positions = contexts.positions
        queries = self._heads(rows, positions, self.W_Q, self.b_Q, self.q_norm)
        keys = self._heads(rows, positions, self.W_K, self.b_K, self.k_norm)
        values = products.mixed(rows, encoder.T) + self.b_enc
        z = attention.mixed(queries, keys, values, contexts, self.attention.divisor)
        return z if len(contexts.wanted) == len(rows) else z[contexts.wanted]

    def _heads(
        self,
        rows: Float[Tensor, "row d_in"],
        positions: Int64[Tensor, " row"],
        weight: Float[Tensor, "head d_in d"],
        bias: Float[Tensor, "head d"],
        norm: Tensor | None,
    ) -> Float[Tensor, "head row d"]:
        """Return queries or keys of each group."""
        groups, _, width = weight.shape
        joined = products.mixed(rows, weight.transpose(0, 1).reshape(-1, groups * width))
        found = joined.view(len(rows), groups, width).transpose(0, 1)
        found = found.to(rows.dtype) + bias.to(rows.dtype).unsqueeze(1)
        if norm is not None:
            square = found.square().mean(dim=-1, keepdim=True)
            found = found * torch.rsqrt(square + self.attention.eps)
            found = found * norm.to(rows.dtype).unsqueeze(1)
        rope = self.attention.rope
        return found if rope is None else rotary.turned(found, positions, rope)

    def z_patterns(
        self, inputs: Rows | Float[Tensor, "row _"], features: Int64[Tensor, " feature"]
    ) -> Float[Tensor, "feature position _"]:
        """Return what each row of a context adds to each row's pre-activations of some features.

        Entry (feature, t, u) is A_{t,u} (x'_u · W_V[i] + b_V[i]): over u they sum to z_t.

        Args:
            inputs: Rows of one context in raw units.
            features: Which features.

        Raises:
            ConfigError: There are several contexts.
        """
        with torch.no_grad():
            rows, contexts = self._one_context(inputs)
            groups = features // self._group_size
            read: Tensor = groups.unique()  # type: ignore[no-untyped-call]
            found = self._pattern(rows, contexts, read)
            values = rows @ self._wide(self.encoder[features]).T + self.b_enc[features]
            return found[torch.searchsorted(read, groups)] * values.T.unsqueeze(1)

    @override
    def contributions(
        self,
        inputs: Rows | Float[Tensor, "row _"],
        features: Int64[Tensor, " pair"],
        queries: Int64[Tensor, " pair"],
    ) -> Float[Tensor, "pair position"]:
        """Return A_{t,u} (x'_u · W_V[i] + b_V[i]) for rows u of a context: a line of each feature i and row t."""
        with torch.no_grad():
            rows, contexts = self._one_context(inputs)
            size = self._group_size
            found = rows.new_zeros(len(features), len(rows))
            groups = features // size
            # Group by group, all its features: products of fixed shapes, whatever is asked for.
            for group in groups.unique():  # type: ignore[no-untyped-call]
                of_group = slice(int(group) * size, (int(group) + 1) * size)
                values = rows @ self._wide(self.encoder[of_group]).T + self.b_enc[of_group]
                pattern = self._pattern(rows, contexts, group.reshape(1))[0]
                own = (groups == group).nonzero()[:, 0]
                read = values[:, features[own] - of_group.start]
                found[own] = pattern[queries[own]] * read.T
            return found

    @property
    def _group_size(self) -> int:
        """Features of a group."""
        return self.d_sae // self.attention.n_qk

    def _one_context(
        self, inputs: Rows | Float[Tensor, "row _"]
    ) -> tuple[Float[Tensor, "position d_in"], Contexts]:
        """Return normalised rows of one context, and its layout.

        Raises:
            ConfigError: There are several.
        """
        given = self.normalise(self.as_inputs(inputs))
        rows, contexts = around(given, self.reads.hookpoints[0])
        if len(contexts.offsets) != 2:  # noqa: PLR2004 - begin and end
            raise ConfigError(
                field="inputs",
                found=f"{len(contexts.offsets) - 1} contexts",
                expected="one: patterns are of a context",
            )
        return rows, contexts

    def _pattern(
        self,
        rows: Float[Tensor, "position d_in"],
        contexts: Contexts,
        groups: Int64[Tensor, " head"],
    ) -> Float[Tensor, "head position position"]:
        """Return how much each normalised row of one context attends to each, in some groups."""
        norms = [None if n is None else n[groups] for n in (self.q_norm, self.k_norm)]
        queries, keys = (
            self._heads(rows, contexts.positions, weight[groups], bias[groups], norm)
            for weight, bias, norm in (
                (self.W_Q, self.b_Q, norms[0]), (self.W_K, self.b_K, norms[1])
            )
        )  # fmt: skip
        every = torch.arange(len(rows), device=rows.device).unsqueeze(0)
        return attention.pattern(queries, keys, contexts.hidden(every)[0], self.attention.divisor)

    def _attends_like(self, host: HostAttention) -> None:
        """Return if patterns are the host's, on rows of its own.

        Raises:
            ConfigError: They are not: positions, norms or scale are set otherwise.
        """
        if host.rows is None or host.pattern is None:
            return
        repeat = self.attention.n_qk // host.heads
        with torch.no_grad():
            given = self.normalise(self.as_inputs(host.rows))
            rows, contexts = around(given, self.reads.hookpoints[0])
            found = self._pattern(rows, contexts, torch.arange(0, self.attention.n_qk, repeat))
            moved = float((found - host.pattern.to(found)).abs().sum(dim=-1).mean()) / 2
        if moved > PATTERN_ERROR:
            raise ConfigError(
                field="dictionary.attention",
                problem=f"with rope, scale and qk_norm as given, {moved:.0%} of attention goes to other rows "
                "than in the host",
                expected="those of the host",
                hint=f"the model says: {host.positions}" if host.positions else "",
            )

    @override
    def folded(self) -> "LinearDictionary":
        """Return the same dictionary in raw units: it reads and reconstructs rows as they are stored."""
        given = self._weights()
        found = rewrites.folded(given)
        a, mean = given.spread(self.reads)
        own = {name: each.detach().double() for name, each in self._own().items()}
        for weight, bias in (("W_Q", "b_Q"), ("W_K", "b_K")):
            own[bias] = own[bias] - torch.einsum("d,hdk->hk", a * mean, own[weight])
            own[weight] = own[weight] * a.unsqueeze(1)
        kinds = {name: precision.wide(each.dtype) for name, each in self._own().items()}
        rounded = {name: each.to(kinds[name]) for name, each in own.items()}
        return self._restored(dataclasses.replace(found, tensors={**found.tensors, **rounded}))


def _attention(config: DictionaryConfig) -> AttentionSettings:
    """Return how the features of a dictionary attend.

    Raises:
        ConfigError: Its record does not say.
    """
    found = config.options.attention
    if found is None:
        raise ConfigError(
            field="options.attention", found=None, expected="how the features of a lorsa attend"
        )
    return found
