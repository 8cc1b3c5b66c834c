"""JumpReLU: a feature fires above a threshold that it learns.

    f = h where g > θ, else 0        θ >= 0        K(u) = 1 where |u| < 1/2

The step has no useful gradient; a window of width ε around θ stands in for it. With h gated on h:

    ∂f/∂θ = −(θ/ε) K((h−θ)/ε)        ∂f/∂h = 1[h>θ] + (θ/ε) K((h−θ)/ε)
    ∂H/∂θ = −(1/ε) K((h−θ)/ε)        ∂H/∂h = (1/ε) K((h−θ)/ε)             H = 1[h>θ]

where the second term of ∂f/∂h, and ∂H/∂h, exist with `ste_to_input` only. Gated on g = h n, all of
it holds for g and f n, and is divided by n. H is evaluated on the pre-activation: on f, half of its
window would be missing, and half of the gradient.

θ is the parameter itself, float32 whatever the weights are, and moved back to 0 before each forward
pass when a step took it below. (Adam moves a parameter by about its learning rate, so that log θ
would hardly leave its start; a clamp inside the graph would hold it at 0 for ever.)

Source: Rajamanoharan et al. 2024 (arXiv:2407.14435), without `ste_to_input`; Anthropic, "Circuits
updates, January 2025", with it.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from typing_extensions import override

from saestore.dictionaries import products, selection
from saestore.dictionaries.activation_functions.base import Thresholded
from saestore.dictionaries.code import DenseCode, Entries, RaggedCode, TrainingCode
from saestore.dictionaries.jump_loops import DenseWindow
from saestore.dictionaries.kernels import Pairs
from saestore.dictionaries.pre_activation import PreActivation
from saestore_schemas.dictionary import JumpRelu as JumpReluSettings, Semantics
from saestore_schemas.train import InitSettings


START_WIDE, START_NARROW = 0.1, 0.001
"""Thresholds at the start, with and without `ste_to_input` (the sources above)."""


class JumpRelu(Thresholded):
    """Keep what exceeds its threshold.

    Attributes:
        threshold: One of each feature, on the gate score.
    """

    fixes_l0: ClassVar[bool] = False
    learned_thresholds: ClassVar[tuple[str, ...]] = ("threshold",)

    def __init__(self, semantics: Semantics, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(semantics, tensors)
        settings = JumpReluSettings.model_validate(semantics.activation.model_dump())
        self.bandwidth, self.ste_to_input = settings.bandwidth, settings.ste_to_input
        self.threshold = nn.Parameter(tensors["threshold"].clone())

    @classmethod
    @override
    def start(cls, settings: JumpReluSettings, d_sae: int, init: InitSettings) -> dict[str, Tensor]:
        """Return equal thresholds."""
        chosen = init.threshold
        if chosen is None:
            chosen = START_WIDE if settings.ste_to_input else START_NARROW
        return {"threshold": torch.full((d_sae,), chosen)}

    @override
    def thresholds(self) -> Float[Tensor, " d_sae"]:
        """Return the thresholds, none below 0."""
        return self.threshold.detach().clamp(min=0)

    @override
    def code(self, pre: PreActivation) -> TrainingCode:
        """Return what fires and what is in the window, differentiable."""
        self.threshold.data.clamp_(min=0)
        threshold = self.threshold.to(pre.gate.dtype)
        window = _Window(self.bandwidth, to_input=self.ste_to_input)
        most = int(products.dense_share(pre.gate) * pre.gate.numel())
        lowest = threshold.detach() - self.bandwidth / 2
        chosen = selection.above(pre.gate, lowest, most=most)
        if chosen is None:
            lengths = pre.lengths if pre.on_lengths else None
            inputs = (pre.dense(), threshold, pre.gate, lengths)
            if DenseWindow.knows(pre.gate, pre.dense(), threshold):
                return self._by_loops(*inputs)
            return DenseCode(window.jump(*inputs), steps=window.steps(*inputs))
        pairs = Pairs(*chosen, pre.d_sae)
        spread = pairs.spread(pre.lengths) if pre.on_lengths else None
        inputs = (pre.at(pairs), pairs.spread(threshold), pairs.of(pre.gate), spread)
        return RaggedCode(pairs, window.jump(*inputs), steps=window.steps(*inputs))

    def _by_loops(
        self, h: Entries, threshold: Tensor, gate: Entries, lengths: Tensor | None
    ) -> DenseCode:
        """Return the code of all entries, computed by compiled loops."""
        known = DenseWindow(
            h, gate, threshold, lengths, width=self.bandwidth, to_input=self.ste_to_input
        )
        return DenseCode(known.jump(), steps=known.steps)

    @override
    def below(self, pre: PreActivation, features: Tensor | None) -> Float[Tensor, " row"]:
        """Return Σ relu(θ − h) n; gated on h n, Σ relu(θ − h n)."""
        h, threshold, lengths = pre.dense(), self.threshold.to(pre.gate.dtype), pre.lengths
        if features is not None:
            h, threshold, lengths = h[:, features], threshold[features], lengths[features]
        if pre.on_lengths:
            return torch.relu(threshold - h * lengths).sum(dim=1)
        return torch.relu(threshold - h) @ lengths

    @override
    def scalars(self) -> dict[str, float]:
        """Return mean, least and greatest threshold."""
        values = self.thresholds()
        return {
            "threshold_mean": float(values.double().mean()),
            "threshold_min": float(values.min()),
            "threshold_max": float(values.max()),
        }

    @override
    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "JumpRelu":
        """Move with the dictionary, but never to a type narrower than float32."""
        exact = self.threshold.data
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.threshold.dtype.itemsize < torch.float32.itemsize:
            self.threshold.data = exact.to(device=self.threshold.device)
        return self


class _Window:
    """The stand-in for the step's gradient."""

    def __init__(self, width: float, *, to_input: bool) -> None:
        self.width = width
        self.to_input = to_input

    def jump(self, h: Entries, threshold: Tensor, gate: Entries, lengths: Tensor | None) -> Entries:
        """Return h where the gate exceeds the threshold."""
        result: Tensor = _Jump.apply(  # type: ignore[no-untyped-call]
            h, threshold, lengths, gate, self
        )
        return result

    def steps(
        self, h: Entries, threshold: Tensor, gate: Entries, lengths: Tensor | None
    ) -> Callable[[], Entries]:
        """Return a function that returns 1 where the gate exceeds the threshold."""
        if not self.to_input:  # no gradient gets there: not even zeros shall be multiplied
            h = h.detach()

        def steps() -> Entries:
            result: Tensor = _Step.apply(  # type: ignore[no-untyped-call]
                h, threshold, lengths, gate, self
            )
            return result

        return steps

    def inside(self, gate: Entries, threshold: Tensor) -> Entries:
        """Return where the gate is in the window."""
        return (gate - threshold).abs() < self.width / 2


