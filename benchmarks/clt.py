"""A cross-layer transcoder's step against dense matrices, and its memory as layers and features grow.

The dense reference is the family as its equations are written: one decoder of each target over the
features of all layers up to it, codes with their zeros, gradients by autograd, and torch's fused Adam
with the same clipping. Both start from the same weights, keep k features of each layer and read the same
batches, already in memory. Its loss is compared with ours before anything is timed.

Memory is the peak of a process of its own above what a tiny step took, imports and compiled loops, beside what weights, gradients,
moments, pre-activations and batches must take: what is above one is overhead.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from benchmarks.dense_step import CLIP, LR, DenseStep, beside
from benchmarks.harness import Amount, Note, Options, Setup
from saestore import dictionaries
from saestore.activations import Moments
from saestore.dictionaries import SparseDictionary
from saestore.train import memory
from saestore.train.trainer import Schedule, Trainer
from saestore_schemas.dictionary import TopK
from saestore_schemas.families import CltSettings
from saestore_schemas.train import ActivationsSettings, BudgetSettings, InitSettings, TrainSettings


D, K, BATCH = 256, 16, 1024
"""Width of every hookpoint, features kept of each layer, rows of a step."""
LAYERS, FEATURES = 6, 2048
"""Of the step that is timed."""
RUN_STEPS = 10_000
"""Steps the schedules believe in: long enough that no feature counts as dead meanwhile."""
SIZES = ((2, 2048), (4, 2048), (8, 2048), (4, 4096), (4, 8192))
"""Layers and features of each whose memory is measured."""
OVERHEAD = 1.5
"""How many times what it must hold a step may take at most."""
MIB = 2**20


def hooks(layers: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what the layers read and write."""
    return tuple(f"in.{i}" for i in range(layers)), tuple(f"out.{i}" for i in range(layers))


def batches(layers: int, count: int) -> list[dict[str, Tensor]]:
    """Return rows of every hookpoint: outputs are fixed maps of inputs, layer by layer."""
    draw = torch.Generator().manual_seed(1)
    maps = [torch.randn(D, D, generator=draw) / D**0.5 for _ in range(layers)]
    found = []
    for _ in range(count):
        rows, batch = torch.randn(BATCH, D, generator=draw), {}
        for layer, (read, write) in enumerate(zip(*hooks(layers), strict=True)):
            batch[read] = rows
            batch[write] = torch.relu(rows @ maps[layer])
            rows = rows + batch[write]
        found.append(batch)
    return found


def ours(layers: int, features: int, given: Sequence[dict[str, Tensor]]) -> Trainer:
    """Return our trainer at step 0."""
    reads, writes = hooks(layers)
    settings = TrainSettings(
        series="bench",
        name="clt",
        activations=ActivationsSettings(name="none", batch_rows=BATCH),
        dictionary=CltSettings(
            family="clt", hookpoints_in=reads, hookpoints_out=writes, d_sae=features,
            activation=TopK(k=K), gate_on_decoder_norm=False,
        ),
        budget=BudgetSettings(rows=RUN_STEPS * BATCH),
    )  # fmt: skip
    chosen = settings.optimizer.model_copy(update={"lr": LR, "clip": CLIP})
    settings = settings.model_copy(update={"optimizer": chosen})
    dictionary = dictionaries.build(
        settings.dictionary,
        widths=dict.fromkeys((*reads, *writes), D),
        moments={hook: Moments.of(rows.numpy()) for hook, rows in given[0].items()},
        init=InitSettings(),
        seed=0,
    )
    schedule = Schedule(steps=RUN_STEPS, batch_rows=BATCH, dead_after=RUN_STEPS * BATCH)
    return Trainer(dictionary, settings, schedule, variance=dict.fromkeys(writes, float(D)))


