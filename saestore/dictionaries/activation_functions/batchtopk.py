"""BatchTopK: the k largest positive pre-activations a row fire, on average over the batch.

    training     S = the ⌊k N⌋ largest of relu(g) over the N rows of a batch,  f = h on S
    inference    f = h where g > θ: a row's code must not depend on its mates

θ is calibrated once training is over (`calibration.py`). Until then it is a running mean of the
smallest score that a batch kept, unbiased from the first batch on. That smallest score is itself an
extreme value, which is why the running mean is not what a finished dictionary uses.

Equal scores go to the lowest row, then the lowest feature. The gradient is that of TopK.

Source: Bussmann et al. 2024 (arXiv:2412.06410).
"""

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saestore.dictionaries import selection
from saestore.dictionaries.activation_functions.base import Thresholded, kept
from saestore.dictionaries.code import TrainingCode
from saestore.dictionaries.kernels import Pairs
from saestore.dictionaries.pre_activation import PreActivation
from saestore_schemas.dictionary import InferenceRecord, Semantics, ThresholdInference


EMA_DECAY = 0.99
"""Of the running mean, a batch; SAELens' value."""


class BatchTopK(Thresholded):
    """Keep the k largest a row on average.

    Attributes:
        threshold: What gate scores must exceed at inference, as loaded or calibrated.
        estimated: Whether the running mean takes its place, once there is one.
        ema: Running mean of the smallest score kept, and the sum of its weights.
        heads: How many heads' features are ranked together, with k at each on average.
    """

    fixes_l0: ClassVar[bool] = True
    ranks: ClassVar[bool] = True
    row_wise: ClassVar[bool] = False
    heads: int = 1
    threshold: Tensor
    ema: Tensor

    def __init__(self, semantics: Semantics, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(semantics, tensors)
        self.k = float(semantics.activation.model_dump()["k"])
        self.k_now = self.k
        self.estimated = semantics.inference == ThresholdInference(source="ema")
        self.register_buffer("threshold", tensors["threshold"].clone())
        self.register_buffer("ema", torch.zeros(2, dtype=torch.float64))

    @classmethod
    @override
    def inference(cls) -> InferenceRecord:
        """Return a threshold that training estimates."""
        return ThresholdInference(source="ema")

    @override
    def thresholds(self) -> Float[Tensor, " d_sae"]:
        """Return the running mean, as long as no calibrated threshold has taken its place."""
        mean = self.running_mean() if self.estimated else None
        return self.threshold if mean is None else torch.full_like(self.threshold, mean)

    def running_mean(self) -> float | None:
        """Return the running mean of the smallest score kept; None before the first batch."""
        total, weight = self.ema.tolist()
        return total / weight if weight else None

    @override
    def code(self, pre: PreActivation) -> TrainingCode:
        """Return the selected entries, differentiable."""
        count = in_all(self.k_now, len(pre.gate) * self.heads)
        chosen = selection.largest_in_all(pre.gate, count)
        if self.training and len(chosen[1]):
            smallest = float(Pairs(*chosen, pre.d_sae).of(pre.gate).min())
            self.ema.mul_(EMA_DECAY).add_(self.ema.new_tensor([smallest, 1.0]), alpha=1 - EMA_DECAY)
        return kept(pre, chosen)

    @override
    def keep_k(self, k: float | None) -> None:
        """Keep another number of features while training."""
        self.k_now = self.k if k is None else k

    @override
    def scalars(self) -> dict[str, float]:
        """Return k and the threshold of inference."""
        return {"k": float(self.k_now), "threshold_mean": float(self.thresholds().mean())}

    @override
    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "BatchTopK":
        """Move with the dictionary; the running mean stays float64 whatever the weights are."""
        exact = self.ema
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.ema = exact.to(device=self.ema.device)
        return self


def in_all(k: float, rows: int) -> int:
    """Return ⌊k · rows⌋, with k the decimal number that was written.

    >>> in_all(0.29, 100)  # 0.29 * 100 is 28.999999999999996
    29
    """
    return math.floor(Fraction(repr(float(k))) * rows)
