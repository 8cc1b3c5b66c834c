"""From the residual stream to logits: the final norm and the unembedding matrix.

    sigma = sqrt(mean over d of (P x)^2 + epsilon)          logits = (P x * gain / sigma + bias) W_U + b_U

P = I - 11^T/d for LayerNorm, I for RMSNorm. sigma is what TransformerLens calls `ln_final.hook_scale`.
A cap on logits comes after it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor


_LARGE, _SMALL = 64.0, 2.0**-9
"""Sizes of the vectors that a norm is tried with: its epsilon vanishes beside one and shows in the other."""
_TOLERANCE = 0.05
"""Of a norm computed in half precision."""


@dataclass(frozen=True)
class FinalNorm:
    """What the final norm does, at the top of this file.

    Attributes:
        gain: Its gain, 1 + w where the model writes it so.
        bias: Its bias; zeros where it has none.
        centred: Whether it subtracts the mean (LayerNorm), or does not (RMSNorm).
        epsilon: What is added to the mean square.
    """

    gain: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"]
    centred: bool
    epsilon: float

    def scale(self, rows: Float[Tensor, "... d_model"]) -> Float[Tensor, "..."]:
        """Return sigma of rows that enter it, in float32, or float64 of such rows."""
        wide = rows if rows.dtype == torch.float64 else rows.float()
        if self.centred:
            wide = wide - wide.mean(dim=-1, keepdim=True)
        found: Tensor = (wide.square().mean(dim=-1) + self.epsilon).sqrt()
        return found


@dataclass(frozen=True)
class Unembedding:
    """What turns the residual stream, and directions in it, into logits.

    Attributes:
        W_U: Unembedding as published, a column per token.
        b_U: What is added to each token's logit; zeros where there is nothing.
        norm: The final norm; None without one.
    """

    W_U: Float32[Tensor, "d_model vocab"]
    b_U: Float32[Tensor, " vocab"]
    norm: FinalNorm | None

    @property
    def gain(self) -> Float[Tensor, " d_model"] | None:
        """Gain of the final norm; None without one."""
        return None if self.norm is None else self.norm.gain

    @property
    def centred(self) -> bool:
        """Whether the final norm subtracts the mean."""
        return self.norm is not None and self.norm.centred


def unembedding_of(bridge: Any) -> Unembedding:
    """Return a model's unembedding, on the CPU."""
    head = bridge.original_model.get_output_embeddings()
    W_U = head.weight.detach().to("cpu", torch.float32).T.contiguous()
    bias = getattr(head, "bias", None)
    b_U = torch.zeros(W_U.shape[1]) if bias is None else bias.detach().to("cpu", torch.float32)
    return Unembedding(W_U, b_U, final_norm_of(bridge))


def final_norm_of(bridge: Any) -> FinalNorm | None:
    """Return a model's final norm, on the CPU; None without one."""
    norm = getattr(bridge, "ln_final", None)
    if norm is None:
        return None
    like = bridge.original_model.get_output_embeddings().weight
    return probe(norm, d_model=like.shape[1], like=like)


@torch.inference_mode()
def probe(norm: Any, *, d_model: int, like: Float[Tensor, "vocab d_model"]) -> FinalNorm:
    """Return what a final norm does, by trying it out.

    Its formula differs by architecture (gain w or 1 + w, folded or not); what it does to a few
    vectors does not lie. The exact weights are returned where they explain the result.

    Args:
        norm: The module.
        d_model: Its width.
        like: Any weight of the model, for type and device.
    """
    signs = torch.ones(d_model)
    signs[1::2] = -1

    def odd(x: Float[Tensor, " d_model"]) -> Float32[Tensor, " d_model"]:
        """Return its response without the bias."""
        one, other = (norm(each.to(like)[None, None])[0, 0] for each in (x, -x))
        found: Tensor = ((one - other) / 2).to("cpu", torch.float32)
        return found

    # Large, so that the norm's epsilon vanishes.
    response, of_lifted = odd(_LARGE * signs), odd(_LARGE * (signs + 3))
    centred = bool((response - of_lifted).abs().max() < 0.1 * response.abs().max())
    shape = signs - signs.mean() * centred
    measured = response / (shape / shape.square().mean().sqrt())
    component = getattr(norm, "original_component", norm)
    gain = _gain(component, measured)
    bias = norm(torch.zeros(d_model).to(like)[None, None])[0, 0].to("cpu", torch.float32)
    seen = gain * _SMALL * shape
    inverse = float((odd(_SMALL * signs) * seen).sum() / seen.square().sum())
    square = float((_SMALL * shape).square().mean())
    return FinalNorm(gain, bias, centred, _epsilon(norm, inverse**-2 - square, square))


def _gain(component: Any, measured: Float32[Tensor, " d_model"]) -> Float32[Tensor, " d_model"]:
    weight = getattr(component, "weight", None)
    if weight is not None:
        exact: Tensor = weight.detach().to("cpu", torch.float32)
        for candidate in (exact, 1 + exact):
            if torch.allclose(candidate, measured, rtol=0.02, atol=0.02):
                return candidate.clone()
    return measured


def _epsilon(norm: Any, measured: float, square: float) -> float:
    """Return the norm's epsilon: the one it names, if that explains what it did to a vector.

    Args:
        norm: The module.
        measured: What it seems to be.
        square: The mean square of the vector.
    """
    component = getattr(norm, "original_component", norm)
    places = ((component, "eps"), (component, "variance_epsilon"), (norm, "eps"))
    config = getattr(norm, "config", None)
    for holder, name in (*places, (config, "eps")):
        named = getattr(holder, name, None)
        if named is not None and abs(float(named) - measured) <= _TOLERANCE * (measured + square):
            return float(named)
    return max(measured, 0.0)