class _Jump(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        h, threshold, lengths, gate, window = inputs
        fires = gate > threshold
        # The gate's memory is written again by the next pass: keep what backward needs of it.
        pull = torch.where(window.inside(gate, threshold), threshold / window.width, 0)
        ctx.save_for_backward(h, threshold, lengths, fires, pull)
        ctx.to_input = window.to_input
        return torch.where(fires, h, 0)

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        h, threshold, lengths, fires, pull = ctx.saved_tensors
        upstream = gradients[0]
        pulled = upstream * pull
        to_h = torch.where(fires, upstream, 0)
        to_lengths = None
        if ctx.to_input:
            to_h = to_h + pulled
            if lengths is not None:
                to_lengths = _over(pulled * h, lengths).sum_to_size(lengths.shape)
        to_threshold = pulled if lengths is None else _over(pulled, lengths)
        return to_h, -to_threshold.sum_to_size(threshold.shape), to_lengths, None, None


class _Step(torch.autograd.Function):
    @staticmethod
    @override
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        h, threshold, lengths, gate, window = inputs
        pull = window.inside(gate, threshold).to(h.dtype) / window.width
        ctx.save_for_backward(h, threshold, lengths, pull)
        ctx.to_input = window.to_input
        fires: Tensor = gate > threshold
        return fires.to(h.dtype)

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        h, threshold, lengths, pull = ctx.saved_tensors
        pulled = gradients[0] * pull
        to_h = to_lengths = None
        if ctx.to_input:
            to_h = pulled if lengths is None else pulled * lengths
            if lengths is not None:
                to_lengths = (pulled * h).sum_to_size(lengths.shape)
        return to_h, -pulled.sum_to_size(threshold.shape), to_lengths, None, None


def _over(entries: Entries, lengths: Tensor) -> Entries:
    """Return entries over lengths; 0 where a decoder vector is zero, which fires nothing."""
    return torch.where(lengths == 0, 0, entries / lengths)
