"""Adam that leaves alone what has no gradient: moments and weights of silent features stay put.

Only rows of a matrix, and elements of a vector, whose gradient is not all zero are updated, with
Adam's equations; the bias correction counts all steps. What fires on every batch moves exactly as
under Adam. What fires rarely does not drift on its old momentum, and its second moment does not
decay meanwhile, so its steps are smaller: another trajectory, never to be compared with Adam's.
Worth it when d_sae is so large that most features fire on no row of a batch.

Source: the lazy update of `torch.optim.SparseAdam`, with ε beside the corrected root as in Adam.
"""

from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from saestore.train.adam_variant import AdamVariant


class SparseAdam(AdamVariant):
    """Adam on the rows that have a gradient."""

    @override
    def _update(self, weights: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weights]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(weights)
            state["exp_avg_sq"] = torch.zeros_like(weights)
        state["step"] += 1
        done = float(state["step"])
        beta1, beta2 = group["betas"]
        moved = (gradient.flatten(1) != 0).any(dim=1) if gradient.ndim > 1 else gradient != 0
        places = moved.nonzero()[:, 0]
        each = gradient[places]
        first = state["exp_avg"][places].lerp_(each, 1 - beta1)
        second = state["exp_avg_sq"][places].lerp_(each.square(), 1 - beta2)
        state["exp_avg"][places] = first
        state["exp_avg_sq"][places] = second
        scale = (second / (1 - beta2**done)).sqrt_().add_(group["eps"])
        rate = group["lr"] / (1 - beta1**done)
        weights[places] = weights[places].addcdiv_(first, scale, value=-rate)
