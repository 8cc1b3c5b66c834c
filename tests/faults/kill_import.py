"""Kill an import of activations at random moments; it must end with the bytes of one quiet run.

    python tests/faults/kill_import.py --kills 100

Each attempt is a process forked from this one and ended by SIGKILL after a random time, uniform over
what a whole import takes; then it is started again, until it ends by itself. Llamascopium chunks with
padding are imported in pieces of one context, so that shards, contexts and files end at different
places.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from saestore.exchange import Wanted, export_activations, import_activations, source
from saestore.lake import Lake, Ref, layout
from saestore.testing.killing import killed
from saestore.testing.stores import scratch_lake, synthetic_rows, synthetic_store
from saestore_schemas.exchange import ImportSettings


REF = Ref("activations", "killed")
HOOKS = ("blocks.1.hook_resid_post", "blocks.1.hook_mlp_out")


def chunks(folder: Path) -> ImportSettings:
    """Write chunks of ragged contexts; return how they are imported."""
    rng = np.random.default_rng(5)
    lengths = rng.integers(1, 20, 60)
    rows = int(lengths.sum())
    with scratch_lake() as lake:
        values = {h: synthetic_rows(rows, 6 + n, seed=n) for n, h in enumerate(HOOKS)}
        store = synthetic_store(lake, values=values, lengths=lengths, dtype="float16")
        export_activations(store, folder, Wanted(files_are="llamascopium", file_mib=2000 / 2**20))
    return ImportSettings.model_validate(
        {
            "name": REF.name,
            "source": {"kind": "llamascopium", "path": str(folder)},
            "store": {"chunk_kib": 1, "shard_mib": 64 * 14 / 2**20},
        }
    )


def begun(lake: Lake) -> bool:
    """Return whether a shard is there, and the store is not."""
    artefact = lake.artefact(REF)
    return artefact.exists(layout.commit_file(0)) and not artefact.exists(layout.MANIFEST)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    source.PIECE_BYTES = 1  # a context at a time
    with tempfile.TemporaryDirectory() as folder:
        settings = chunks(Path(folder) / "chunks")
        found = killed(
            lambda lake: import_activations(settings, lake), REF,
            fill=lambda _: None, begun=begun, kills=wanted.kills, seed=wanted.seed,
        )  # fmt: skip
    print(json.dumps(vars(found)))  # noqa: T201 - what a script is run for
    return 1 if found.differing else 0


if __name__ == "__main__":
    sys.exit(main())
