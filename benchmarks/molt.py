"""A step of a mixture of linear transforms against all its maps on every row.

The reference (`dense_step`), for each rank: rows through all V, times codes with their zeros, through all U.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from benchmarks.dense_step import Batch, DenseStep, beside, strongest, trainer
from benchmarks.harness import Options, Setup
from saestore_schemas.dictionary import TopK
from saestore_schemas.families import MoltSettings


D, K, BATCH = 576, 8, 1024
"""Width of both hookpoints, features kept, rows of a step."""
RANKS = {64: 8, 32: 16, 16: 32, 8: 64, 4: 128}
"""As many parameters in each rank, as the published mix has."""
READS, WRITES = "synthetic.in", "synthetic.out"


def batches(count: int) -> list[dict[str, Tensor]]:
    """Return rows, and what a random MLP makes of them."""
    draw = torch.Generator().manual_seed(1)
    first, second = (torch.randn(D, D, generator=draw) / D**0.5 for _ in range(2))
    rows = [torch.randn(BATCH, D, generator=draw) for _ in range(count)]
    return [{READS: x, WRITES: torch.relu(x @ first) @ second} for x in rows]


def settings() -> MoltSettings:
    """Return what is trained."""
    return MoltSettings(
        family="molt", hookpoint_in=READS, hookpoint_out=WRITES, ranks=RANKS, activation=TopK(k=K),
        gate_on_decoder_norm=False,
    )  # fmt: skip


class Dense(DenseStep):
    """All maps on every row."""

    def loss(self, batch: Batch) -> Tensor:
        """Return the squared error of normalised rows."""
        t, rows = self.tensors, self.like.normalise(batch)
        x, y = rows[READS], rows[WRITES]
        code = strongest(x @ t["W_enc"] + t["b_enc"], K)
        found, first = t["b_dec"], 0
        for rank, count in RANKS.items():
            own = code[:, first : first + count].unsqueeze(2)
            read = (x @ t[f"V.{rank}"].flatten(0, 1).T).view(len(x), count, rank)
            found = found + (own * read).flatten(1) @ t[f"U.{rank}"].transpose(1, 2).flatten(0, 1)
            first += count
        return (found - y).square().sum() / len(x)


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
        mine = trainer(settings(), given[0])
        yield beside(
            mine,
            Dense(mine.dictionary, mine.dictionary.tensors()),
            given,
            wanted=1.2,
            sizes={
                "shapes": f"{D} -> {D}, k {K}, {BATCH} rows, float32",
                "ranks": ", ".join(f"{count} of rank {rank}" for rank, count in RANKS.items()),
            },
        )


BENCH = MoltStep()
