"""JumpReLU of all entries on the CPU as compiled loops: one pass forward, one backward.

    forward      f = h where g > θ, and of each entry whether it fires and whether it is in the window
    backward     to h, and for each feature Σ_rows of what its window received, also times h

`activation_functions/jumprelu.py` says what is computed, and does it elsewhere by tensor operations:
these loops are tested against them. There, a step of 65 thousand entries takes ten passes.

Sums over rows are taken in stretches of the same rows, whatever the number of threads.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.autograd.function import once_differentiable
from typing_extensions import override

from saestore.compiled import compiled
from saestore.dictionaries import backends
from saestore.dictionaries.selection_loops import STRETCH, on_threads


FIRES, INSIDE = 1, 2
"""What is noted of an entry: it is above its threshold; it is in the window around it."""


class DenseWindow:
    """Step and jump of all entries of a batch, with the window that stands in for their gradient."""

    def __init__(
        self,
        h: Float[Tensor, "row d_sae"],
        gate: Float[Tensor, "row d_sae"],
        threshold: Float[Tensor, " d_sae"],
        lengths: Float[Tensor, " d_sae"] | None,
        *,
        width: float,
        to_input: bool,
    ) -> None:
        """Take a batch.

        Args:
            h: Pre-activations, differentiable.
            gate: Gate scores.
            threshold: Thresholds, differentiable.
            lengths: What gate scores are h times, differentiable; None where they are h.
            width: Of the window.
            to_input: Whether the window's gradient reaches h and lengths.
        """
        self.inputs = (h, threshold, lengths)
        self.width, self.to_input = width, to_input
        self.places = torch.empty_like(gate, dtype=torch.uint8)
        self._jumped: Tensor | None = torch.empty_like(gate)
        half = gate.new_tensor(width / 2)
        given = (h, gate, threshold, half, self._jumped, self.places)
        on_threads(_jump, len(gate), *(each.detach().numpy() for each in given))

    @staticmethod
    def knows(*tensors: Tensor) -> bool:
        """Return whether the loops know these kinds of tensors."""
        if backends.of(tensors[0].device).name != "loops":
            return False
        alike = len({each.dtype for each in tensors}) == 1
        known = tensors[0].dtype in {torch.float32, torch.float64}
        return alike and known and all(each.is_contiguous() for each in tensors)

    def jump(self) -> Float[Tensor, "row d_sae"]:
        """Return h where the gate exceeds the threshold; once only."""
        # What is returned refers to this object: referring to it in turn would keep both for ever.
        jumped, self._jumped = self._jumped, None
        result: Tensor = _Jump.apply(*self.inputs, jumped, self)  # type: ignore[no-untyped-call]
        return result

    def steps(self) -> Float[Tensor, "row d_sae"]:
        """Return 1 where the gate exceeds the threshold."""
        result: Tensor = _Step.apply(*self.inputs, self)  # type: ignore[no-untyped-call]
        return result

    def pull(
        self,
        upstream: Float[Tensor, "row d_sae"],
        h: Float[Tensor, "row d_sae"],
        *,
        fires: float,
        slopes: Float[Tensor, " d_sae"],
        weighted: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradient of h, and Σ_rows of upstream in the window, plain and times h.

        Args:
            upstream: Gradient of what was returned.
            h: Pre-activations.
            fires: Slope of what fires.
            slopes: Slope of what is in the window, of each feature.
            weighted: Whether the last sum is wanted; otherwise it is zero.
        """
        to_h = torch.empty_like(h)
        stretches = -(-len(h) // STRETCH)
        sums = torch.zeros(2, stretches, h.shape[1], dtype=h.dtype)
        given = (upstream.contiguous(), h, self.places, slopes.contiguous(), to_h, sums)
        arrays = [each.detach().numpy() for each in given]
        on_threads(_pull, stretches, *arrays, h.new_tensor(fires).numpy(), int(weighted), least=1)
        plain, times_h = sums.sum(dim=1)
        return to_h, plain, times_h


class _Jump(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        h, threshold, lengths, jumped, window = inputs
        ctx.save_for_backward(h, threshold, lengths)
        ctx.window = window
        through: Tensor = jumped.view_as(jumped)
        return through

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        h, threshold, lengths = ctx.saved_tensors
        window: DenseWindow = ctx.window
        slopes = threshold / window.width
        to_lengths = window.to_input and lengths is not None
        to_h, plain, times_h = window.pull(
            gradients[0], h, fires=1.0, weighted=to_lengths,
            slopes=slopes if window.to_input else torch.zeros_like(slopes),
        )  # fmt: skip
        if lengths is None:
            return to_h, -slopes * plain, None, None, None
        # A decoder vector of zero fires nothing.
        slopes = torch.where(lengths == 0, 0, slopes / lengths)
        return to_h, -slopes * plain, slopes * times_h if to_lengths else None, None, None


class _Step(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        h, threshold, lengths, window = inputs
        ctx.save_for_backward(h, threshold, lengths)
        ctx.window = window
        steps: Tensor = (window.places & FIRES).to(h.dtype)
        return steps

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        h, threshold, lengths = ctx.saved_tensors
        window: DenseWindow = ctx.window
        slope = 1 / window.width
        slopes = torch.full_like(threshold, slope) if lengths is None else slope * lengths
        to_lengths = window.to_input and lengths is not None
        to_h, plain, times_h = window.pull(
            gradients[0], h, fires=0.0, slopes=slopes, weighted=to_lengths
        )
        return (
            to_h if window.to_input else None,
            -slope * plain,
            slope * times_h if to_lengths else None,
            None,
        )


@compiled
def _jump(  # noqa: PLR0917 - arrays of one loop
    first: int,
    stop: int,
    h: Float[np.ndarray, "row d_sae"],
    gate: Float[np.ndarray, "row d_sae"],
    limits: Float[np.ndarray, " d_sae"],
    half: Float[np.ndarray, ""],
    jumped: Float[np.ndarray, "row d_sae"],
    places: UInt8[np.ndarray, "row d_sae"],
) -> None:
    reach, zero = half[()], h.dtype.type(0)
    for row in range(first, stop):
        for feature in range(h.shape[1]):
            over = gate[row, feature] - limits[feature]
            fires = gate[row, feature] > limits[feature]
            jumped[row, feature] = h[row, feature] if fires else zero
            places[row, feature] = (FIRES if fires else 0) | (INSIDE if abs(over) < reach else 0)


@compiled
def _pull(  # noqa: PLR0917 - arrays of one loop
    first: int,
    stop: int,
    upstream: Float[np.ndarray, "row d_sae"],
    h: Float[np.ndarray, "row d_sae"],
    places: UInt8[np.ndarray, "row d_sae"],
    slopes: Float[np.ndarray, " d_sae"],
    to_h: Float[np.ndarray, "row d_sae"],
    sums: Float[np.ndarray, "_ _ d_sae"],
    fires: Float[np.ndarray, ""],
    weighted: int,
) -> None:
    slope, zero = fires[()], h.dtype.type(0)
    for stretch in range(first, stop):
        plain, times_h = sums[0, stretch], sums[1, stretch]
        for row in range(stretch * STRETCH, min((stretch + 1) * STRETCH, len(h))):
            for feature in range(h.shape[1]):
                given = upstream[row, feature]
                place = places[row, feature]
                pulled = given if place & INSIDE else zero
                plain[feature] += pulled
                to_h[row, feature] = (given * slope if place & FIRES else zero) + (
                    pulled * slopes[feature]
                )
            if weighted:
                for feature in range(h.shape[1]):
                    if places[row, feature] & INSIDE:
                        times_h[feature] += upstream[row, feature] * h[row, feature]
