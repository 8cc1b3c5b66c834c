"""A step of a mixture of linear transforms against all its maps on every row.

The dense reference is the family as its equations are written, for each rank: rows through all V, times codes
with their zeros, through all U; gradients by autograd, and torch's fused Adam with the same clipping. Both
start from the same weights, keep k features and read the same batches, already in memory. Its loss is
compared with ours before anything is timed.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from benchmarks.dense_step import CLIP, LR, DenseStep, beside
from benchmarks.harness import Options, Setup
from saestore import dictionaries
from saestore.activations import Moments
from saestore.dictionaries import SparseDictionary
from saestore.train.trainer import Schedule, Trainer
from saestore_schemas.dictionary import TopK
from saestore_schemas.families import MoltSettings
from saestore_schemas.train import ActivationsSettings, BudgetSettings, InitSettings, TrainSettings


D, K, BATCH = 576, 8, 1024
"""Width of both hookpoints, features kept, rows of a step."""
RANKS = {64: 8, 32: 16, 16: 32, 8: 64, 4: 128}
"""As many parameters in each rank, as the published mix has."""
READS, WRITES = "synthetic.in", "synthetic.out"
RUN_STEPS = 10_000
"""Steps the schedules believe in: long enough that no feature counts as dead meanwhile."""


def batches(count: int) -> list[dict[str, Tensor]]:
    """Return rows, and what a random MLP makes of them."""
    draw = torch.Generator().manual_seed(1)
    first, second = (torch.randn(D, D, generator=draw) / D**0.5 for _ in range(2))
    rows = [torch.randn(BATCH, D, generator=draw) for _ in range(count)]
    return [{READS: x, WRITES: torch.relu(x @ first) @ second} for x in rows]


def ours(given: list[dict[str, Tensor]]) -> Trainer:
    """Return our trainer at step 0."""
    settings = TrainSettings(
        series="bench",
        name="molt",
        activations=ActivationsSettings(name="none", batch_rows=BATCH),
        dictionary=MoltSettings(
            family="molt", hookpoint_in=READS, hookpoint_out=WRITES, ranks=RANKS,
            activation=TopK(k=K), gate_on_decoder_norm=False,
        ),
        budget=BudgetSettings(rows=RUN_STEPS * BATCH),
    )  # fmt: skip
    chosen = settings.optimizer.model_copy(update={"lr": LR, "clip": CLIP})
    settings = settings.model_copy(update={"optimizer": chosen})
    dictionary = dictionaries.build(
        settings.dictionary,
        widths={READS: D, WRITES: D},
        moments={hook: Moments.of(rows.numpy()) for hook, rows in given[0].items()},
        init=InitSettings(),
        seed=0,
    )
    schedule = Schedule(steps=RUN_STEPS, batch_rows=BATCH, dead_after=RUN_STEPS * BATCH)
    return Trainer(dictionary, settings, schedule, variance=float(D))


class Dense(DenseStep):
    """The reference: all maps on every row."""

    def __init__(self, like: SparseDictionary) -> None:
        """Start from another one's weights."""
        self.like = like
        self.tensors = {n: t.clone().requires_grad_() for n, t in like.tensors().items()}
        super().__init__(list(self.tensors.values()))

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the squared error of normalised rows."""
        t, rows = self.tensors, self.like.normalise(batch)
        x, y = rows[READS], rows[WRITES]
        kept = torch.topk(torch.relu(x @ t["W_enc"] + t["b_enc"]), K, dim=1)
        code = x.new_zeros(len(x), sum(RANKS.values())).scatter(1, kept.indices, kept.values)
        found, first = t["b_dec"], 0
        for rank, count in RANKS.items():
            own = code[:, first : first + count].unsqueeze(2)
            read = (x @ t[f"V.{rank}"].flatten(0, 1).T).view(len(x), count, rank)
            found = found + (own * read).flatten(1) @ t[f"U.{rank}"].transpose(1, 2).flatten(0, 1)
            first += count
        return (found - y).square().sum() / BATCH


class MoltStep:
    """Whole steps."""

    name = "molt_step"
    doc = (
        f"a step of a molt of {sum(RANKS.values())} maps, {D} -> {D}, against all maps on every row"
    )

    @contextmanager
    def setup(self, options: Options) -> Iterator[Setup]:
        """Make trainers and batches in memory."""
        if options.threads:
            torch.set_num_threads(options.threads)
        given = batches(3)
        trainer = ours(given)
        dense = Dense(trainer.dictionary)
        yield beside(
            trainer,
            dense,
            given,
            rows=BATCH,
            wanted=1.2,
            sizes={
                "shapes": f"{D} -> {D}, k {K}, {BATCH} rows, float32",
                "ranks": ", ".join(f"{count} of rank {rank}" for rank, count in RANKS.items()),
            },
        )


BENCH = MoltStep()
