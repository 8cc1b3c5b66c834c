"""What our own variants of Adam share: they differ in how one parameter is updated."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override


class AdamVariant(torch.optim.Optimizer, ABC):
    """An optimiser with Adam's settings, parameter by parameter."""

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        super().__init__(groups, {"lr": 0.0, "betas": betas, "eps": eps})

    @override
    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override] # no closure here
        """Take one step."""
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    @abstractmethod
    def _update(self, weights: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Update one parameter and its state."""
