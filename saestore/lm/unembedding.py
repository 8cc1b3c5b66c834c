"""From the residual stream to logits: the final norm's gain and the unembedding matrix."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor


@dataclass(frozen=True)
class Unembedding:
    """What turns a direction of the residual stream into logits, at a frozen scale.

    logits = (P x * gain / scale + bias) W_U + b_U, with P = I - 11^T/d if `centred`, else I.

    Attributes:
        W_U: Unembedding as published, a column per token.
        gain: The final norm's gain, 1 + w where the model writes it so; None without a final norm.
        centred: Whether the final norm subtracts the mean (LayerNorm), or does not (RMSNorm).
    """

    W_U: Float32[Tensor, "d_model vocab"]
    gain: Float32[Tensor, " d_model"] | None
    centred: bool


def unembedding_of(bridge: Any) -> Unembedding:
    """Return a model's unembedding, on the CPU."""
    head = bridge.original_model.get_output_embeddings()
    W_U = head.weight.detach().to("cpu", torch.float32).T.contiguous()
    norm = getattr(bridge, "ln_final", None)
    if norm is None:
        return Unembedding(W_U, None, centred=False)
    gain, centred = probe(norm, d_model=W_U.shape[0], like=head.weight)
    return Unembedding(W_U, gain, centred)


@torch.inference_mode()
def probe(
    norm: Any, *, d_model: int, like: Float[Tensor, "vocab d_model"]
) -> tuple[Float32[Tensor, " d_model"], bool]:
    """Return a final norm's gain and whether it centres, by trying it out.

    Its formula differs by architecture (gain w or 1 + w, folded or not); what it does to two
    vectors does not lie. The exact weights are returned where they explain the result.

    Args:
        norm: The module.
        d_model: Its width.
        like: Any weight of the model, for type and device.
    """
    signs = torch.ones(d_model)
    signs[1::2] = -1
    # Large, so that the norm's epsilon vanishes.
    wave = (64 * signs).to(like)
    lifted = (64 * signs + 192).to(like)
    response, of_lifted = (
        (norm(x[None, None]) - norm(-x[None, None]))[0, 0] / 2 for x in (wave, lifted)
    )
    centred = bool((response - of_lifted).abs().max() < 0.1 * response.abs().max())
    shape = 64 * signs - (64 * signs).mean() * centred
    measured = response.to("cpu", torch.float32) / (shape / shape.square().mean().sqrt())
    weight = getattr(getattr(norm, "original_component", norm), "weight", None)
    if weight is not None:
        exact = weight.detach().to("cpu", torch.float32)
        for candidate in (exact, 1 + exact):
            if torch.allclose(candidate, measured, rtol=0.02, atol=0.02):
                return candidate.clone(), centred
    return measured, centred
