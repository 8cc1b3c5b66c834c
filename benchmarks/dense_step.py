"""A family's step beside a dense reference that starts from the same weights and reads the same batches."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

import saestore
from benchmarks.harness import Contender, Goal, Setup, timed
from saestore.train.trainer import Trainer


LR, CLIP = 1e-4, 1.0
"""Of both sides' Adam, and of their gradients."""
STEPS = 2
"""Steps a repetition."""
AGREE = 1e-4
"""Relative difference of the first losses at most."""


class DenseStep(ABC):
    """The reference: gradients by autograd, and torch's fused Adam with the same clipping."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        """Take the weights it trains."""
        self.weights = list(weights)
        self.adam = torch.optim.Adam(self.weights, lr=LR, fused=True)

    @abstractmethod
    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the squared error of normalised rows."""

    def step(self, batch: dict[str, Tensor]) -> None:
        """Take one step."""
        self.adam.zero_grad()
        self.loss(batch).backward()
        torch.nn.utils.clip_grad_norm_(self.weights, CLIP)
        self.adam.step()


def beside(
    trainer: Trainer,
    dense: DenseStep,
    given: Sequence[dict[str, Tensor]],
    *,
    rows: int,
    wanted: float,
    sizes: Mapping[str, str | int],
) -> Setup:
    """Return both as contenders, after their first losses were found to agree.

    Args:
        trainer: Our side, at step 0.
        dense: The reference, at the same weights.
        given: Batches, which both take in turn.
        rows: Rows of a batch.
        wanted: How many times as fast ours is to be.
        sizes: What is printed of the shapes.

    Raises:
        RuntimeError: The losses differ.
    """
    expected = float(dense.loss(given[0]).detach())
    found = trainer.advance(given[0], log=True)
    if found is None or abs(float(found["loss_mse"]) - expected) > AGREE * expected:  # type: ignore[arg-type]
        msg = f"the losses differ: {found}, and {expected} by the reference"
        raise RuntimeError(msg)
    mine, theirs = itertools.cycle(given), itertools.cycle(given)
    return Setup(
        contenders=(
            Contender(
                "saestore step",
                lambda: _repeated(lambda: trainer.advance(next(mine), log=False), rows),
                f"saestore {saestore.__version__}, torch {torch.__version__}",
            ),
            Contender(
                "dense step",
                lambda: _repeated(lambda: dense.step(next(theirs)), rows),
                f"torch {torch.__version__}, autograd",
            ),
        ),
        goals=(Goal("saestore step", "dense step", "rate", ">=", wanted),),
        unit="row",
        sizes={**sizes, "threads": torch.get_num_threads()},
    )


def _repeated(step: Callable[[], object], rows: int) -> tuple[float, float]:
    """Take some steps; return rows and seconds."""

    def work() -> None:
        for _ in range(STEPS):
            step()

    return STEPS * rows, timed(work)
