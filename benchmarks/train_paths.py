"""Ways through a training step: dense products, or sums over the pairs of row and feature that fire.

`train_paths` finds the share of entries above which dense products are faster, on this machine; from its
table come the `dense_share` of each backend (saestore/dictionaries/backends). A pass is forward and
backward of a ReLU autoencoder whose bias lets the share fire, selection and encoder product included.

`train_step_cuda` and `train_step_cuda_bfloat16` compare whole TopK steps on a CUDA device: with our kernels,
with torch's sparse operations, dense, and sae-lens'. They need such a device, and say so where there is none.
"""

import itertools
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch

import saestore
from benchmarks import train_step
from benchmarks.harness import Contender, Goal, Note, Options, Setup, timed
from saestore import dictionaries
from saestore.activations import Moments
from saestore.dictionaries import backends
from saestore_schemas.dictionary import Relu, TopK
from saestore_schemas.families import SaeSettings
from saestore_schemas.train import InitSettings


SIZES = ((512, 8192, 1024), (768, 6144, 1024), (2048, 8192, 256))
SIZES_ON_CUDA = ((768, 24576, 4096), (2304, 16384, 4096))
"""d_in, d_sae and rows."""
SHARES = (1 / 32, 1 / 16, 1 / 8, 3 / 16, 1 / 4)
SHARES_ON_CUDA = (1 / 1024, 1 / 512, 1 / 256, 1 / 128, 1 / 64, 1 / 32, 1 / 16, 1 / 8)
"""Of all entries, that fire."""
ROUNDS = 5
"""Of both, taking turns."""

DENSE, SPARSE = 0.0, 1.0
"""Shares that leave no choice."""

K = 64
"""Of the steps on CUDA."""
WAYS = {"dense step": (DENSE, "cuda"), "sparse step, torch": (SPARSE, "cuda")}
"""Share and backend of the ways through a step on CUDA that are not its usual one."""


@contextmanager
def path(share: float) -> Iterator[None]:
    """Take the dense or the sparse path meanwhile."""
    before = backends.wanted_share
    backends.wanted_share = share
    try:
        yield
    finally:
        backends.wanted_share = before


@dataclass(frozen=True)
class Place:
    """Where a pass is taken, and in which type.

    Attributes:
        device: Torch device.
        autocast: Narrow type of products; None, float32.
    """

    device: str
    autocast: str | None = None

    @contextmanager
    def products(self) -> Iterator[None]:
        """Have products computed in that type."""
        kind = None if self.autocast is None else getattr(torch, self.autocast)
        with torch.autocast(torch.device(self.device).type, dtype=kind, enabled=kind is not None):
            yield

    def finish(self) -> None:
        """Wait for what is queued."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)


def passing(d_in: int, d_sae: int, rows: int, share: float, place: Place):
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
    sae, batch = sae.to(place.device), batch.to(place.device)

    def one() -> None:
        sae.zero_grad(set_to_none=True)
        with place.products():
            found = sae({train_step.HOOK: batch}).reconstruction[train_step.HOOK]
        (found - batch).square().sum().backward()
        place.finish()

    return one


def compared(d_in: int, d_sae: int, rows: int, share: float, place: Place) -> str:
    """Return how long a sparse pass takes beside a dense one, in words."""
    one = passing(d_in, d_sae, rows, share, place)
    seconds: dict[float, list[float]] = {DENSE: [], SPARSE: []}
    for number in range(-1, ROUNDS):
        for kind in (DENSE, SPARSE) if number % 2 else (SPARSE, DENSE):
            with path(kind):
                took = timed(one)
            if number >= 0:
                seconds[kind].append(took)
    ratio = statistics.median(s / d for s, d in zip(seconds[SPARSE], seconds[DENSE], strict=True))
    dense = statistics.median(seconds[DENSE])
    return f"a sparse pass takes {ratio:.2f} of a dense one ({1000 * dense:.3g} ms)"


def _rule(place: Place) -> float:
    kind = getattr(torch, place.autocast or "float32")
    return backends.dense_share(torch.device(place.device), kind)


class TrainPaths:
    """Where sparse passes cease to be faster."""

    name = "train_paths"
    doc = "a sparse pass against a dense one, by the share of entries that fire"

    @contextmanager
    def setup(self, options: Options) -> Iterator[Setup]:
        """Make nothing: every line makes its own dictionary."""
        if options.threads:
            torch.set_num_threads(options.threads)
        there = options.device.startswith("cuda")
        sizes = SIZES_ON_CUDA if there else SIZES
        places = [Place(options.device)]
        if there:
            places.append(Place(options.device, "bfloat16"))
        yield Setup(
            contenders=(),
            goals=(),
            unit="pass",
            sizes={
                "threads": torch.get_num_threads(),
                **{f"rule on {place}": f"dense above {_rule(place):g}" for place in places},
            },
            notes=tuple(
                Note(
                    f"{place.autocast or 'float32'} {d_in} -> {d_sae}, {rows} rows, {share:.4g} fire",
                    partial(compared, d_in, d_sae, rows, share, place),
                )
                for place, (d_in, d_sae, rows), share in itertools.product(
                    places,
                    sizes[:1] if options.quick else sizes,
                    SHARES_ON_CUDA if there else SHARES,
                )
            ),
        )


class TrainStepCuda:
    """A TopK step on CUDA, by each way through it, at sizes that fill a large device."""

    def __init__(self, name: str, autocast: str | None) -> None:
        peer = {"k": K, "aux_loss_coefficient": 1 / 32}
        self.name = name
        self.variant = train_step.Variant(
            name, TopK(k=K), 1.0, "TopK", peer,
            d_in=2304, d_sae=65536, batch=4096, autocast=autocast,
        )  # fmt: skip
        self.doc = (
            f"a TopK step on a CUDA device in {autocast or 'float32'}, by each way through it"
        )

    @contextmanager
    def setup(self, options: Options) -> Iterator[Setup]:
        """Make a trainer for each way."""
        if not torch.cuda.is_available():
            why = "there is no CUDA device; run this where torch.cuda.is_available()"
            yield Setup((), (), "row", absent=dict.fromkeys(WAYS, why))
            return
        variant = replace(self.variant, d_in=512, d_sae=8192) if options.quick else self.variant
        device = options.device if options.device.startswith("cuda") else "cuda"
        yield _on_cuda(variant, device)


def _on_cuda(variant: train_step.Variant, device: str) -> Setup:
    setup = train_step.prepare(variant, device)
    batches = [batch.to(device) for batch in train_step.batches_of(variant)]
    ways = []
    for name, (share, backend) in WAYS.items():
        trainer, _ = train_step.ours(variant, [batch.cpu() for batch in batches], device)
        take = partial(_steps, trainer, itertools.cycle(batches), share, backend, variant, device)
        ways.append(Contender(name, take, f"saestore {saestore.__version__}"))
    return replace(
        setup,
        contenders=(*setup.contenders, *ways),
        goals=(*setup.goals, *(Goal("saestore step", name, "rate", ">=", 1.0) for name in WAYS)),
        sizes={**setup.sizes, "device": torch.cuda.get_device_name(device)},
    )


def _steps(trainer, batches, share: float, backend: str, variant, device: str):
    """Return rows and seconds of some steps by one way."""
    with path(share), backends.using(backend):
        return train_step.repeated(
            lambda: trainer.advance({train_step.HOOK: next(batches)}, log=False), variant, device
        )


BENCHES = {
    each.name: each
    for each in (
        TrainPaths(),
        TrainStepCuda("train_step_cuda", None),
        TrainStepCuda("train_step_cuda_bfloat16", "bfloat16"),
    )
}
