"""Training from a store on disk against training on batches that lie in memory already.

Both take the same steps of the same kind of trainer; what differs is where a batch comes from. The
store is several times the window, so that the stream reads all the time, as it does in a long run;
its files are in the page cache as far as memory reaches. Peak memory is that of a process of its own
which runs the whole verb, less what it held before: everything imported, and the loops compiled by a run
on a few rows. Wanted are weights, gradients and moments (four floats a weight), one batch's
pre-activations and codes, the stream's window and two batches.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

import saestore
from benchmarks import stream
from benchmarks.activations import HOOK, Activations
from benchmarks.harness import Amount, Contender, Goal, Options, Setup, timed
from saestore.activations import ActivationStore, ActivationStream
from saestore.dictionaries import build
from saestore.lake import Lake
from saestore.train.run import schedule_of
from saestore.train.trainer import Trainer
from saestore_schemas.train import TrainSettings


D_SAE, K, BATCH = 8192, 32, 2048
STEPS = 8
"""Steps a repetition."""
MB = 1e6


@dataclass(frozen=True)
class Size:
    """How large everything is.

    Attributes:
        contexts: Contexts of 1024 rows in the store.
        width: Width of a row.
        d_sae: Features.
        window: Rows of the stream's window.
        steps: Steps of the run whose memory is measured.
    """

    contexts: int = 512
    width: int = 512
    d_sae: int = D_SAE
    window: int = 1 << 17
    steps: int = 100


QUICK = Size(contexts=64, width=256, d_sae=1024, window=1 << 14, steps=12)


def settings(size: Size, rows: int) -> TrainSettings:
    """Return the settings of the run."""
    return TrainSettings.model_validate(
        {
            "series": "bench",
            "name": "train_store",
            "activations": {
                "name": stream.STORE,
                "batch_rows": BATCH,
                "shuffle": {"window_rows": size.window},
            },
            "dictionary": {
                "family": "sae",
                "hookpoint": HOOK,
                "d_sae": size.d_sae,
                "activation": {"kind": "topk", "k": K},
            },
            "budget": {"rows": rows},
            "checkpoints": {"count": 0},
        }
    )


def opened(lake: Lake, size: Size) -> tuple[Trainer, ActivationStream]:
    """Return a trainer at step 0, and the stream that a run would give it."""
    store = ActivationStore.open(lake, stream.STORE)
    chosen = settings(size, rows=10_000 * BATCH)
    moments = store.moments(HOOK)
    dictionary = build(
        chosen.dictionary,
        widths={HOOK: size.width},
        moments={HOOK: moments},
        init=chosen.init,
        seed=0,
    )
    batches = ActivationStream(
        store,
        [HOOK],
        batch_rows=BATCH,
        seed=0,
        split="train",
        held_out=chosen.activations.held_out,
        window_rows=size.window,
    )
    schedule = schedule_of(chosen, batches.rows_per_epoch)
    return Trainer(dictionary, chosen, schedule, variance=float(size.width)), batches


def bound(size: Size) -> float:
    """Return how much memory a run may take above its imports, in MB."""
    weights = (2 * size.width + 1) * size.d_sae + size.width
    codes = BATCH * size.d_sae * 4 + BATCH * K * (8 + 4)
    window = (size.window + 2 * BATCH) * size.width * 2 + 2 * BATCH * size.width * 4
    return (16 * weights + codes + window) / MB


class TrainStore:
    """The benchmark."""

    name = "train_store"
    doc = f"training from disk against batches in memory, 512 -> {D_SAE}, k {K}, {BATCH} rows"

    @contextmanager
    def setup(self, options: Options) -> Iterator[Setup]:
        """Write the store; it is gone afterwards."""
        if options.threads:
            torch.set_num_threads(options.threads)
        size = QUICK if options.quick else Size()
        with tempfile.TemporaryDirectory(prefix="saestore-bench-") as place:
            lake = Lake.at(Path(place) / "lake")
            stream.write_store(Activations(size.contexts, size.width), lake)
            yield prepare(lake, size)


def prepare(lake: Lake, size: Size) -> Setup:
    """Return the contenders."""
    trainer, batches = opened(lake, size)
    other, _ = opened(lake, size)
    kept = [{HOOK: next(batches)[HOOK].clone()} for _ in range(4)]
    memory = itertools.cycle(kept)
    rows = size.contexts * 1024
    release = f"saestore {saestore.__version__}, torch {torch.__version__}"
    return Setup(
        contenders=(
            Contender("from a store", partial(steps, trainer, batches), release),
            Contender("from memory", partial(steps, other, memory), release),
        ),
        goals=(Goal("from a store", "from memory", "rate", ">=", 0.9),),
        unit="row",
        sizes={
            "shapes": f"d_in {size.width}, d_sae {size.d_sae}, k {K}, batch {BATCH}, float32",
            "store": f"{rows:,} rows of float16, {rows * size.width * 2 / MB:,.0f} MB",
            "window": f"{size.window:,} rows",
            "device": f"cpu, {torch.get_num_threads()} threads",
        },
        amounts=(
            Amount(
                "peak memory of a run above its imports", "MB",
                partial(memory_of, lake, size), "<=", bound(size),
            ),
        ),
        rounds=7,
    )  # fmt: skip


def steps(trainer: Trainer, batches: Iterator[dict[str, torch.Tensor]]) -> tuple[float, float]:
    """Return rows and seconds of some steps."""

    def work() -> None:
        for _ in range(STEPS):
            trainer.advance(next(batches), log=False)

    return STEPS * BATCH, timed(work)


_RUN = """
import json, sys, torch
from pathlib import Path
from saestore import train
from saestore.lake import Lake
from saestore.testing.stores import scratch_lake, synthetic_store
from saestore_schemas.train import TrainSettings

def size(field):
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024

torch.set_num_threads(int(sys.argv[3]))
wanted = TrainSettings.model_validate_json(sys.argv[2])
with scratch_lake() as few:
    synthetic_store(few, rows=4096, width=8)
    small = wanted.model_dump()
    small["activations"] |= {"name": "synthetic", "batch_rows": 256}
    small["dictionary"] |= {"hookpoint": "blocks.1.hook_resid_post", "d_sae": 256, "activation": {"kind": "topk", "k": 4}}
    small["loss"] = {"aux": {"dead_after_rows": 1}}
    small["budget"]["rows"] = 4096
    train.run(TrainSettings.model_validate(small), few, device="cpu")
before = size("VmRSS")
train.run(wanted, Lake.at(sys.argv[1]), device="cpu")
print(json.dumps({"before": before, "peak": size("VmHWM")}))
"""


def memory_of(lake: Lake, size: Size) -> float:
    """Return the peak memory of a whole run in a process of its own, above its imports, in MB."""
    wanted = settings(size, rows=size.steps * BATCH).model_dump_json()
    done = subprocess.run(
        [sys.executable, "-c", _RUN, lake.storage.url, wanted, str(torch.get_num_threads())],
        capture_output=True, text=True, check=True, env=dict(os.environ),
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    return (found["peak"] - found["before"]) / MB


BENCH = TrainStore()
