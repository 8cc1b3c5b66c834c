"""Logit attribution of 32 768 features and 49 152 tokens, beside the matrix product that it takes.

The product alone makes the same scores, a block of as many features at a time, and forgets them. What is
added is what is wanted of them: exact ends with ties by token, moments in float64, histograms. Memory is the
peak of a process of its own, above what it had with vectors and unembedding in it.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from benchmarks.harness import Amount, Contender, Goal, Options, Setup, timed
from saestore.analyze.logits import BLOCK, Projection, logit_rows
from saestore.lm import FinalNorm, Unembedding
from saestore_schemas.analyze import LogitScore


GOAL = 1.5
"""Times as long as the product alone, at most."""
MEMORY_MIB = 256
"""Peak above vectors and unembedding, at most; the matrix of all scores has 6 144."""
FEATURES, TOKENS, WIDTH = 32_768, 49_152, 576
"""Of SmolLM2-135M, whose residual stream is narrow: in a wider one the product takes a larger share."""
EACH_ROUND = 2_048
TOP_K = 10
PROCESS = Path("/proc/self")
WITH_OTHERS: tuple[LogitScore, ...] = ("direction", "renormalised")


class Logits:
    """Random vectors through a random unembedding."""

    name = "logits"
    doc = "logit attribution of 32,768 features x 49,152 tokens, beside the bare matrix product"

    @contextmanager
    def setup(self, options: Options) -> Iterator[Setup]:
        """Draw vectors and unembedding."""
        if options.threads:
            torch.set_num_threads(options.threads)
        features = 256 if options.quick else EACH_ROUND
        whole = 512 if options.quick else FEATURES
        vectors, onto = drawn(features)
        run = partial(attribute, vectors, onto)
        yield Setup(
            contenders=(
                Contender("saestore", lambda: (features, timed(run))),
                Contender("every score", lambda: (features, timed(partial(run, WITH_OTHERS)))),
                Contender(
                    "product",
                    lambda: (features, timed(partial(product, vectors, onto))),
                    f"torch {torch.__version__}",
                ),
            ),
            goals=(
                Goal("saestore", "product", "time", "<=", GOAL),
                Goal("every score", "product", "time", "<=", 1.5 * GOAL),
            ),
            unit="features",
            sizes={"features": features, "tokens": TOKENS, "d_model": WIDTH, "block": BLOCK},
            rounds=3,
            amounts=(
                Amount(
                    f"peak memory of {whole:,} features",
                    "MiB",
                    partial(peak, whole),
                    "<=",
                    MEMORY_MIB,
                ),
            ),
        )


def drawn(features: int) -> tuple[torch.Tensor, Projection]:
    """Return vectors and what they are projected on."""
    generator = torch.Generator().manual_seed(0)
    columns = torch.randn(WIDTH, TOKENS, generator=generator) / WIDTH**0.5
    gain, bias = 1 + 0.2 * torch.randn(2, WIDTH, generator=generator)
    unembedding = Unembedding(
        columns, torch.zeros(TOKENS), FinalNorm(gain, bias, centred=False, epsilon=1e-5)
    )
    onto = Projection.of(unembedding, tokens=TOKENS, device=torch.device("cpu"))
    return torch.randn(features, WIDTH, generator=generator), onto


def attribute(
    vectors: torch.Tensor, onto: Projection, scores: tuple[LogitScore, ...] = ("direction",)
) -> None:
    """Make the lines of all tables, and forget them."""
    for _ in logit_rows(vectors, onto, top_k=TOP_K, scores=scores):
        pass


def product(vectors: torch.Tensor, onto: Projection) -> None:
    """Make the scores, a block at a time, and forget them."""
    for first in range(0, len(vectors), BLOCK):
        vectors[first : first + BLOCK] @ onto.weight


def peak(features: int) -> float:
    """Return the peak memory of a process that attributes so many features, in MiB above what it held."""
    command = [sys.executable, "-m", "benchmarks.logits", str(features)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def _child(features: int) -> None:
    attribute(*drawn(1))  # compiled loops, and what torch keeps
    vectors, onto = drawn(features)
    PROCESS.joinpath("clear_refs").write_text("5")  # the peak begins anew
    before = _memory("VmRSS")
    attribute(vectors, onto, WITH_OTHERS)
    print(json.dumps(_memory("VmHWM") - before))


def _memory(what: str) -> float:
    """Return what Linux says of this process's memory, in MiB."""
    lines = PROCESS.joinpath("status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{what}:"))


BENCH = Logits()

if __name__ == "__main__":
    _child(int(sys.argv[1]))