class Dense(DenseStep):
    """The reference: matrices by target, codes with their zeros."""

    def __init__(self, like: SparseDictionary) -> None:
        """Start from another one's weights."""
        self.like, tensors = like, like.tensors()
        layers = len(like.hookpoints_in)

        def parameter(tensor: Tensor) -> Tensor:
            return tensor.clone().requires_grad_()

        self.encoders = [parameter(tensors[f"W_enc.{s}"]) for s in range(layers)]
        self.biases = [parameter(tensors[f"b_enc.{s}"]) for s in range(layers)]
        self.decoders = [
            parameter(torch.cat([tensors[f"W_dec.{s}"][:, t - s] for s in range(t + 1)]))
            for t in range(layers)
        ]
        self.outputs = [parameter(tensors[f"b_dec.{t}"]) for t in range(layers)]
        super().__init__([*self.encoders, *self.biases, *self.decoders, *self.outputs])

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the squared error of normalised rows."""
        rows = self.like.normalise(batch)
        code: list[Tensor] = []
        total = torch.zeros(())
        for t, (read, write) in enumerate(
            zip(self.like.hookpoints_in, self.like.hookpoints_out, strict=True)
        ):
            h = torch.relu(rows[read] @ self.encoders[t] + self.biases[t])
            kept = torch.topk(h, K, dim=1)
            code.append(torch.zeros_like(h).scatter(1, kept.indices, kept.values))
            found = torch.cat(code, dim=1) @ self.decoders[t] + self.outputs[t]
            total = total + (found - rows[write]).square().sum() / BATCH
        return total


class CltStep:
    """Whole steps."""

    name = "clt_step"
    doc = f"a step of a CLT of {LAYERS} layers, {D} -> {FEATURES} each, against dense matrices"

    @contextmanager
    def setup(self, options: Options) -> Iterator[Setup]:
        """Make trainers and batches in memory."""
        if options.threads:
            torch.set_num_threads(options.threads)
        given = batches(LAYERS, 3)
        trainer = ours(LAYERS, FEATURES, given)
        dense = Dense(trainer.dictionary)
        yield beside(
            trainer,
            dense,
            given,
            rows=BATCH,
            wanted=4.0,
            sizes={
                "shapes": f"{LAYERS} layers, {D} -> {FEATURES} -> {D}, k {K} each, {BATCH} rows, float32",
            },
        )


class CltMemory:
    """Peaks of training processes."""

    name = "clt_memory"
    doc = "peak memory of a CLT's training as layers and features grow, beside what it must hold"

    @contextmanager
    def setup(self, options: Options) -> Iterator[Setup]:
        """Each size is measured once, by a process of its own."""
        found: dict[tuple[int, int], dict[str, float]] = {}

        def of(size: tuple[int, int]) -> dict[str, float]:
            if size not in found:
                command = [sys.executable, "-m", "benchmarks.clt", *map(str, size)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found[size] = json.loads(done.stdout)
            return found[size]

        def said(size: tuple[int, int]) -> str:
            each = of(size)
            return (
                f"peak {each['peak']:,.0f} MiB; must hold {each['must']:,.0f} MiB: "
                f"{each['weights']:,.0f} of weights, gradients and moments, "
                f"{each['activations']:,.0f} of pre-activations, {each['batches']:,.0f} of rows"
            )

        sizes = SIZES[:1] if options.quick else SIZES
        yield Setup(
            contenders=(),
            goals=(),
            unit="row",
            sizes={"shapes": f"{D} -> d_sae -> {D}, k {K} of each layer, {BATCH} rows, float32"},
            amounts=tuple(
                Amount(
                    f"{layers} layers of {features}: percent of what it must hold",
                    "%",
                    lambda size=(layers, features): 100 * of(size)["peak"] / of(size)["must"],  # type: ignore[misc]
                    "<=",
                    100 * OVERHEAD,
                )
                for layers, features in sizes
            ),
            notes=tuple(
                Note(f"{layers} layers of {features}", lambda size=(layers, features): said(size))  # type: ignore[misc]
                for layers, features in sizes
            ),
        )


def measured(layers: int, features: int) -> dict[str, float]:
    """Return MiB that some training steps take in this process, and what they are made of."""
    torch.set_num_threads(1)
    for batch in batches(1, 1):  # compiles loops, which takes hundreds of MiB once
        ours(1, 64, [batch]).advance(batch, log=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    given = batches(layers, 2)
    trainer = ours(layers, features, given)
    for batch in given:
        trainer.advance(batch, log=False)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    weights, pre = memory.weights(trainer) / MIB, memory.activations(trainer) / MIB
    rows = len(given) * 2 * layers * BATCH * D * 4 / MIB
    return {
        "peak": peak,
        "must": weights + pre + rows,
        "weights": weights,
        "activations": pre,
        "batches": rows,
    }


BENCHES = {bench.name: bench for bench in (CltStep(), CltMemory())}


if __name__ == "__main__":
    print(json.dumps(measured(*map(int, sys.argv[1:]))))
