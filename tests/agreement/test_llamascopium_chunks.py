"""The real llamascopium, in its own environment: it reads our chunks, and still writes as it did."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.peers import HOME, LLAMASCOPIUM, python_of
from saestore.exchange import Wanted, export_activations
from saestore.exchange.llamascopium_chunks import NAME, Chunk
from saestore.testing.stores import scratch_lake, synthetic_rows, synthetic_store


HERE = Path(__file__).parent / "llamascopium_chunks"
HOOKS = ("blocks.1.hook_resid_post", "blocks.1.hook_mlp_out")

READ = """
import json, sys, torch
from llamascopium.activation.processors.cached_activation import CachedActivationLoader
folder, hooks = sys.argv[1], json.loads(sys.argv[2])
loader = CachedActivationLoader({hook: f"{folder}/{hook}" for hook in hooks})
chunks = list(loader.process())
torch.save([{k: v for k, v in chunk.items()} for chunk in chunks], sys.argv[3])
"""


@pytest.fixture(scope="module")
def python():
    """The interpreter of its environment, as it is; made only where tests may not skip."""
    folder = HOME / LLAMASCOPIUM.name
    if (folder / "ready").exists():
        return folder / "bin" / "python"
    if "TESTS_REQUIRE_PARTS" in os.environ:
        return python_of(LLAMASCOPIUM)
    return pytest.skip("llamascopium's environment is not made: `make bench` makes it")


def run(*words):
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_its_loader_reads_our_chunks(python, tmp_path, dtype):
    lengths = np.array([5, 3, 8, 1, 6, 8, 2])
    with scratch_lake() as lake:
        values = {h: synthetic_rows(33, 6, seed=n) for n, h in enumerate(HOOKS)}
        store = synthetic_store(lake, values=values, lengths=lengths, dtype=dtype)
        wanted = Wanted(files_are="llamascopium", file_mib=500 / 2**20)
        export_activations(store, tmp_path / "out", wanted)
        run(python, "-c", READ, tmp_path / "out", json.dumps(HOOKS), tmp_path / "read.pt")
        chunks = torch.load(tmp_path / "read.pt", weights_only=True)  # noqa: TID251 - weights only
        assert len(chunks) > 1
        rows = {hook: [] for hook in HOOKS}
        context = 0
        for chunk in chunks:
            for number, meta in enumerate(chunk["meta"]):
                length = int(lengths[context])
                first = int(lengths[:context].sum())
                assert meta["context_idx"] == context
                here = slice(0, length)
                assert chunk["tokens"][number, here].tolist() == (
                    store.tokens(first, first + length).tolist()
                )
                assert chunk["mask"][number, here].tolist() == (
                    (store.flags(first, first + length) == 0).astype(int).tolist()
                )
                assert chunk["mask"][number, length:].sum() == 0
                for hook in HOOKS:
                    rows[hook].append(chunk[hook][number, here].float().numpy())
                context += 1
        for hook in HOOKS:
            np.testing.assert_array_equal(np.concatenate(rows[hook]), store.read(hook, 0, 33))


@pytest.mark.slow
def test_it_still_writes_the_chunks_that_the_tests_read(python, tmp_path):
    run(python, HERE / "make.py", tmp_path)
    written = sorted(p.relative_to(HERE) for p in HERE.rglob("*") if NAME.fullmatch(p.name))
    assert written == sorted(
        p.relative_to(tmp_path) for p in tmp_path.rglob("*") if NAME.fullmatch(p.name)
    )
    for path in written:
        one, other = (Chunk(0, 0, folder / path).open() for folder in (HERE, tmp_path))
        assert one.keys() == other.keys()
        for name, tensor in one.items():
            if name == "meta":
                assert tensor == other[name]
                continue
            assert (tensor.shape, tensor.dtype) == (other[name].shape, other[name].dtype)
            end = tensor.shape[0]
            np.testing.assert_array_equal(tensor.read(0, end), other[name].read(0, end))
