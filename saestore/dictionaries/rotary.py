"""Rotary positions: pairs of dimensions turned by an angle that grows with the place in the context.

    (a, b) ↦ (a cos φ − b sin φ, a sin φ + b cos φ)         φ = position / scale · base^(−2j/dim)

for pair j of the first `dim` dimensions; the others stay. Pairs are neighbours (`adjacent`: GPT-J, and
what TransformerLens calls adjacent) or dimension j with j + dim/2 (`halves`: GPT-NeoX, Llama, Qwen). With
`ntk`, slow frequencies are divided by a factor, fast ones kept, and those between go over smoothly
(Llama 3).

A query's product with a key depends on the difference of their places alone. Tables are computed, never
stored.

Source: Su et al. 2021 (arXiv:2104.09864); NTK by parts, Peng et al. 2023 (arXiv:2309.00071).
"""

import math

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from saestore_schemas.attention import NtkSettings, RopeSettings


def frequencies(rope: RopeSettings, dim: int) -> Float64[Tensor, " _"]:
    """Return by how much each pair turns from one place to the next.

    Args:
        rope: The geometry.
        dim: Dimensions that turn.
    """
    plain = rope.base ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    return (plain if rope.ntk is None else _by_parts(plain, rope.ntk)) / rope.scale


def _by_parts(plain: Float64[Tensor, " _"], ntk: NtkSettings) -> Float64[Tensor, " _"]:
    """Return frequencies slowed down where a turn takes long."""
    turns = ntk.context_size * plain / (2 * math.pi)  # in a context of the model's first length
    kept = (turns - ntk.low) / (ntk.high - ntk.low)
    kept = kept.clamp(0, 1)
    return (1 - kept) * plain / ntk.factor + kept * plain


def turned(
    vectors: Float[Tensor, "head row d"], positions: Int64[Tensor, " row"], rope: RopeSettings
) -> Float[Tensor, "head row d"]:
    """Return vectors turned by their places, differentiable.

    Args:
        vectors: Queries or keys of each group.
        positions: Place of each row in its context.
        rope: The geometry.
    """
    dim = rope.dim or vectors.shape[2]
    angles = positions.double().unsqueeze(1) * frequencies(rope, dim).to(positions.device)
    cos, sin = angles.cos().to(vectors.dtype), angles.sin().to(vectors.dtype)
    turning, rest = vectors[..., :dim], vectors[..., dim:]
    if rope.pairs == "adjacent":
        a, b = turning[..., 0::2], turning[..., 1::2]
        pairs = torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1)
        found = pairs.flatten(start_dim=2)
    else:
        a, b = turning.chunk(2, dim=-1)
        found = torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
    return torch.cat([found, rest], dim=-1) if rest.shape[2] else found
