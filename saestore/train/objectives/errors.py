"""Sums of squares of what rows have left over, with no more memory than their gradient needs."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from typing_extensions import override

from saestore.dictionaries import gradients


_TOGETHER = 256
"""Rows that are centred at once."""


class _SquaredDistance(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        reconstruction, target, spent = inputs
        ctx.spent, ctx.dtype = spent, reconstruction.dtype
        if spent:
            difference = ctx.difference = target.sub_(reconstruction)
        else:
            ctx.save_for_backward(reconstruction, target)
            rows, width = target.shape
            # Over before there is a gradient.
            room = gradients.spare(rows, width, target) if target.dtype == ctx.dtype else None
            difference = torch.sub(target, reconstruction, out=room)
        return energy(difference)

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.spent:
            gradient = ctx.difference * (-2 * upstream[0])
        else:
            reconstruction, target = ctx.saved_tensors
            gradient = (target - reconstruction).mul_(-2 * upstream[0])
        return gradient.to(ctx.dtype), None, None


def squared_distance(
    reconstruction: Float[Tensor, "row _"], target: Float[Tensor, "row _"], *, spent: bool = False
) -> Float[Tensor, ""]:
    """Return Σ (ŷ − y)² over all entries, differentiable once in ŷ.

    Args:
        reconstruction: ŷ.
        target: y, a constant.
        spent: Whether y is nobody else's: its memory then holds the difference.
    """
    result: Tensor = _SquaredDistance.apply(reconstruction, target, spent)  # type: ignore[no-untyped-call]
    return result


def summed_error(
    reconstruction: Mapping[str, Float[Tensor, "row _"]],
    targets: Mapping[str, Float[Tensor, "row _"]],
) -> Float[Tensor, ""]:
    """Return the mean over rows of the squared error, summed over dimensions and hookpoints."""
    errors = [
        squared_distance(reconstruction[hook], target) / len(target)
        for hook, target in targets.items()
    ]
    return sum(errors[1:], start=errors[0])


def energy(rows: Float[Tensor, "row d"]) -> Float[Tensor, ""]:
    """Return the sum of squares."""
    found: Tensor = torch.linalg.vector_norm(rows).square()
    return found


def spread(rows: Float[Tensor, "row d"]) -> Float[Tensor, ""]:
    """Return the sum of squared distances from the mean row."""
    mean = rows.mean(dim=0)
    return torch.stack([energy(part - mean) for part in torch.split(rows, _TOGETHER)]).sum()
