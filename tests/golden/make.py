"""Write the golden stores of this format version: small, committed, and never written again.

    python -m tests.golden.make

A store that some release wrote must be read by every later one, or refused by its version. So there is
one folder per format version, with a store for each way of storing, zipped, and the numbers it holds.
The script adds the stores of a new version and refuses to touch those that are there.
"""

import json
import sys
import tempfile
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np

from saestore.activations import ActivationStore
from saestore.lake import Lake
from saestore.testing.stores import HOOKPOINT, synthetic_rows, synthetic_store
from saestore_schemas.activations import StoreSettings
from saestore_schemas.manifest import FORMAT_VERSION


GOLDEN = Path(__file__).parent
KINDS = {
    "float32": ("float32", "none"),
    "float16": ("float16", "none"),
    "bfloat16": ("bfloat16", "none"),
    "int8": ("int8", "none"),
    "bfloat16-zstd": ("bfloat16", "zstd"),
    "int8-zstd": ("int8", "zstd"),
}
"""Name of each store: how it stores."""
WIDTH, SHARD = 6, 32
LENGTHS = (9, 1, 40)
"""Ragged contexts: one of a single row, one longer than a shard."""


def make(lake: Lake, name: str) -> ActivationStore:
    """Write one of the stores."""
    dtype, codec = KINDS[name]
    size = {"float32": 4, "int8": 1}.get(dtype, 2)
    rows = synthetic_rows(sum(LENGTHS), WIDTH, seed=5)
    rows[3] = 0  # a row without range
    return synthetic_store(
        lake,
        name,
        values={HOOKPOINT: rows},
        dtype=dtype,
        lengths=np.array(LENGTHS, np.int64),
        store=StoreSettings(chunk_kib=1, shard_mib=SHARD * WIDTH * size / 2**20, codec=codec),
    )


def numbers(store: ActivationStore) -> dict[str, object]:
    """Return what a store holds, as JSON says it."""
    moments = store.moments(HOOKPOINT)
    return {
        "rows": store.read(HOOKPOINT, 0, store.n_rows).astype(float).tolist(),
        "tokens": store.tokens().tolist(),
        "flags": store.flags().tolist(),
        "contexts": store.contexts().tolist(),
        "segments": store.segments().tolist(),
        "documents": store.documents().to_pylist(),
        "moments": [moments.count, moments.mean.tolist(), moments.m2.tolist()],
        "record": store.record.model_dump(mode="json"),
    }


def add(folder: Path) -> None:
    """Write every store and its numbers into a folder."""
    for name in KINDS:
        with tempfile.TemporaryDirectory() as scratch:
            store = make(Lake.at(scratch), name)
            (folder / f"{name}.json").write_text(json.dumps(numbers(store)) + "\n")
            with ZipFile(folder / f"{name}.zip", "w", ZIP_DEFLATED) as archive:
                for path in sorted(Path(scratch).rglob("*")):
                    if path.is_file():
                        archive.write(path, path.relative_to(scratch))


if __name__ == "__main__":
    target = GOLDEN / f"v{FORMAT_VERSION}"
    if target.exists():
        sys.exit(f"{target} is there already; golden stores are never written again")
    target.mkdir()
    add(target)
