"""`saestore import activations` and `saestore export activations`, right and wrong."""

import errno
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch

from saestore.lake import Lake
from saestore.testing.stores import synthetic_store


WRITTEN = Path(__file__).parents[1] / "agreement" / "llamascopium_chunks" / "contexts"
HOOK = "blocks.0.hook_resid_post"


@pytest.fixture
def chunks(tmp_path):
    folder = tmp_path / "chunks"
    shutil.copytree(WRITTEN, folder)
    for path in folder.rglob("*"):
        os.utime(path, (1e9, 1e9))
    return folder


@pytest.fixture
def lake(tmp_path):
    return tmp_path / "lake"


def test_import_show_export_and_import_again(run, chunks, lake, tmp_path):
    done = run("import", "activations", "llamascopium", chunks, "x", "--lake", lake)
    assert done.code == 0, done.err
    assert "activations/x: 36 rows" in done.out
    assert "largest difference 0" in done.err
    shown = run("show", "x", "--lake", lake)
    assert shown.code == 0, shown.err
    assert "<1><32><33><34>" in shown.out
    assert run("verify", "x", "--lake", lake).code == 0
    again = run("import", "activations", "llamascopium", chunks, "x", "--lake", lake, "--resume")
    assert (again.code, "finished already" in again.err) == (0, True)
    out = run("export", "activations", "x", tmp_path / "out", "--lake", lake)
    assert (out.code, "36 rows of x in 6 contexts" in out.out) == (0, True), out.err
    back = run("import", "activations", "safetensors", tmp_path / "out", "y", "--lake", lake)
    assert back.code == 0, back.err
    answer = run(
        "export", "activations", "x", tmp_path / "p", "--lake", lake, "--format", "parquet",
        "--hookpoint", HOOK, "--contexts", "2:4", "--output", "json",
    )  # fmt: skip
    assert json.loads(answer.out)["rows"] == 14


def test_options_and_a_settings_file_mean_the_same(run, lake, tmp_path):
    values = np.arange(12, dtype=np.float16)
    values.tofile(tmp_path / "a.bin")
    np.save(tmp_path / "t.npy", np.arange(6))
    words = [
        "import", "activations", "npy", tmp_path / "a.bin", "x", "--lake", lake,
        "--hookpoint", "layers.3", "--shape=-1,2", "--source-dtype", "float16",
        "--tokens", tmp_path / "t.npy", "--context-size", "4", "--dtype", "float32",
    ]  # fmt: skip
    done = run(*words)
    assert done.code == 0, done.err
    file = tmp_path / "import.toml"
    file.write_text(f"""
name = "x"
hookpoints = ["layers.3"]
context_size = 4
dtype = "float32"
source = {{ kind = "npy", path = "{tmp_path}/a.bin", shape = [-1, 2], dtype = "float16" }}
""")
    same = run(
        "import", "activations", file, "--lake", lake,
        "--set", f"source.tokens={tmp_path / 't.npy'}",
    )  # fmt: skip
    assert "finished already" in same.err, same.err
    assert run("config", "check", file).code == 0
    other = run(*words, "--set", "ignore_tokens=[1]")
    assert other.code == 1
    assert "exists with other settings" in other.err
    assert "ignore_tokens" in other.err


def test_int8_is_a_type_to_import_as_and_not_one_to_export_as(run, lake, tmp_path):
    np.save(tmp_path / f"{HOOK}.npy", np.random.default_rng(0).normal(size=(9, 4)))
    words = ("npy", tmp_path / f"{HOOK}.npy", "x", "--lake", lake, "--set", "dtype=int8")
    done = run("import", "activations", *words)
    assert done.code == 0, done.err
    assert re.search("stored +int8", run("show", "x", "--lake", lake).out)
    assert run("verify", "x", "--lake", lake).code == 0
    out = run("export", "activations", "x", tmp_path / "out", "--lake", lake)
    assert f"{HOOK} as float32; 1 safetensors file," in out.out, out.err
    wrong = run("import", "activations", *words[:-1], "dtype=int9")
    assert (wrong.code, "did you mean int8?" in wrong.err) == (2, True), wrong.err


def torn(folder):
    path = folder / HOOK / "chunk-00000003.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def fewer(folder):
    (folder / HOOK / "chunk-00000003.safetensors").unlink()


def other_tokens(folder):
    path = folder / HOOK / "chunk-00000001.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["tokens"] += 1
    safetensors.torch.save_file(tensors, path)
    os.utime(path, (1e9, 1e9))


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def nothing(folder):
    pass


