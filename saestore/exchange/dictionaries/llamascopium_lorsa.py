"""llamascopium's Lorsas: queries and keys of each group, values and outputs of each feature.

    z_{t,i} = Σ_{u≤t} softmax_u(q_t · k_u / scale) (x'_u · W_V[i] + b_V[i])        of group ⌊i / (F / n_qk)⌋
    f = activation function of z n, over n        n_i = ‖W_O[i]‖        ŷ' = f W_O + b_D

Masks and rotary tables stand in the file and are computed instead. Weights that do not contain the
normalisation are folded while they are read: W_Q, W_K, W_V *= a; W_O, b_dec /= c; θ on z n: θ/c. Its own
folding leaves θ as it is, which is another function with jumprelu; what it left is read as it is.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Float64
from pydantic import ValidationError
from torch import Tensor

from saestore.dictionaries import SparseDictionary
from saestore.errors import ConfigError, UnsupportedError
from saestore.exchange.dictionaries.files import Config, Weights
from saestore.exchange.dictionaries.foreign import Asked, Foreign, Written
from saestore.exchange.dictionaries.llamascopium_activation import FUNCTIONS, Activation
from saestore.exchange.dictionaries.llamascopium_parts import NORM, THETA, thresholds
from saestore.exchange.dictionaries.llamascopium_transcoding import Transcoding
from saestore.exchange.dictionaries.llamascopium_writing import Place, expressed, in_raw_units
from saestore.exchange.dictionaries.reference import Compute, Computed
from saestore_schemas.attention import AttentionSettings, NtkSettings, RopeSettings


KNOWN = frozenset(
    [
        "n_qk_heads",
        "d_qk_head",
        "positional_embedding_type",
        "rotary_dim",
        "rotary_base",
        "rotary_adjacent_pairs",
        "rotary_scale",
        "use_NTK_by_parts_rope",
        "NTK_by_parts_factor",
        "NTK_by_parts_low_freq_factor",
        "NTK_by_parts_high_freq_factor",
        "old_context_len",
        "n_ctx",
        "attn_scale",
        "use_post_qk_ln",
        "normalization_type",
        "eps",
    ]
)
"""Keys beside those of every family."""
LONGEST = 2048
"""Rows of the longest context where nothing says how long contexts are."""
COMPUTED = ("mask", "IGNORE", "rotary_sin", "rotary_cos")
"""Tensors of the file that follow from the config."""


def read(config: Config, weights: Weights, asked: Asked, *, known: frozenset[str]) -> Foreign:
    """Return what a config and its weights hold.

    Raises:
        ConfigError: A tensor is missing or misshapen, or nothing says whether the weights contain the
            normalisation.
        UnsupportedError: It has an activation function, a normalisation or a geometry of positions without a
            counterpart here.
    """
    groups, width, d_qk = weights.shape("W_Q", axes=3)
    found = Transcoding.of("lorsa", config, weights, asked, width)
    activation, attention = found.activation, _attention(config, groups, d_qk)
    theirs = _tensors(weights, attention, config)
    features = len(theirs["b_V"])
    if activation.kind == "jumprelu":
        theirs["threshold"] = thresholds(weights, (features,))
    weights.done(f"{NORM}*", *COMPUTED)
    return found.foreign(
        _folded(theirs, *found.factors, on_lengths=activation.gate_on_norm),
        _compute(theirs, attention, activation, found.factors),
        known=known | KNOWN,
        widths=(width, theirs["W_O"].shape[1], features),
        attention=attention,
    )


def write(dictionary: SparseDictionary, place: Place) -> Written:
    """Return the files of a Lorsa, in raw units.

    Raises:
        UnsupportedError: Its files cannot say what the dictionary computes, and why.
    """
    raw = in_raw_units(*expressed(dictionary, FUNCTIONS))
    config, tensors = raw.dictionary.config, raw.dictionary.tensors()
    attention = config.options.attention
    if attention is None:
        raise TypeError(config)
    n_ctx = place.context_size or LONGEST
    data = {name: tensors[name] for name in ("W_Q", "W_K", "b_Q", "b_K", "W_V", "b_V", "W_O")}
    data["b_D"] = tensors["b_dec"]
    if attention.qk_norm == "rms":
        data |= {"ln_q.w": tensors["q_norm"], "ln_k.w": tensors["k_norm"]}
    if "threshold" in tensors:
        data[THETA] = tensors["threshold"].log()
    data["mask"] = torch.ones(n_ctx, n_ctx, dtype=torch.bool).tril()
    data["IGNORE"] = torch.tensor(-torch.inf)
    if attention.rope is not None:
        angles = _angles(attention.rope, attention.rope.dim or attention.d_qk, n_ctx)
        data |= {"rotary_sin": angles.sin(), "rotary_cos": angles.cos()}
    values = {
        "hook_point_in": config.hookpoints_in[0],
        "hook_point_out": config.hookpoints_out[0],
        "n_qk_heads": attention.n_qk,
        "d_qk_head": attention.d_qk,
        **_positions(attention),
        "n_ctx": n_ctx,
        "attn_scale": attention.divisor,
        "use_post_qk_ln": attention.qk_norm == "rms",
        "normalization_type": "RMS" if attention.qk_norm == "rms" else None,
        "eps": attention.eps,
    }
    return raw.written(data, values, place)


def _positions(attention: AttentionSettings) -> dict[str, Any]:
    """Return how its config says where queries and keys turn.

    Raises:
        UnsupportedError: It has no word for it.
    """
    rope = attention.rope
    if rope is None:
        return {"positional_embedding_type": "none", "rotary_dim": attention.d_qk}
    for what, value, wanted in (("scale", rope.scale, 1.0), ("base", rope.base, round(rope.base))):
        if value != wanted:
            raise UnsupportedError(
                f"llamascopium has no counterpart of rope.{what} = {value:g}",
                found=value,
                expected="1" if what == "scale" else "a whole number",
                hint="train one with positions that it has",
            )
    found: dict[str, Any] = {
        "positional_embedding_type": "rotary",
        "rotary_dim": rope.dim or attention.d_qk,
        "rotary_base": round(rope.base),
        "rotary_adjacent_pairs": rope.pairs == "adjacent",
        "rotary_scale": 1,
        "use_NTK_by_parts_rope": rope.ntk is not None,
    }
    if rope.ntk is not None:
        found |= {
            "NTK_by_parts_factor": rope.ntk.factor,
            "NTK_by_parts_low_freq_factor": rope.ntk.low,
            "NTK_by_parts_high_freq_factor": rope.ntk.high,
            "old_context_len": rope.ntk.context_size,
        }
    return found


def _attention(config: Config, groups: int, d_qk: int) -> AttentionSettings:
    """Return how its features attend.

    Raises:
        UnsupportedError: In a way that has no counterpart here.
    """
    normed = config.get("use_post_qk_ln", bool, default=False)
    kind = config.get("normalization_type", str, default="")
    if normed and kind != "RMS":
        raise UnsupportedError(
            f"{config.path}: queries and keys are normalised by {kind!r}",
            found=kind,
            expected="RMS",
            hint="its own package refuses others too",
        )
    try:
        return AttentionSettings(
            n_qk=groups,
            d_qk=d_qk,
            scale=config.get("attn_scale", float, default=math.sqrt(d_qk)),
            qk_norm="rms" if normed else "none",
            eps=config.get("eps", float, default=1e-6),
            rope=_rope(config),
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            file=str(config.path),
            field=".".join(map(str, first["loc"])) or "rotary_dim",
            found=str(first["input"]),
            problem=first["msg"],
            expected="a geometry of positions that its attention can have",
            hint="another tool's file, or a torn one",
        ) from error


def _rope(config: Config) -> RopeSettings | None:
    """Return its rotary positions.

    Raises:
        UnsupportedError: Dimensions are repeated before they turn.
    """
    if config.get("positional_embedding_type", str, default="rotary") == "none":
        return None
    if config.get("rotary_scale", float, default=1.0) != 1:
        raise UnsupportedError(
            f"{config.path}: rotary_scale repeats the dimensions of queries and keys",
            found=config.values["rotary_scale"],
            expected="1",
            hint="train it with rotary_scale = 1",
        )
    ntk = None
    if config.get("use_NTK_by_parts_rope", bool, default=False):
        ntk = NtkSettings(
            factor=config.get("NTK_by_parts_factor", float, default=1.0),
            low=config.get("NTK_by_parts_low_freq_factor", float, default=1.0),
            high=config.get("NTK_by_parts_high_freq_factor", float, default=1.0),
            context_size=config.get("old_context_len", int, default=2048),
        )
    adjacent = config.get("rotary_adjacent_pairs", bool, default=True)
    return RopeSettings(
        dim=config.get("rotary_dim", int),
        base=config.get("rotary_base", float, default=10000.0),
        pairs="adjacent" if adjacent else "halves",
        ntk=ntk,
    )


def _tensors(weights: Weights, attention: AttentionSettings, config: Config) -> dict[str, Tensor]:
    """Return the weights by our names."""
    groups, width, d_qk = weights.shape("W_Q", axes=3)
    features, d_out = weights.shape("W_O")
    found = {name: weights.take(name, groups, width, d_qk) for name in ("W_Q", "W_K")}
    found |= {name: weights.take(name, groups, d_qk) for name in ("b_Q", "b_K")}
    found |= {"W_V": weights.take("W_V", features, width), "b_V": weights.take("b_V", features)}
    found["W_O"] = weights.take("W_O", features, d_out)
    biased = config.get("use_decoder_bias", bool, default=True)
    found["b_dec"] = weights.take("b_D", d_out) if biased else torch.zeros(d_out)
    if attention.qk_norm == "rms":
        found["q_norm"] = weights.take("ln_q.w", groups, d_qk)
        found["k_norm"] = weights.take("ln_k.w", groups, d_qk)
    return found


def _folded(
    tensors: Mapping[str, Tensor], a: float, c: float, *, on_lengths: bool
) -> dict[str, Tensor]:
    """Return weights that read and reconstruct rows as they are."""
    by = {"W_Q": a, "W_K": a, "W_V": a, "W_O": 1 / c, "b_dec": 1 / c}
    by["threshold"] = 1 / c if on_lengths else 1.0
    return {name: (tensor.double() * by.get(name, 1.0)).float() for name, tensor in tensors.items()}


def _compute(
    tensors: Mapping[str, Tensor],
    attention: AttentionSettings,
    activation: Activation,
    factors: tuple[float, float],
) -> Compute:
    """Return what it computes from the rows of one context as they are."""
    a, c = factors

    def compute(rows: Float[Tensor, "row d_in"]) -> Computed:
        w = {name: tensor.to(rows.dtype) for name, tensor in tensors.items()}
        x = rows * a
        sides = []
        for side in "QK":
            vectors = torch.einsum("td,hdk->htk", x, w[f"W_{side}"]) + w[f"b_{side}"].unsqueeze(1)
            norm = w.get(f"{side.lower()}_norm")
            if norm is not None:
                mean = vectors.pow(2).mean(dim=-1, keepdim=True)
                vectors = vectors / (mean + attention.eps).sqrt() * norm.unsqueeze(1)
            sides.append(vectors if attention.rope is None else _turned(vectors, attention.rope))
        scores = sides[0] @ sides[1].mT / attention.divisor
        later = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
        pattern = scores.masked_fill(later, -torch.inf).softmax(dim=-1)
        values = (x @ w["W_V"].T + w["b_V"]).view(len(x), attention.n_qk, -1)
        z = torch.einsum("htu,uhg->thg", pattern, values).flatten(1)
        codes = activation.codes(z, torch.linalg.vector_norm(w["W_O"], dim=1), w.get("threshold"))
        return Computed(codes, (codes.values @ w["W_O"] + w["b_dec"]) / c)

    return compute


def _angles(rope: RopeSettings, dim: int, positions: int) -> Float64[Tensor, "position d"]:
    """Return by how much each dimension turns at each place."""
    speed = rope.base ** -(torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    if rope.ntk is not None:
        turns = rope.ntk.context_size / (2 * math.pi / speed)
        smooth = (turns - rope.ntk.low) / (rope.ntk.high - rope.ntk.low)
        between = (1 - smooth) * speed / rope.ntk.factor + smooth * speed
        slow = torch.where(turns < rope.ntk.low, speed / rope.ntk.factor, between)
        speed = torch.where(turns > rope.ntk.high, speed, slow)
    speed = speed.repeat_interleave(2) if rope.pairs == "adjacent" else speed.repeat(2)
    return torch.arange(positions, dtype=torch.float64).unsqueeze(1) * speed


def _turned(
    vectors: Float[Tensor, "head position d"], rope: RopeSettings
) -> Float[Tensor, "head position d"]:
    """Return vectors turned by their places, written as it writes it: x cos + flipped x sin."""
    dim = rope.dim or vectors.shape[2]
    adjacent = rope.pairs == "adjacent"
    angles = _angles(rope, dim, vectors.shape[1])
    x, rest = vectors[..., :dim], vectors[..., dim:]
    flipped = torch.empty_like(x)
    first, second = (
        (slice(0, None, 2), slice(1, None, 2))
        if adjacent
        else (slice(0, dim // 2), slice(dim // 2, dim))
    )
    flipped[..., first], flipped[..., second] = -x[..., second], x[..., first]
    turned = x * angles.cos().to(x.dtype) + flipped * angles.sin().to(x.dtype)
    return torch.cat([turned, rest], dim=-1)
