"""Gradients to weights: clipping, two groups of parameters, moments that can be saved by name.

Thresholds are a group of their own, whose learning rate has a factor. They are clipped with all
others: left out, their gradients would keep the size they have at first, far above all later ones, by
which Adam goes on dividing for a thousand steps, while the weights, clipped to one length, are under
way.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from saestore.dictionaries.gradients import Kept
from saestore.train.lean_adam import LeanAdam
from saestore.train.sparse_adam import SparseAdam
from saestore_schemas.optimize import OptimizerSettings


FUSED = frozenset({"cpu", "cuda"})
"""Device types on which torch has a fused Adam; elsewhere the foreach form is used."""


class Optimizer:
    """Adam, its variants, and what surrounds a step.

    A bfloat16 weight has 8 bits: a step of less than 1/512 of it would be lost in rounding, and
    training would stand still. Narrow parameters are therefore copies, rounded from float32 weights
    that live here: `collect_` takes their gradients over, `publish_` gives them the result.

    Attributes:
        lr: Base learning rate.
        weights: What is updated, by name: parameters, or the float32 weights of narrow ones.
        kept: Memory for gradients.

    Source: Micikevicius et al. 2018 (arXiv:1710.03740), section 3.1.
    """

    def __init__(
        self,
        named: Mapping[str, nn.Parameter],
        settings: OptimizerSettings,
        *,
        lr: float,
        thresholds: Collection[str] = (),
    ) -> None:
        """Prepare the first step.

        Args:
            named: What is trained, by name.
            settings: Which optimiser.
            lr: Base learning rate.
            thresholds: Which of the names are thresholds.
        """
        self.lr = lr
        self._named = dict(named)
        self.weights = {name: _master(parameter) for name, parameter in named.items()}
        self._settings = settings
        weights = [p for name, p in self.weights.items() if name not in thresholds]
        apart = [p for name, p in self.weights.items() if name in thresholds]
        groups: list[dict[str, Any]] = [{"params": weights, "factor": 1.0}]
        if apart:
            groups.append({"params": apart, "factor": settings.threshold_lr_factor})
        self._inner = _made(groups, settings, self.device)
        # Those of narrow parameters are handed on to their float32 weights, and dropped.
        wide = [p for name, p in named.items() if p is self.weights[name]]
        self.kept = Kept(p for p in wide if p.ndim > 1)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(iter(self._named.values())).device

    @property
    def masters(self) -> dict[str, Tensor]:
        """The float32 weights that narrow parameters are rounded from, by name."""
        return {n: w.detach() for n, w in self.weights.items() if w is not self._named[n]}

    def zero_grad(self) -> None:
        """Forget all gradients."""
        self._inner.zero_grad(set_to_none=True)

    def release(self) -> None:
        """Forget gradients and moments, when the last step is taken."""
        self.zero_grad()
        self.kept.release()
        self._inner.state.clear()

    def collect_(self) -> None:
        """Add the gradients of narrow parameters to those of their float32 weights."""
        for name in self.masters:
            parameter, weight = self._named[name], self.weights[name]
            if parameter.grad is not None:
                found = parameter.grad.to(weight.dtype)
                weight.grad = found if weight.grad is None else weight.grad.add_(found)
                parameter.grad = None

    @torch.no_grad()
    def publish_(self) -> None:
        """Round the float32 weights of narrow parameters into these."""
        for name, weight in self.masters.items():
            self._named[name].copy_(weight)

    def load_masters(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over float32 weights as `masters` returned them."""
        for name, weight in self.masters.items():
            weight.copy_(tensors[name])

    def unscale_(self, factor: float) -> None:
        """Divide all gradients by what the loss was multiplied with."""
        if factor != 1.0:
            torch._foreach_mul_(_gradients(self.weights.values()), 1 / factor)

    def clip_(self) -> float:
        """Scale all gradients together to the length allowed; return the length before."""
        gradients = _gradients(self.weights.values())
        norm = float(get_total_norm(gradients))
        limit = self._settings.clip_norm
        if limit is not None and norm > limit:
            torch._foreach_mul_(gradients, limit / norm)
        return norm

    def step(self, factor: float) -> float:
        """Take one step; return its learning rate.

        Args:
            factor: The schedule's factor.
        """
        for group in self._inner.param_groups:
            group["lr"] = self.lr * factor * group["factor"]
        self._inner.step()
        return self.lr * factor

    def state(self) -> dict[str, Tensor]:
        """Return the moments, by parameter and kind."""
        return {
            f"{name}.{key}": value
            for name, parameter in self.weights.items()
            for key, value in self._inner.state.get(parameter, {}).items()
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over moments as `state` returned them."""
        for name, parameter in self.weights.items():
            prefix = f"{name}."
            moments = {
                key.removeprefix(prefix): value
                for key, value in tensors.items()
                if key.startswith(prefix)
            }
            if moments:
                self._inner.state[parameter] = {
                    key: value.clone()
                    if key == "step" and not parameter.is_cuda
                    else value.to(parameter.device, copy=True)
                    for key, value in moments.items()
                }


class LossScale:
    """The factor that keeps float16 gradients above their smallest number.

    Doubled after `PATIENCE` good steps, halved when gradients overflow; that step is skipped.

    Source: Micikevicius et al. 2018 (arXiv:1710.03740), section 3.2; constants of torch.
    """

    PATIENCE = 2000
    START = 2.0**16

    def __init__(self, *, used: bool) -> None:
        """Start at 2^16, or at a constant 1 if it is not used."""
        self._used = used
        self.value = self.START if used else 1.0
        self.good = 0

    @property
    def exhausted(self) -> bool:
        """Whether halving it further cannot help: then what overflows is no matter of precision."""
        return self.value <= 1.0

    def metrics(self) -> dict[str, float]:
        """Return what is worth logging."""
        return {"loss_scale": self.value} if self._used else {}

    def grow(self) -> None:
        """Note a good step."""
        if self._used:
            self.good += 1
            if self.good == self.PATIENCE:
                self.value, self.good = self.value * 2, 0

    def shrink(self) -> None:
        """Note a step whose gradients overflowed."""
        self.value, self.good = self.value / 2, 0


def _made(
    groups: list[dict[str, Any]], settings: OptimizerSettings, device: torch.device
) -> torch.optim.Optimizer:
    if settings.kind == "sparse_adam":
        return SparseAdam(groups, betas=settings.betas, eps=settings.eps)
    if settings.states == "lean":
        return LeanAdam(groups, betas=settings.betas, eps=settings.eps)
    fused = device.type in FUSED
    return torch.optim.Adam(
        groups,
        betas=settings.betas,
        eps=settings.eps,
        fused=fused or None,
        foreach=None if fused else True,
    )


def _master(parameter: nn.Parameter) -> nn.Parameter:
    """Return what is updated of a parameter: itself, or a float32 copy of a narrow one."""
    if parameter.dtype.itemsize >= torch.float32.itemsize:
        return parameter
    return nn.Parameter(parameter.detach().float())


def _gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]
