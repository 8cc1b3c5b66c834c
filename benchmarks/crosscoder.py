"""A crosscoder's step against dense matrices, with one gate for all heads and with one of each.

The reference (`dense_step`) has one product of all hookpoints side by side with the encoder, and codes with their
zeros, of each head where heads gate by themselves, through each head's decoder. k counts at each head then.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.dense_step import Batch, DenseStep, beside, trainer
from benchmarks.harness import Options, Setup
from saestore_schemas.dictionary import TopK
from saestore_schemas.families import CrossCoderSettings
from saestore_schemas.gating import Gating
from saestore_schemas.train import InitSettings


D, K, BATCH, FEATURES = 256, 32, 1024, 8192
"""Width of every hookpoint, features kept, rows of a step, features."""
HOOKS = tuple(f"hook.{head}" for head in range(3))


def batches(count: int) -> list[dict[str, Tensor]]:
    """Return rows of every hookpoint: fixed maps of the same."""
    draw = torch.Generator().manual_seed(1)
    maps = {hook: torch.randn(D, D, generator=draw) / D**0.5 for hook in HOOKS}
    rows = [torch.randn(BATCH, D, generator=draw) for _ in range(count)]
    return [{hook: x @ each for hook, each in maps.items()} for x in rows]


def settings(gating: Gating) -> CrossCoderSettings:
    """Return what is trained."""
    return CrossCoderSettings(
        family="crosscoder", hookpoints=HOOKS, d_sae=FEATURES, activation=TopK(k=K), gating=gating,
    )  # fmt: skip


class Dense(DenseStep):
    """Codes with their zeros."""

    def loss(self, batch: Batch) -> Tensor:
        """Return the squared error of normalised rows."""
        t, rows = self.tensors, self.like.normalise(batch)
        decoders = [t[f"W_dec.{head}"] for head in range(len(HOOKS))]
        lengths = torch.stack([decoder.norm(dim=1) for decoder in decoders])
        encoder = torch.cat([t[f"W_enc.{head}"] for head in range(len(HOOKS))])
        h = torch.cat([rows[hook] for hook in HOOKS], dim=1) @ encoder + t["b_enc"]
        if self.like.gates == 1:
            codes = [self._kept(h, lengths.sum(dim=0))] * len(HOOKS)
        else:
            codes = [self._kept(h, own) for own in lengths]
        errors = [
            (code @ decoder + t[f"b_dec.{head}"] - rows[hook]).square().sum()
            for head, (hook, code, decoder) in enumerate(zip(HOOKS, codes, decoders, strict=True))
        ]
        return torch.stack(errors).sum() / BATCH

    @staticmethod
    def _kept(h: Tensor, lengths: Tensor) -> Tensor:
        """Return h where h times length is among the k largest and positive."""
        places = torch.topk(h.detach() * lengths.detach(), K, dim=1).indices
        return torch.zeros_like(h).scatter(1, places, torch.relu(h.gather(1, places)))


@dataclass(frozen=True)
class CrossCoderStep:
    """Whole steps.

    Attributes:
        name: Its name.
        gating: How heads gate.
        wanted: How many times as fast as the reference it is to be.
    """

    name: str
    gating: Gating
    wanted: float

    @property
    def doc(self) -> str:
        """What it measures."""
        gate = "one gate" if self.gating == "shared" else "a gate of each head"
        return f"a step of a crosscoder of {len(HOOKS)} heads with {gate} against dense matrices"

    @contextmanager
    def setup(self, options: Options) -> Iterator[Setup]:
        """Make trainers and batches in memory."""
        if options.threads:
            torch.set_num_threads(options.threads)
        given = batches(3)
        mine = trainer(settings(self.gating), given[0], InitSettings(repeat_heads=False))
        yield beside(
            mine,
            Dense(mine.dictionary, mine.dictionary.tensors()),
            given,
            wanted=self.wanted,
            sizes={
                "shapes": f"{len(HOOKS)} x {D} -> {FEATURES}, k {K}, {BATCH} rows, float32",
                "gating": self.gating,
            },
        )


BENCHES = {
    each.name: each
    for each in (
        CrossCoderStep("crosscoder_step", "shared", 2.0),
        CrossCoderStep("crosscoder_step_per_head", "per_head", 2.0),
    )
}
