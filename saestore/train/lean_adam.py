"""Adam with a quarter of the moments' memory: bfloat16 first moments, factored second ones.

    m ← β₁ m + (1−β₁) g                           kept in bfloat16
    r_i ← β₂ r_i + (1−β₂) mean_j g_ij²            one number a row
    c_j ← β₂ c_j + (1−β₂) mean_i g_ij²            one number a column
    v_ij = r_i c_j / mean r

Then as Adam: W −= lr · m̂ / (√v̂ + ε). Vectors, such as biases and thresholds, keep a full second
moment. Where squared gradients are an outer product of rows and columns, v is Adam's own; rows
are features here, so how often each one fires is kept exactly. First moments bear the rounding
because they forget it within some 1/(1−β₁) steps. A bfloat16 second moment would not: with
β₂ = .999 it changes by less than its rounding, and stands still.

Works in blocks of rows, so that no temporary is as large as the weights.

Source: Shazeer and Stern 2018 (arXiv:1804.04235), section 3; without their clipping and relative
step sizes.
"""

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from saestore.train.adam_variant import AdamVariant


BLOCK = 1 << 20
"""Elements worked on at once."""


class LeanAdam(AdamVariant):
    """Adam in less memory."""

    @override
    def _update(self, weights: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weights]
        (beta1, beta2), matrix = group["betas"], weights.ndim > 1
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(weights, dtype=torch.bfloat16)
            if matrix:
                state["row_avg_sq"] = weights.new_zeros(weights.shape[0])
                state["column_avg_sq"] = weights.new_zeros(weights.shape[1])
            else:
                state["exp_avg_sq"] = torch.zeros_like(weights)
        state["step"] += 1
        done = float(state["step"])
        columns: Tensor | None = None
        if matrix:
            rows, columns = _mean_squares(gradient)
            state["row_avg_sq"].lerp_(rows, 1 - beta2)
            state["column_avg_sq"].lerp_(columns, 1 - beta2)
            mean = state["row_avg_sq"].mean().clamp_min(torch.finfo(weights.dtype).tiny)
            columns = state["column_avg_sq"] / mean
        else:
            state["exp_avg_sq"].lerp_(gradient.square(), 1 - beta2)
        rate = group["lr"] / (1 - beta1**done)
        for part in _blocks(weights):
            first = state["exp_avg"][part].to(weights.dtype).lerp_(gradient[part], 1 - beta1)
            state["exp_avg"][part] = first
            second = (
                state["exp_avg_sq"][part]
                if columns is None
                else torch.outer(state["row_avg_sq"][part], columns)
            )
            scale = (second / (1 - beta2**done)).sqrt_().add_(group["eps"])
            weights[part].addcdiv_(first, scale, value=-rate)


def _mean_squares(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean square of each row and of each column."""
    rows = torch.empty_like(gradient[:, 0])
    columns = torch.zeros_like(gradient[0])
    for part in _blocks(gradient):
        squares = gradient[part].square()
        rows[part] = squares.mean(dim=1)
        columns += squares.sum(dim=0)
    return rows, columns / len(gradient)


def _blocks(like: Tensor) -> list[slice]:
    each = max(1, BLOCK // max(1, like[0].numel()))
    return [slice(start, start + each) for start in range(0, len(like), each)]
