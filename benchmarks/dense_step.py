"""A family's step beside a dense reference that starts from the same weights and reads the same batches.

The reference is the family as its equations are written: codes with their zeros, gradients by autograd, and torch's
fused Adam with the same clipping. Batches lie in memory. Its loss is compared with ours before anything is timed.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

import saestore
from benchmarks.harness import Contender, Goal, Setup, timed
from saestore import dictionaries
from saestore.activations import Moments
from saestore.dictionaries import SparseDictionary
from saestore.train.trainer import Schedule, Trainer
from saestore_schemas.families import DictionarySettings
from saestore_schemas.train import ActivationsSettings, BudgetSettings, InitSettings, TrainSettings


LR, CLIP = 1e-4, 1.0
"""Of both sides' Adam, and of their gradients."""
RUN_STEPS = 10_000
"""Steps the schedules believe in: long enough that no feature counts as dead meanwhile."""
STEPS = 2
"""Steps a repetition."""
AGREE = 1e-4
"""Relative difference of the first losses at most."""


Batch = Mapping[str, Tensor]
"""Rows of each hookpoint; in the contexts they lie in, of a family that reads these."""


def trainer(
    settings: DictionarySettings, batch: Batch, init: InitSettings | None = None
) -> Trainer:
    """Return our trainer at step 0.

    Args:
        settings: What is trained.
        batch: A batch; its rows say how hookpoints are normalised.
        init: How weights start.
    """
    rows = len(next(iter(batch.values())))
    run = TrainSettings(
        series="bench",
        name=settings.family,
        activations=ActivationsSettings(name="none", batch_rows=rows),
        dictionary=settings,
        budget=BudgetSettings(rows=RUN_STEPS * rows),
    )
    chosen = run.optimizer.model_copy(update={"lr": LR, "clip": CLIP})
    widths = {hook: each.shape[1] for hook, each in batch.items()}
    dictionary = dictionaries.build(
        settings,
        widths=widths,
        moments={hook: Moments.of(each.numpy()) for hook, each in batch.items()},
        init=init or InitSettings(),
        seed=0,
    )
    variance = {hook: float(widths[hook]) for hook in dictionary.hookpoints_out}
    schedule = Schedule(steps=RUN_STEPS, batch_rows=rows, dead_after=RUN_STEPS * rows)
    run = run.model_copy(update={"optimizer": chosen})
    return Trainer(dictionary, run, schedule, variance=variance)


class DenseStep(ABC):
    """The reference."""

    def __init__(self, like: SparseDictionary, weights: Mapping[str, Tensor]) -> None:
        """Start from another one's weights.

        Args:
            like: Normalises rows as it does.
            weights: Its weights, as the reference arranges them.
        """
        self.like = like
        self.tensors = {name: each.clone().requires_grad_() for name, each in weights.items()}
        self.weights = list(self.tensors.values())
        self.adam = torch.optim.Adam(self.weights, lr=LR, fused=True)

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """Return the squared error of normalised rows."""

    def step(self, batch: Batch) -> None:
        """Take one step."""
        self.adam.zero_grad()
        self.loss(batch).backward()
        torch.nn.utils.clip_grad_norm_(self.weights, CLIP)
        self.adam.step()


def strongest(h: Tensor, k: int) -> Tensor:
    """Return the k largest positive pre-activations of each row, zeros elsewhere."""
    kept = torch.topk(torch.relu(h), k, dim=1)
    return torch.zeros_like(h).scatter(1, kept.indices, kept.values)


def beside(
    trainer: Trainer,
    dense: DenseStep,
    given: Sequence[Batch],
    *,
    wanted: float,
    sizes: Mapping[str, str | int],
) -> Setup:
    """Return both as contenders, after their first losses were found to agree.

    Args:
        trainer: Our side, at step 0.
        dense: The reference, at the same weights.
        given: Batches, which both take in turn.
        wanted: How many times as fast ours is to be.
        sizes: What is printed of the shapes.

    Raises:
        RuntimeError: The losses differ.
    """
    rows = len(next(iter(given[0].values())))
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
