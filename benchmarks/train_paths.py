"""Ways through a training step: dense products, or sums over the pairs of row and feature that fire.

`train_paths` finds the share of entries above which dense products are faster, on this machine; from its
table comes `DENSE_SHARE` (saestore/dictionaries/activation_functions/base.py). A pass is forward and
backward of a ReLU autoencoder whose bias lets the share fire, selection and encoder product included.

`train_step_cuda` compares whole TopK steps on a CUDA device: dense, with torch's sparse operations, and
with our kernels. It needs such a device, and says so where there is none.
"""

import itertools
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch

import saestore
from benchmarks import train_step
from benchmarks.harness import Contender, Goal, Limit, Note, Options, Setup, timed
from saestore import dictionaries
from saestore.activations import Moments
from saestore.dictionaries import backends
from saestore.dictionaries.activation_functions import base
from saestore_schemas.dictionary import Relu
from saestore_schemas.families import SaeSettings
from saestore_schemas.train import InitSettings


SIZES = ((512, 8192, 1024), (768, 6144, 1024), (2048, 8192, 256))
"""d_in, d_sae and rows."""
SHARES = (1 / 32, 1 / 16, 1 / 8, 3 / 16, 1 / 4)
"""Of all entries, that fire."""
ROUNDS = 5
"""Of both, taking turns."""

DENSE, SPARSE = 0.0, 1.0
"""Values of `DENSE_SHARE` that leave no choice."""


@contextmanager
def path(share: float) -> Iterator[None]:
    """Take the dense or the sparse path meanwhile."""
    before = base.DENSE_SHARE
    base.DENSE_SHARE = share
    try:
        yield
    finally:
        base.DENSE_SHARE = before


def passing(d_in: int, d_sae: int, rows: int, share: float):
    """Return a function that takes one pass in which a share of all entries fires."""
    draw = torch.Generator().manual_seed(0)
    batch = torch.randn(rows, d_in, generator=draw)
    sae = dictionaries.build(
        SaeSettings(hookpoint=train_step.HOOK, d_sae=d_sae, activation=Relu(), scale="none"),
        widths={train_step.HOOK: d_in},
        moments={train_step.HOOK: Moments.of(batch.numpy())},
        init=InitSettings(),
        seed=0,
    )
    with torch.no_grad():
        scores = batch[:64] @ sae.W_enc
        sae.b_enc.fill_(-float(torch.quantile(scores.reshape(-1)[: 1 << 19], 1 - share)))

    def one() -> None:
        sae.zero_grad(set_to_none=True)
        found = sae({train_step.HOOK: batch}).reconstruction[train_step.HOOK]
        (found - batch).square().sum().backward()

    return one


def compared(d_in: int, d_sae: int, rows: int, share: float) -> str:
    """Return how long a sparse pass takes beside a dense one, in words."""
    one = passing(d_in, d_sae, rows, share)
    seconds: dict[float, list[float]] = {DENSE: [], SPARSE: []}
    for number in range(-1, ROUNDS):
        for kind in (DENSE, SPARSE) if number % 2 else (SPARSE, DENSE):
            with path(kind):
                took = timed(one)
            if number >= 0:
                seconds[kind].append(took)
    ratio = statistics.median(s / d for s, d in zip(seconds[SPARSE], seconds[DENSE], strict=True))
    dense = statistics.median(seconds[DENSE])
    return f"a sparse pass takes {ratio:.2f} of a dense one ({1000 * dense:.0f} ms)"


class TrainPaths:
    """Where sparse passes cease to be faster, on the CPU."""

    name = "train_paths"
    doc = "a sparse pass against a dense one, by the share of entries that fire"

    @contextmanager
    def setup(self, options: Options) -> Iterator[Setup]:
        """Make nothing: every line makes its own dictionary."""
        if options.threads:
            torch.set_num_threads(options.threads)
        sizes = SIZES[:1] if options.quick else SIZES
        yield Setup(
            contenders=(),
            goals=(),
            unit="pass",
            sizes={"threads": torch.get_num_threads(), "rule": f"dense above {base.DENSE_SHARE:g}"},
            notes=tuple(
                Note(
                    f"{d_in} -> {d_sae}, {rows} rows, {share:.4g} fire",
                    partial(compared, d_in, d_sae, rows, share),
                )
                for (d_in, d_sae, rows), share in itertools.product(sizes, SHARES)
            ),
        )


class TrainStepCuda:
    """A TopK step on CUDA, by each way through it."""

    name = "train_step_cuda"
    doc = "a TopK step on a CUDA device: dense, sparse by torch, sparse by our kernels"

    @contextmanager
    def setup(self, options: Options) -> Iterator[Setup]:
        """Make a trainer for each way."""
        names = {
            "dense step": (DENSE, "cuda"),
            "sparse step, torch": (SPARSE, "cuda"),
            "sparse step, triton": (SPARSE, "triton"),
        }
        if not torch.cuda.is_available():
            why = "there is no CUDA device; run this where torch.cuda.is_available()"
            yield Setup((), (), "row", absent=dict.fromkeys(names, why))
            return
        device = options.device if options.device.startswith("cuda") else "cuda"
        yield _on_cuda(names, device)


def _on_cuda(names: dict[str, tuple[float, str]], device: str) -> Setup:
    variant = train_step.VARIANTS[0]
    parts = train_step.rows(4 * train_step.BATCH, seed=1).split(train_step.BATCH)
    batches = [part.contiguous() for part in parts]
    there = [batch.to(device) for batch in batches]
    contenders, start = [], {}
    for name, (share, backend) in names.items():
        trainer, dictionary = train_step.ours(variant, batches, device)
        start = {key: each.clone() for key, each in dictionary.tensors().items()}
        take = partial(_steps, trainer, itertools.cycle(there), share, backend, device)
        contenders.append(Contender(name, take, f"saestore {saestore.__version__}"))
    cycle = itertools.cycle(there)
    products = "matrix products"
    contenders.append(
        Contender(
            products,
            lambda: train_step.repeated(lambda: train_step.products(start, next(cycle)), device),
            f"torch {torch.__version__}",
        )
    )
    return Setup(
        contenders=tuple(contenders),
        goals=(
            Goal("sparse step, triton", "sparse step, torch", "rate", ">=", 1.0),
            Goal("sparse step, triton", "dense step", "rate", ">=", 1.0),
        ),
        unit="row",
        sizes={
            "shapes": f"d_in {train_step.D_IN}, d_sae {variant.d_sae}, batch {train_step.BATCH}, float32",
            "device": torch.cuda.get_device_name(device),
        },
        limit=Limit(products, "the encoder's product alone"),
    )


def _steps(trainer, batches, share: float, backend: str, device: str) -> tuple[float, float]:
    """Return rows and seconds of some steps by one way."""
    with path(share), backends.using(backend):
        return train_step.repeated(
            lambda: trainer.advance({train_step.HOOK: next(batches)}, log=False), device
        )


BENCHES = {each.name: each for each in (TrainPaths(), TrainStepCuda())}
