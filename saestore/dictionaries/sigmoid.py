"""A sigmoid that gives a value the same bits wherever in memory it stands.

On CPUs torch.sigmoid computes with vectors, and by another formula what is left at the end of a
tensor, or of a thread's share of it: on some processors the two differ in the last bit, and a row's
code would depend on how many rows it comes with. exp has no such ends, and sums and reciprocals are
rounded exactly.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override


class _Sigmoid(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    @override
    def forward(values: Tensor) -> Tensor:
        return values.neg().exp_().add_(1).reciprocal_()

    @staticmethod
    @override
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        del inputs
        ctx.save_for_backward(output)

    @staticmethod
    @override
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (output,) = ctx.saved_tensors
        found: Tensor = gradient * (output * (1 - output))
        return found


def sigmoid(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return 1 / (1 + exp(-values)), differentiable."""
    if values.is_cuda:
        return torch.sigmoid(values)
    found: Float[Tensor, ...] = _Sigmoid.apply(values)  # type: ignore[no-untyped-call]
    return found
