"""Kill training runs at random moments; they must end with the bytes of runs that nobody disturbed.

    python tests/faults/kill_train.py --kills 100

Each attempt is a process forked from this one and ended by SIGKILL after a random time, uniform over
what a whole run takes; then it is started again, until it ends by itself. Checkpoints are many, so
that some attempts die while one is written, moved or removed, and some while the artefact is finished.

    topk     TopK, AuxK with dead features, a density window, a linear schedule, all checkpoints kept
    relu     ReLU and L1 with its warm-up, batches in parts, lean moments
    batchtopk  BatchTopK with its running threshold
    jumprelu   thresholds with a rate of their own
    p_anneal   a penalty that remembers earlier steps, nested prefixes
    mix      rows of two stores by weight
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from saestore import train
from saestore.lake import Lake, Ref, layout
from saestore.testing.killing import ended
from saestore.testing.stores import HOOKPOINT, payload_bytes, synthetic_store
from saestore_schemas.train import TrainSettings


REF = Ref("dictionary", "s/killed")

BASE = {
    "series": "s",
    "name": "killed",
    "activations": {"name": "synthetic", "batch_rows": 64, "held_out": 0.1},
    "budget": {"epochs": 4.0},
    "optimizer": {"lr": 0.003},
    "checkpoints": {"count": 12},
    "log": {"every": 5},
}


def sae(activation: dict[str, object], **changes: object) -> dict[str, object]:
    """Return the section of a small autoencoder."""
    return {
        "family": "sae", "hookpoint": HOOKPOINT, "d_sae": 23, "activation": activation, **changes,
    }  # fmt: skip


JOBS: dict[str, dict[str, object]] = {
    "topk": {
        "dictionary": sae({"kind": "topk", "k": 2}),
        "loss": {"aux": {"dead_after_rows": 128}},
        "schedule": {"kind": "linear", "end_ratio": 0.1},
        "checkpoints": {"count": 12, "keep": "all", "spacing": "log"},
        "log": {"every": 5, "density_window": 300},
    },
    "relu": {
        "dictionary": sae({"kind": "relu"}, decoder_norm="free", scale="dataset_rms"),
        "loss": {"sparsity": {"kind": "l1", "coefficient": 0.3}},
        "optimizer": {"lr": 0.003, "accumulate": 3, "states": "lean"},
        "checkpoints": {"count": 12, "keep": 2},
    },
    "batchtopk": {"dictionary": sae({"kind": "batchtopk", "k": 2.5})},
    "jumprelu": {
        "dictionary": sae({"kind": "jumprelu"}),
        "optimizer": {"lr": 0.003, "threshold_lr_factor": 0.5},
    },
    "p_anneal": {
        "dictionary": sae({"kind": "relu"}),
        "loss": {
            "sparsity": {"kind": "p_anneal", "coefficient": 0.3, "start": 4, "updates": 5},
            "matryoshka": {"sampled": 3},
        },
    },
    "mix": {
        "dictionary": sae({"kind": "topk", "k": 2}),
        "activations": {
            "sources": [{"name": "synthetic", "weight": 3.0}, {"name": "other"}],
            "batch_rows": 64,
        },
        "early_stop": {"patience": 6, "min_change": 5.0},
    },
}


def filled(folder: Path) -> Lake:
    """Return a lake with two stores."""
    lake = Lake.at(folder)
    synthetic_store(lake, rows=600, width=7)
    synthetic_store(lake, "other", rows=330, width=7, seed=1)
    return lake


def attempt(settings: TrainSettings, lake: Lake, seconds: float | None) -> bool:
    """Train in a process of its own; return whether it ended by itself."""
    return ended(lambda: train.run(settings, lake), seconds)


def compared(lake: Lake) -> dict[str, bytes]:
    """Return the bytes that no interruption may change: all but rates, clocks and environments."""
    found = payload_bytes(lake, REF)
    return {
        path: data
        for path, data in found.items()
        if not path.endswith((layout.TIMINGS, layout.FILES, layout.MANIFEST))
        and not path.endswith(layout.CHECKPOINT_STATE)  # holds its timings' checksum
    }


def job(name: str, kills: int, rng: np.random.Generator) -> dict[str, object]:
    """Kill one kind of run so many times; return what came of it."""
    settings = TrainSettings.model_validate({**BASE, **JOBS[name]})
    rounds, done, resumed, differing = 0, 0, 0, []
    with tempfile.TemporaryDirectory() as folder:
        quiet_lake = filled(Path(folder) / "quiet")
        train.run(settings, quiet_lake)  # here, so that no attempt compiles what it calls
        quiet = compared(quiet_lake)
        began = time.monotonic()
        attempt(settings, filled(Path(folder) / "timed"), None)
        takes = time.monotonic() - began
        while done < kills:
            lake = filled(Path(folder) / f"round-{rounds}")
            while done < kills and not attempt(settings, lake, rng.uniform(0, takes)):
                done += 1
                artefact = lake.artefact(REF)
                resumed += bool(artefact.names(layout.CHECKPOINTS))
            attempt(settings, lake, None)
            rounds += 1
            found = compared(lake)
            differing += sorted(
                path for path in {*found, *quiet} if found.get(path) != quiet.get(path)
            )
    return {
        "job": name, "kills": done, "rounds": rounds, "with_checkpoints": resumed,
        "differing": differing,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="of all jobs together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", nargs="*", choices=tuple(JOBS), default=list(JOBS))
    wanted = parser.parse_args()
    torch.set_num_threads(1)  # forked processes would wait for threads that they do not have
    rng = np.random.default_rng(wanted.seed)
    failed = False
    for name in wanted.jobs:
        result = job(name, -(-wanted.kills // len(wanted.jobs)), rng)
        print(json.dumps(result), flush=True)  # noqa: T201 - what a script is run for
        failed = failed or bool(result["differing"])
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
