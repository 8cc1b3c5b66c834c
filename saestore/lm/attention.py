"""A layer's attention as plain matrices, for rows at a hookpoint before it."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from saestore.errors import UnsupportedError
from saestore.lm.hookpoints import layer_of
from saestore.lm.hooks import Enough, Function, hooked


PROBE_ROWS = 256
"""Rows of the context on which a model is tried out, if its own contexts are not shorter."""
GAIN_ERROR = 1e-2
"""Relative error up to which attention reads rows times a gain: bfloat16 rounds to 4e-3."""


@dataclass(frozen=True)
class Attention:
    """Queries, keys, values and outputs of a layer: x @ W[head] + b[head] for rows x of the hookpoint.

    Attributes:
        W_Q: Query projection of each head.
        W_K: Key projection of each key head: fewer than query heads where these share them.
        W_V: Value projection of each key head.
        W_O: Output projection of each head.
        b_Q: Query biases.
        b_K: Key biases.
        q_norm: Weights of the queries' norm; None without.
        k_norm: Weights of the keys' norm; None without.
        rows: One context at the hookpoint.
        pattern: How much each of its rows attends to each, in each head.
        positions: What the model's configuration says about positions, in words.
    """

    W_Q: Float32[Tensor, "head d_in d"]
    W_K: Float32[Tensor, "_ d_in d"]
    W_V: Float32[Tensor, "_ d_in d"]
    W_O: Float32[Tensor, "head d d_out"]
    b_Q: Float32[Tensor, "head d"]
    b_K: Float32[Tensor, "_ d"]
    q_norm: Float32[Tensor, "... d"] | None
    k_norm: Float32[Tensor, "... d"] | None
    rows: Float32[Tensor, "position d_in"]
    pattern: Float32[Tensor, "head position position"]
    positions: str


def attention_of(bridge: Any, reads: str, writes: str) -> Attention:
    """Return the attention between two hookpoints, on the CPU.

    The model is tried out on one context: what attention reads must be the rows at `reads` times a
    gain, plus a shift, of each dimension, as a norm before it has them.

    Args:
        bridge: The model, which has these hookpoints.
        reads: Hookpoint before attention.
        writes: Hookpoint of its output.

    Raises:
        UnsupportedError: They are not input and output of one attention, or it has no patterns to look at.
    """
    layer = layer_of(reads)
    if layer is None or layer_of(writes) != layer:
        raise _apart(reads, writes, "they are not of one layer")
    attn = bridge.blocks[layer].attn
    output = f"blocks.{layer}.hook_attn_out"
    tokens = _tokens(bridge)
    seen = _seen(bridge, tokens, (reads, f"blocks.{layer}.attn.hook_in", writes, output), attn)
    rows, inner, written, wanted, pattern = seen
    if written.shape != wanted.shape or not torch.equal(written, wanted):
        raise _apart(reads, writes, f"attention writes {output}")
    gain, shift = _gain(rows, inner) if rows.shape == inner.shape else (None, None)
    if gain is None or shift is None or _error(rows * gain + shift, inner) > GAIN_ERROR:
        raise _apart(
            reads, writes, f"attention reads blocks.{layer}.ln1.hook_normalized times a gain"
        )
    weights = {name: _plain(getattr(attn, name)) for name in ("W_Q", "W_K", "W_V", "W_O")}
    biases = {
        f"b_{side}": torch.einsum("d,hdk->hk", shift, weights[f"W_{side}"])
        + _bias(attn, f"b_{side}", weights[f"W_{side}"])
        for side in "QK"
    }
    weights |= {name: weights[name] * gain.unsqueeze(1) for name in ("W_Q", "W_K", "W_V")}
    return Attention(
        **weights,
        **biases,
        q_norm=_norm(attn, "q_norm"),
        k_norm=_norm(attn, "k_norm"),
        rows=rows,
        pattern=pattern,
        positions=_positions(bridge),
    )


def _tokens(bridge: Any) -> Int64[Tensor, "batch position"]:
    """Return one context of tokens that differ."""
    vocabulary = bridge.original_model.get_output_embeddings().weight
    length = min(PROBE_ROWS, int(getattr(bridge.cfg, "n_ctx", None) or PROBE_ROWS))
    tokens = torch.arange(length).mul(7).remainder(len(vocabulary)).unsqueeze(0)
    return tokens.to(vocabulary.device)


@torch.inference_mode()
def _seen(
    bridge: Any, tokens: Int64[Tensor, "batch position"], names: tuple[str, ...], attn: Any
) -> list[Float32[Tensor, "..."]]:
    """Return what passes by some hookpoints of the context, and the patterns of an attention.

    Raises:
        UnsupportedError: The model does not compute patterns.
    """
    points = [*(bridge.hook_dict[name] for name in names), attn.hook_pattern]
    found: dict[int, Tensor] = {}

    def keep(point: Any) -> Function:
        def note(value: Tensor) -> None:
            found[id(point)] = value[0].detach().to("cpu", torch.float32)
            if len(found) == len({id(each) for each in points}):
                raise Enough

        return note

    with hooked([(point, keep(point)) for point in {id(p): p for p in points}.values()]):
        bridge(tokens, return_type=None, use_cache=False)
    if any(id(point) not in found for point in points):
        raise UnsupportedError(
            "the model does not tell how its rows attend to each other",
            found="a forward pass without attention patterns",
            expected="patterns, as eager attention has them",
            hint="remove init.from_host",
        )
    return [found[id(point)].clone() for point in points]


def _gain(
    rows: Float32[Tensor, "position d"], inner: Float32[Tensor, "position d"]
) -> tuple[Float32[Tensor, " d"], Float32[Tensor, " d"]]:
    """Return gain and shift of each dimension with the least squared error."""
    x, y = rows.double(), inner.double()
    from_mean = x - x.mean(dim=0)
    spread = from_mean.square().sum(dim=0)
    gain = (from_mean * y).sum(dim=0) / spread.clamp(min=torch.finfo(torch.float64).tiny)
    return gain.float(), (y.mean(dim=0) - gain * x.mean(dim=0)).float()


def _error(found: Float32[Tensor, "... d"], wanted: Float32[Tensor, "... d"]) -> float:
    """Return how far rows are from what they should be, as a part of it."""
    return float(torch.linalg.vector_norm(found - wanted) / torch.linalg.vector_norm(wanted))


def _plain(weight: Float[Tensor, "..."]) -> Float32[Tensor, "..."]:
    """Return a weight by itself."""
    return weight.detach().to("cpu", torch.float32).clone()


def _bias(attn: Any, name: str, weight: Float32[Tensor, "head _ d"]) -> Float32[Tensor, "head d"]:
    """Return the biases of each head, zeros without."""
    own = getattr(attn, name, None)
    shape = (weight.shape[0], weight.shape[2])
    return torch.zeros(shape) if own is None else _plain(own).reshape(shape)


def _norm(attn: Any, name: str) -> Float32[Tensor, "... d"] | None:
    """Return the weights of a norm of queries or keys; None without."""
    weight = getattr(getattr(attn, name, None), "weight", None)
    return None if weight is None else _plain(weight)


def _positions(bridge: Any) -> str:
    """Return what the model's configuration says about rotary positions, in words."""
    config = bridge.original_model.config
    names = ("rope_parameters", "rope_theta", "rope_scaling", "rotary_pct", "rotary_dim")
    found = {name: value for name in names if (value := getattr(config, name, None)) is not None}
    return ", ".join(f"{name} = {value}" for name, value in found.items()) or "no rotary positions"


def _apart(reads: str, writes: str, why: str) -> UnsupportedError:
    return UnsupportedError(
        f"no attention lies between {reads} and {writes}: {why}",
        found=f"{reads} and {writes}",
        expected="what attention reads, up to a gain, and what it writes",
        hint="dictionary.hookpoint_in = blocks.N.ln1.hook_normalized, hookpoint_out = blocks.N.hook_attn_out",
    )
