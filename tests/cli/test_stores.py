"""`saestore merge` and `saestore shuffle`, right and wrong; parts made one by one and by torchrun."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from saestore.activations import ActivationStore
from saestore.lake import Lake, Ref
from saestore.testing.stores import HOOKPOINT, payload_bytes, synthetic_store
from saestore_cli.main import main


REF = Ref("activations", "a")


@pytest.fixture(scope="module")
def config(tmp_path_factory, tiny_gpt2, tiny_jsonl):
    """A settings file: several shards, several blocks."""
    path = tmp_path_factory.mktemp("config") / "run.toml"
    path.write_text(f"""
name = "a"
hookpoints = ["blocks.1.hook_resid_post"]
tokens = 700
lm = {{ model = "{tiny_gpt2}" }}
store = {{ chunk_kib = 1, shard_mib = 0.006 }}
[corpus]
context_size = 24
block_documents = 5
sources = [{{ kind = "jsonl", path = "{tiny_jsonl}" }}]
""")
    return path


def made(folder, *commands):
    for words in commands:
        assert main([*map(str, words), "--lake", str(folder), "--no-progress"]) == 0
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory, config):
    """A lake in which one process made the store."""
    folder = tmp_path_factory.mktemp("whole") / "lake"
    return made(folder, ["generate", config, "--device", "cpu"])


@pytest.fixture(scope="module")
def halves(tmp_path_factory, config):
    """A lake in which both halves are made; tests take copies."""
    shard = ["generate", config, "--device", "cpu", "--shard"]
    folder = tmp_path_factory.mktemp("halves") / "lake"
    return made(folder, [*shard, "0/2"], [*shard, "1/2"])


def readable(text):
    assert "\x1b" not in text
    assert max(map(len, text.splitlines()), default=0) <= 80


def same(one, other):
    left, right = (payload_bytes(Lake.at(folder), REF) for folder in (one, other))
    assert left == right
    assert len(left) > 20


def copied(folder, target):
    subprocess.run(["cp", "-r", folder, target], check=True)
    return target


def test_merge_makes_the_store_of_one_process(run, halves, whole, tmp_path):
    lake = copied(halves, tmp_path / "lake")
    assert "2 parts" in run("ls", "--lake", lake).out
    done = run("merge", "a", "--lake", lake)
    assert done.code == 0, done.err
    assert done.out.splitlines()[0].startswith("activations/a: 700 rows, ")
    assert "saestore show activations/a" in done.out
    assert "activations a: 700 rows in" in done.err
    readable(done.out)
    same(lake, whole)
    again = run("merge", "a", "--lake", lake)
    assert (again.code, "finished already" in again.err) == (0, True)
    assert run("verify", "a", "--lake", lake).code == 0
    shown = run("show", "a", "--lake", lake)
    assert " tokens/s by 2 processes" in shown.out
    readable(shown.out)


def test_merge_answers_in_json(run, halves, tmp_path):
    lake = copied(halves, tmp_path / "lake")
    done = run("merge", "a", "--lake", lake, "--output", "json")
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert answer["path"] == "activations/a"
    assert answer["manifest"]["counts"]["rows"] == 700
    assert answer["manifest"]["facts"]["parts"] == 2


def test_merge_says_what_is_missing(run, config, tmp_path):
    lake = made(tmp_path / "lake", ["generate", config, "--device", "cpu", "--shard", "1/2"])
    synthetic_store(Lake.at(lake), "synthetic", rows=9)
    for name, message, hint in (
        (
            "a",
            "0/2 not begun, 1/2 finished",
            "generate CONFIG.toml --shard 0/2, then saestore merge",
        ),
        ("b", "no activations named 'b'", ""),
        ("synthetik", "no activations named 'synthetik'", "synthetic"),
        ("a/b", "a/b", ""),
    ):
        done = run("merge", name, "--lake", lake)
        assert done.code in {1, 2}, done.out
        assert message in done.err
        assert hint in done.err
        assert "Traceback" not in done.err
        as_json = run("merge", name, "--lake", lake, "--output", "json")
        assert (as_json.code, "error" in json.loads(as_json.out)) == (done.code, True)
    whole = run("merge", "synthetic", "--lake", lake)
    assert (whole.code, "finished already" in whole.err) == (0, True)
    assert run("merge", "--lake", lake).code == 2


def test_shuffle_makes_a_copy_that_says_so(run, tmp_path):
    lake = tmp_path / "lake"
    store = synthetic_store(Lake.at(lake), rows=3000, width=8)
    done = run("shuffle", "synthetic", "copy", "--lake", lake, "--seed", "3")
    assert done.code == 0, done.err
    assert done.out.splitlines()[0].startswith("activations/copy: 3,000 rows, ")
    assert "3,000 rows, scattered in each shard" in done.err
    readable(done.out)
    copy = ActivationStore.open(Lake.at(lake), "copy")
    order = copy.order()
    assert sorted(order) == list(range(3000))
    assert not np.array_equal(order, np.sort(order))
    rows = store.read(HOOKPOINT, 0, 3000)
    np.testing.assert_array_equal(copy.read(HOOKPOINT, 0, 3000), rows[order])
    shown = run("show", "copy", "--lake", lake)
    assert "activations synthetic" in shown.out, shown.err
    assert "scattered: permuted within each shard" in shown.out
    assert "generated" not in shown.out
    readable(shown.out)
    assert run("verify", "copy", "--lake", lake).code == 0
    again = run("shuffle", "synthetic", "copy", "--lake", lake, "--seed", "3", "--output", "json")
    assert json.loads(again.out)["manifest"]["settings"]["seed"] == 3
    assert "finished already" in again.err


def test_shuffle_says_what_is_wrong(run, tmp_path):
    lake = tmp_path / "lake"
    synthetic_store(Lake.at(lake), rows=200, width=8)
    assert run("shuffle", "synthetic", "copy", "--lake", lake).code == 0
    for words, message, hint in (
        ("copy other", "is a scattered copy itself", "shuffle what it was made from: synthetic"),
        ("synthetic copy --seed 4", "exists with other settings", "choose another name"),
        ("synthetic synthetic", "another name than that of the store", "synthetic-scattered"),
        ("copy synthetic", "is a scattered copy itself", ""),
        ("synthetik other", "no activations named 'synthetik'", "synthetic"),
        ("synthetic other --seed -1", "--seed", ""),
        ("synthetic a/b", "a/b", ""),
        ("synthetic", "NAME", ""),
    ):
        done = run("shuffle", *words.split(), "--lake", lake)
        assert done.code in {1, 2}, (words, done.out)
        assert message in done.err, words
        assert hint in done.err, words
        assert "Traceback" not in done.err
    assert [p.name for p in sorted((lake / "activations").iterdir())] == ["copy", "synthetic"]


@pytest.mark.slow
def test_torchrun_makes_the_parts(run, config, whole, tmp_path):
    lake = tmp_path / "lake"
    program = os.path.join(os.path.dirname(sys.executable), "saestore")  # noqa: PTH118, PTH120
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python"]
    words = [program, "generate", config, "--device", "cpu", "--lake", lake]
    done = subprocess.run([*launch, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "saestore merge a" in done.stdout + done.stderr
    merged = run("merge", "a", "--lake", lake)
    assert merged.code == 0, merged.err
    same(lake, whole)


def test_long_names_are_folded_and_numbers_are_whole(run, tmp_path):
    lake, folder = tmp_path / "lake", tmp_path / ("a-long-name-" * 12)
    hookpoint = "blocks.10.attn.hook_" + "long" * 12
    folder.mkdir()
    np.save(folder / f"{hookpoint}.npy", np.full((1234, 1100), 1234.5, np.float32))
    done = run("import", "activations", "npy", folder, "x", "--lake", lake)
    assert done.code == 0, done.err
    shown = run("show", "x", "--lake", lake).out
    for number in ("1,100", "1,234", "100.0%", "4.094e+04"):
        assert number in shown
    assert "…" not in shown
    # The line of norms names its hookpoint whole.
    assert all(len(line) <= 80 for line in shown.splitlines() if hookpoint not in line)
