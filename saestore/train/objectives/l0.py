"""L0: λ(step) · mean number of firings, or its distance from a target.

    l0                mean over rows of L0
    target_l0_batch   (mean over rows of L0 / target − 1)²
    target_l0_row     mean over rows of (2 / target) (L0 − target)²

The count has a gradient through learnt thresholds only (`activation_functions/jumprelu.py`). The two
targets have different ones: of a batch whose mean is the target the first has none, the second pulls
each row towards it.

Source: Rajamanoharan et al. 2024 (arXiv:2407.14435); dictionary_learning's `target_l0`; SAELens'
"quadratic", after Gemma Scope 2.
"""

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from saestore.errors import UnsupportedError
from saestore.train.objectives.base import Pass, Penalty
from saestore_schemas.objective import TargetL0BatchSettings, TargetL0RowSettings


class L0(Penalty):
    """Mean number of firings."""

    @override
    def value(self, seen: Pass) -> Float[Tensor, ""]:
        """Return the term without its weight."""
        return firings(seen).mean()


class TargetL0Batch(Penalty):
    """Distance of the mean number of firings from a target."""

    def __init__(self, settings: TargetL0BatchSettings, total_steps: int) -> None:
        super().__init__(settings, total_steps)
        self.target = settings.target

    @override
    def value(self, seen: Pass) -> Float[Tensor, ""]:
        """Return the term without its weight."""
        return (firings(seen).mean() / self.target - 1).square()


class TargetL0Row(Penalty):
    """Distance of each row's number of firings from a target."""

    def __init__(self, settings: TargetL0RowSettings, total_steps: int) -> None:
        super().__init__(settings, total_steps)
        self.target = settings.target

    @override
    def value(self, seen: Pass) -> Float[Tensor, ""]:
        """Return the term without its weight."""
        return (firings(seen) - self.target).square().mean() * (2 / self.target)


def firings(seen: Pass) -> Float[Tensor, " row"]:
    """Return each row's number of firings, differentiable through thresholds.

    Raises:
        UnsupportedError: The activation function has none; settings refuse that before.
    """
    code = seen.output.code
    if code.steps is None:
        raise UnsupportedError(
            "the number of firings has no gradient without learnt thresholds",
            found=seen.dictionary.config.semantics.activation.kind,
            expected="activation.kind = 'jumprelu'",
            hint="use loss.sparsity.kind = 'l1' or 'tanh'",
        )
    return code.row_sums(code.steps())
