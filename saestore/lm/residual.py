"""From a hookpoint to the residual stream: what a direction there adds to it.

    blocks.L.hook_resid_post                 itself
    blocks.L.hook_attn_out, hook_mlp_out     itself
    blocks.L.attn.hook_z                     times W_O, all heads side by side
    blocks.L.mlp.hook_post                   times W_out

Whether a layer really adds that to the stream, and no norm stands in between, is seen in a tiny forward.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from saestore.errors import UnsupportedError
from saestore.lm.plain import agree


ATTENTION, MLP = "hook_attn_out", "hook_mlp_out"
"""What a layer adds to the stream."""
_STREAM = re.compile(
    r"(hook_embed|hook_pos_embed|ln_final\.hook_in"
    r"|blocks\.\d+\.(hook_(resid_(pre|mid|post)|in|out)|ln[12]\.hook_in))"
)
_PARTS: Mapping[str, tuple[str, str | None]] = {
    "attn.hook_z": (ATTENTION, "W_O"),
    "attn.o.hook_out": (ATTENTION, None),
    "attn.hook_hidden_states": (ATTENTION, None),
    "attn.hook_out": (ATTENTION, None),
    "hook_attn_out": (ATTENTION, None),
    "mlp.hook_post": (MLP, "W_out"),
    "mlp.out.hook_out": (MLP, None),
    "mlp.hook_out": (MLP, None),
    "hook_mlp_out": (MLP, None),
}
"""Hookpoints in a layer to where what passes by them is added to the stream, and by which matrix."""

Capture = Callable[[list[str]], Mapping[str, Float[Tensor, "batch position _"]]]
"""What passes by some hookpoints in a tiny forward."""


def check(hookpoint: str) -> None:
    """Refuse a hookpoint from which nothing goes straight to the residual stream, by its name.

    Raises:
        UnsupportedError: It is such.
    """
    if _STREAM.fullmatch(hookpoint) is None and _part(hookpoint) is None:
        raise _apart(hookpoint)


def into_stream(bridge: Any, hookpoint: str, capture: Capture) -> Float32[Tensor, "d_out d"] | None:
    """Return the matrix by which rows at a hookpoint enter the residual stream; None, as they are.

    Args:
        bridge: The model.
        hookpoint: Where.
        capture: Runs it on a few tokens.

    Raises:
        UnsupportedError: They do not enter it, or by more than a matrix.
    """
    check(hookpoint)
    part = _part(hookpoint)
    if part is None:
        return None
    layer, added, name = part
    before, after = (f"blocks.{layer}.hook_resid_{side}" for side in ("pre", "post"))
    places = {each: f"blocks.{layer}.{each}" for each in (ATTENTION, MLP)}
    seen = capture([hookpoint, before, after, *places.values()])
    whole = seen[before] + seen[places[ATTENTION]] + seen[places[MLP]]
    written = seen[hookpoint]
    matrix = None
    if name is not None:
        block = bridge.blocks[int(layer)]
        weight = getattr(block.attn if added == ATTENTION else block.mlp, name, None)
        if weight is None:
            raise _apart(hookpoint)
        matrix = weight.detach().flatten(0, -2).to("cpu", torch.float32)
        if written.shape[-1] != len(matrix):
            raise _apart(hookpoint)
        written = written @ matrix.to(written)
        rest = seen[places[added]] - written  # a bias, the same for every row
        written = written + rest[:1, :1]
    if not (agree(written, seen[places[added]]) and agree(whole, seen[after])):
        raise _apart(hookpoint)
    return matrix


def _part(hookpoint: str) -> tuple[str, str, str | None] | None:
    """Return layer, place and matrix of a hookpoint in a layer; None, it is none of them."""
    found = re.fullmatch(r"blocks\.(\d+)\.(.+)", hookpoint)
    if found is None or found[2] not in _PARTS:
        return None
    return (found[1], *_PARTS[found[2]])


def _apart(hookpoint: str) -> UnsupportedError:
    return UnsupportedError(
        f"what is written at {hookpoint} does not enter the residual stream by a matrix alone, so it has "
        "no direct path to the logits",
        found=hookpoint,
        expected="the residual stream, or what a layer's attention or MLP adds to it",
        hint="set logits = null",
    )
