"""A cross-layer transcoder's step against dense matrices, and its memory as layers and features grow.

The reference (`dense_step`) has one decoder of each target over the features of all layers up to it.

Memory is the peak of a process of its own above what a tiny step took, imports and compiled loops, beside what
weights, gradients, moments, pre-activations and batches must take: what is above one is overhead.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from benchmarks.dense_step import Batch, DenseStep, beside, strongest, trainer
from benchmarks.harness import Amount, Note, Options, Setup
from saestore.dictionaries import SparseDictionary
from saestore.train import memory
from saestore_schemas.dictionary import TopK
from saestore_schemas.families import CltSettings


D, K, BATCH = 256, 16, 1024
"""Width of every hookpoint, features kept of each layer, rows of a step."""
LAYERS, FEATURES = 6, 2048
"""Of the step that is timed."""
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


def settings(layers: int, features: int) -> CltSettings:
    """Return what is trained."""
    reads, writes = hooks(layers)
    return CltSettings(
        family="clt", hookpoints_in=reads, hookpoints_out=writes, d_sae=features, activation=TopK(k=K),
        gate_on_decoder_norm=False,
    )  # fmt: skip


def by_target(like: SparseDictionary) -> dict[str, Tensor]:
    """Return a CLT's weights, its decoders by target."""
    tensors = like.tensors()
    for t in range(len(like.hookpoints_in)):
        parts = [tensors[f"W_dec.{s}"][:, t - s] for s in range(t + 1)]
        tensors[f"to.{t}"] = torch.cat(parts)
    return {name: each for name, each in tensors.items() if not name.startswith("W_dec")}


class Dense(DenseStep):
    """Matrices by target."""

    def loss(self, batch: Batch) -> Tensor:
        """Return the squared error of normalised rows."""
        w, rows = self.tensors, self.like.normalise(batch)
        code: list[Tensor] = []
        total = torch.zeros(())
        for t, (read, write) in enumerate(
            zip(self.like.hookpoints_in, self.like.hookpoints_out, strict=True)
        ):
            code.append(strongest(rows[read] @ w[f"W_enc.{t}"] + w[f"b_enc.{t}"], K))
            found = torch.cat(code, dim=1) @ w[f"to.{t}"] + w[f"b_dec.{t}"]
            total = total + (found - rows[write]).square().sum() / len(found)
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
        mine = trainer(settings(LAYERS, FEATURES), given[0])
        yield beside(
            mine,
            Dense(mine.dictionary, by_target(mine.dictionary)),
            given,
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
        trainer(settings(1, 64), batch).advance(batch, log=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    given = batches(layers, 2)
    measuring = trainer(settings(layers, features), given[0])
    for batch in given:
        measuring.advance(batch, log=False)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    weights, pre = memory.weights(measuring) / MIB, memory.activations(measuring) / MIB
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