WRONG = [
    (nothing, "llamascopium CHUNKZ x", 2, "there is no", "did you mean"),
    (nothing, "llamascopum CHUNKS x", 2, "llamascopum", "did you mean llamascopium?"),
    (nothing, "llamascopium CHUNKS", 2, "KIND PATH NAME", "for example"),
    (nothing, "llamascopium CHUNKS x/y", 2, "name: found 'x/y'", ""),
    (nothing, "llamascopium CHUNKS x --mask m", 2, "source.mask", ""),
    (nothing, "llamascopium CHUNKS x --context-size 4", 2, "contexts of its own", "leave it out"),
    (nothing, "llamascopium CHUNKS x --hookpoint blocks.0.hook_resid_pots", 2, "no hookpoint matches",
     "did you mean blocks.0.hook_resid_post"),
    (nothing, "llamascopium CHUNKS x --model nowhere/at/all", 2, "lm.model", ""),
    (nothing, "sae-lens CHUNKS x", 2, "has no state.json", "it holds blocks.0"),
    (nothing, "safetensors CHUNKS x", 2, "holds no safetensors files", "it holds blocks.0"),
    (nothing, "none.toml", 2, "there is no file none.toml", ""),
    (torn, "llamascopium CHUNKS x", 2, "is not whole", "source.chunks=3"),
    (fewer, "llamascopium CHUNKS x", 2, "different chunks", "source.chunks=3"),
    (other_tokens, "llamascopium CHUNKS x", 2, "its tokens are not those of", "one by one"),
    (empty, "llamascopium CHUNKS x", 2, "has no folder with chunk files", "it holds nothing"),
]  # fmt: skip


@pytest.mark.parametrize("case", WRONG, ids=lambda case: f"{case[0].__name__} {case[1]}")
def test_a_mistake_is_said_without_a_traceback(run, chunks, lake, case):
    change, words, code, message, hint = case
    change(chunks)
    given = words.replace("CHUNKS", str(chunks)).replace("CHUNKZ", f"{chunks}z").split()
    done = run("import", "activations", *given, "--lake", lake)
    assert done.code == code, done.err
    assert message in done.err
    assert hint in done.err
    assert "hint: " in done.err
    assert "Traceback" not in done.err
    assert not (lake / "activations" / "x" / "manifest.json").exists()


def test_a_full_disk_stops_an_import_and_the_same_command_finishes_it(
    run, chunks, lake, monkeypatch
):
    words = ["import", "activations", "llamascopium", chunks, "x", "--lake", lake]
    small = ["--set", f"store.shard_mib={8 * 24 / 2**20}", "--set", "store.chunk_kib=1"]
    synced, calls = os.fsync, []

    def full(descriptor):
        calls.append(1)
        if len(calls) > 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return synced(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        done = run(*words, *small)
    assert done.code == 1
    assert "No space left" in done.err
    assert "the disk is full" in done.err
    done = run(*words, *small)
    assert done.code == 0, done.err
    assert run("verify", "x", "--lake", lake).code == 0


def test_exports_that_cannot_be(run, lake, tmp_path):
    synthetic_store(Lake.at(lake), "s", rows=40)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    for words, message in (
        ("s mine", "are no export"),
        ("t out", "no activations named 't'"),
        ("s out --contexts 90:", "nothing is chosen"),
        ("s out --rows 5", "found '5'"),
        ("s out --hookpoint blocks.1.hook_resid_pots", "no hookpoint matches"),
        ("s out --dtype int8", "found 'int8'"),
    ):
        store, folder, *rest = words.split()
        done = run("export", "activations", store, tmp_path / folder, *rest, "--lake", lake)
        assert done.code == 2, done.err
        assert message in done.err
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_features_leave_as_dashboards(run, lake_path, tmp_path):
    names = ("--lake", lake_path, "--model-id", "toy", "--set-name", "res")
    out = tmp_path / "boards"
    some = ("--set", "file_features=50", "--set", "tokens=4")
    done = run("export", "saedashboard", "demo/topk-32", out, *names, *some)
    assert done.code == 0, done.err
    assert "saedashboard files" in done.out
    assert "subsamples.interval" in done.err
    batch = json.loads((out / "batch-0.json").read_text())
    assert (batch["model_id"], batch["sae_set"]) == ("toy", "res")
    feature = batch["features"][0]
    assert len(feature["pos_str"]) == len(feature["neg_values"]) == 4
    assert feature["pos_values"] == sorted(feature["pos_values"], reverse=True)
    heights = feature["logits_hist_data_bar_heights"]
    middles = feature["logits_hist_data_bar_values"]
    assert (len(heights), middles) == (50, sorted(middles))
    (words,) = json.loads(
        run("query", "SELECT count(*) AS n FROM vocabulary", "--lake", lake_path, "--output", "json").out
    )  # fmt: skip
    assert sum(heights) == words["n"]
    settings = tmp_path / "neuronpedia.toml"
    settings.write_text('creator_id = "me"\ncreator_name = "Me"\nrelease = "first"\nlayers = 2\n')
    words = ("export", "neuronpedia", "demo/topk-32", tmp_path / "np", *names)
    refused = run(*words, "--creator-id", "me")
    assert (refused.code != 0, "--creator-name" in refused.err) == (True, True)
    wrong = run(*words, "--config", settings, "--set", "layerss=2")
    assert (wrong.code != 0, "layers" in wrong.err) == (True, True)
    done = run(*words, "--config", settings, "--vectors", "--output", "json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["format"] == "neuronpedia"
    (model,) = (tmp_path / "np" / "toy").rglob("model.jsonl")
    assert json.loads(model.read_text())["layers"] == 2
