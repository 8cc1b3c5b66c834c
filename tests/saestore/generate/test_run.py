"""One store from a real, tiny model: budget, resume, refusals, agreement with the model."""

import errno
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from saestore import generate
from saestore.activations import ActivationStore, arrays, commits, verify
from saestore.errors import (
    ArtefactBusyError,
    ArtefactExistsError,
    ConfigError,
    DamagedArtefactError,
    HookpointNotFoundError,
    IncompleteArtefactError,
    OverflowRowError,
    StorageError,
    UnsupportedError,
)
from saestore.lake import Ref, layout
from saestore.lake.lock import writing
from saestore.lm import LanguageModel
from saestore.progress import Recorder
from saestore.testing.stores import payload_bytes, scratch_lake
from saestore_schemas.activations import StoreSettings
from saestore_schemas.corpus import JsonlSource
from saestore_schemas.lm import LmSettings


REF = Ref("activations", "a")
HOOK = "blocks.1.hook_resid_post"


class Killed(BaseException):
    """Stands for the end of the process: nobody catches it."""


def killed_at(shard):
    """Commits are written up to a shard."""
    write = commits.write

    def interrupted(artefact, commit):
        if commit.shard == shard:
            raise Killed
        write(artefact, commit)

    return interrupted


@pytest.fixture(scope="module")
def whole(request):
    """Payloads of uninterrupted runs, by settings."""
    made = {}

    def of(settings):
        key = settings.model_dump_json()
        if key not in made:
            with scratch_lake() as lake:
                generate.run(settings, lake, device="cpu")
                made[key] = payload_bytes(lake, REF)
        return made[key]

    return of


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_stored_rows_are_the_model_s_rounded_once(lake, plan, tiny_gpt2, dtype):
    store = generate.run(plan(dtype=dtype, tokens=200), lake, device="cpu")
    model = LanguageModel.load(LmSettings(model=str(tiny_gpt2)), device="cpu")
    for first, length in store.contexts()[[0, 1, 4]].tolist():
        tokens = store.tokens(first, first + length)
        captured = model.capture(torch.from_numpy(tokens.astype(np.int64))[None], [HOOK])[HOOK][0]
        expected = captured.to(getattr(torch, dtype)).float().numpy()
        # Alone and in a batch, the same sums are added in another order.
        eps = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}[dtype]
        found = store.read(HOOK, first, first + length)
        np.testing.assert_allclose(found, expected, rtol=eps, atol=eps)
    assert verify.damage(lake, "a") == []


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_final_norm_s_scale_is_that_of_each_row(lake, plan, tiny_models, kind):
    """LayerNorm and RMSNorm, at rows whose hookpoints lie two blocks before; bfloat16 leaves it exact."""
    lm = LmSettings(model=str(tiny_models(kind)))
    plain = generate.run(plan(name="plain", lm=lm, tokens=150, dtype="bfloat16"), lake)
    settings = plan(lm=lm, tokens=150, dtype="bfloat16", capture=("final_norm_scale",))
    store = generate.run(settings, lake, device="cpu")
    model = LanguageModel.load(lm, device="cpu")
    place = "ln_final.hook_scale"  # TransformerLens' own
    for first, length in store.contexts().tolist():
        tokens = torch.from_numpy(store.tokens(first, first + length).astype(np.int64))
        expected = model.capture(tokens[None], [place])[place][0, :, 0].numpy()
        found = store.captured("final_norm_scale", first, first + length)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    for name in store.hookpoints:  # a longer forward pass changes no bit of the others
        assert np.array_equal(store.read(name, 0, 150), plain.read(name, 0, 150))
    with pytest.raises(UnsupportedError, match="hold no final_norm_scale") as caught:
        plain.captured("final_norm_scale")
    assert "capture=" in caught.value.hint


def test_int8_divides_by_the_first_block_s_deviations_wherever_it_is_interrupted(
    lake, plan, monkeypatch
):
    exact = generate.run(plan(name="exact"), lake, device="cpu")
    settings = plan(dtype="int8", store=StoreSettings(chunk_kib=1, shard_mib=64 * 24 / 2**20))
    store = generate.run(settings, lake, device="cpu")
    segments = exact.segments()
    after = segments[segments[:, 3] >= settings.corpus.block_documents, 0].min()
    end = int(exact.contexts()[after, 0])  # the first block's rows
    for name in store.hookpoints:
        rows = exact.read(name, 0, end)[exact.flags(0, end) == 0].astype(np.float64)
        assert np.array_equal(store.deviations(name), rows.std(axis=0).astype(np.float32))
        values, stored = exact.read(name, 0, 700), store.read(name, 0, 700)
        assert ((values - stored) ** 2).sum() / (values**2).sum() < 2e-4
    assert verify.damage(lake, "a") == []
    for shard in (0, 3):  # before the first commit, and later
        with scratch_lake() as broken:
            with monkeypatch.context() as patch:
                patch.setattr(commits, "write", killed_at(shard))
                with pytest.raises(Killed):
                    generate.run(settings, broken, device="cpu")
            generate.run(settings, broken, device="cpu")
            assert payload_bytes(broken, store.ref) == payload_bytes(lake, store.ref)


@pytest.mark.parametrize("kind", ["llama", "neox", "qwen3"])
def test_every_hookpoint_of_a_glob_is_stored_in_one_pass(lake, plan, tiny_models, kind):
    lm = LmSettings(model=str(tiny_models(kind)))
    settings = plan(lm=lm, hookpoints=("blocks.*.hook_resid_post",), tokens=90)
    store = generate.run(settings, lake, device="cpu")
    assert list(store.hookpoints) == [f"blocks.{n}.hook_resid_post" for n in range(4)]
    rows = [store.read(name, 0, 90) for name in store.hookpoints]
    assert len({values.tobytes() for values in rows}) == 4
    special = store.flags() != 0
    assert special[store.contexts()[:, 0]].all()  # every context begins with BOS
    assert store.moments(HOOK).count == 90 - special.sum()
    vocabulary = store.vocabulary()
    assert store.tokens().max() < len(vocabulary)


def test_the_budget_is_exact_and_a_larger_one_only_adds_rows(lake, plan):
    small = generate.run(plan(name="small", tokens=331), lake, device="cpu")
    large = generate.run(plan(name="large", tokens=500), lake, device="cpu")
    assert (small.n_rows, large.n_rows) == (331, 500)
    for name in small.hookpoints:
        assert np.array_equal(small.read(name, 0, 331), large.read(name, 0, 331))
    assert np.array_equal(small.tokens(), large.tokens(0, 331))
    assert np.array_equal(small.flags(), large.flags(0, 331))
    assert np.array_equal(small.contexts()[:-1], large.contexts()[: small.n_contexts - 1])
    assert small.contexts()[:, 1].sum() == 331
    documents = small.documents()
    assert documents.equals(large.documents().slice(0, len(documents)))


def test_documents_are_found_by_their_number_even_after_blocks_without_text(lake, plan, tiny_jsonl):
    """Blocks of one document: some hold nothing but an empty one."""
    store = generate.run(plan(tokens=None, corpus={"block_documents": 1}), lake, device="cpu")
    documents = store.documents()
    assert documents["document"].to_pylist() == list(range(len(documents)))
    assert len(documents) == len(tiny_jsonl.read_text().splitlines())
    assert 0 in documents["n_tokens"].to_pylist()
    segments = store.segments()
    owners = np.unique(segments[:, 3])
    used = documents.take(owners)
    assert all(n > 0 for n in used["n_tokens"].to_pylist())
    totals = np.bincount(segments[:, 3], weights=segments[:, 2], minlength=len(documents))
    assert totals.tolist() == documents["n_tokens"].to_pylist()
    assert used["shelf"].to_pylist() == ["ABC"[o % 3] for o in owners]


def test_every_context_names_a_document_even_one_cut_to_its_bos(lake, plan):
    store = generate.run(plan(tokens=2 * 24 + 1), lake, device="cpu")
    assert store.contexts()[-1].tolist() == [48, 1]
    assert store.segments()[-1, [0, 2]].tolist() == [2, 0]
    assert verify.damage(lake, "a") == []


@pytest.mark.parametrize("case", [(0, 700), (1, 320), (4, 320), (4, 700), (10, 700)])
@pytest.mark.parametrize("cleanup", [True, False], ids=["error", "kill"])
def test_interrupted_between_shards_it_ends_with_the_same_bytes(
    lake, plan, whole, monkeypatch, case, cleanup
):
    after, tokens = case  # 320 rows fill the last shard, 700 do not
    settings = plan(tokens=tokens, capture=("final_norm_scale",))
    with monkeypatch.context() as patch:
        patch.setattr(commits, "write", killed_at(after))
        if not cleanup:  # a killed process removes nothing
            patch.setattr(arrays.ArrayWriter, "abandon", lambda self: self._stack.pop_all())
        with pytest.raises(Killed):
            generate.run(settings, lake, device="cpu")
    with pytest.raises(IncompleteArtefactError):
        ActivationStore.open(lake, "a")
    heard = Recorder()
    generate.run(settings, lake, device="cpu", progress=heard)
    assert any("resuming" in note for note in heard.notes) == (after > 0)
    assert payload_bytes(lake, REF) == whole(settings)


@pytest.mark.parametrize("step", ["vocabulary", "metadata", "manifest"])
def test_interrupted_while_finishing_it_ends_with_the_same_bytes(
    lake, plan, whole, monkeypatch, step
):
    from saestore.activations import layout as stores
    from saestore.lake import manifest as manifests

    settings = plan(tokens=None)

    def half(artefact, *args, **kwargs):
        if step == "metadata":
            artefact.write("zarr.json", b"{}")
            artefact.write("contexts/c.0.0", b"half an array")
        raise Killed

    places = {
        "vocabulary": (LanguageModel, "vocabulary"),
        "metadata": (stores, "write_metadata"),
        "manifest": (manifests, "finish"),
    }
    with monkeypatch.context() as patch:
        patch.setattr(*places[step], half)
        with pytest.raises(Killed):
            generate.run(settings, lake, device="cpu")
    generate.run(settings, lake, device="cpu")
    assert payload_bytes(lake, REF) == whole(settings)


def test_killed_by_the_system_it_ends_with_the_same_bytes(lake, plan, whole):
    settings = plan()
    code = f"""
import sys, time
from pathlib import Path
from saestore import generate
from saestore.activations import arrays
from saestore.lake import Lake
from saestore_schemas.generate import GenerateSettings
flush = arrays.ArrayWriter._flush
commits = Path({str(lake.artefact(REF).path() / layout.PROGRESS / "commits")!r})
count = 0
def slow(self, rows):
    global count
    flush(self, rows)
    count += 1
    if count == 25:  # in the midst of some shard, its temporary files open
        while not list(commits.glob("*.json")):  # the shard before it is committed by a thread
            time.sleep(0.01)
        print("now", flush=True)
        time.sleep(600)
arrays.ArrayWriter._flush = slow
generate.run(GenerateSettings.model_validate_json({settings.model_dump_json()!r}),
             Lake.at({lake.storage.url!r}), device="cpu")
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "now\n"
        with pytest.raises(ArtefactBusyError, match=f"process {process.pid}"):
            generate.run(settings, lake, device="cpu")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    left = list(lake.artefact(REF).path().rglob(".tmp-*"))
    assert left  # what the next run removes
    heard = Recorder()
    generate.run(settings, lake, device="cpu", progress=heard)
    assert any("resuming after" in note for note in heard.notes)
    assert payload_bytes(lake, REF) == whole(settings)


def test_a_finished_run_is_found_without_model_or_lock(lake, plan):
    store = generate.run(plan(tokens=100), lake, device="cpu")
    gone = plan(tokens=100)
    with writing(lake.artefact(REF), name="a"):
        again = generate.run(gone, lake, device="cpu")
    assert again.manifest == store.manifest
    with pytest.raises(ArtefactExistsError, match="tokens: 100 → 101"):
        generate.run(plan(tokens=101), lake, device="cpu")


def test_a_run_that_failed_at_once_does_not_occupy_the_name(lake, plan):
    with pytest.raises(HookpointNotFoundError, match="hook_resid_pots"):
        generate.run(plan(hookpoints=("blocks.1.hook_resid_pots",)), lake, device="cpu")
    assert generate.run(plan(tokens=50), lake, device="cpu").n_rows == 50


def test_a_store_that_lost_its_manifest_is_not_overwritten(lake, plan):
    generate.run(plan(tokens=50), lake, device="cpu")
    artefact = lake.artefact(REF)
    artefact.remove("manifest.json")
    before = {path: artefact.read(path) for path in artefact.files()}
    with pytest.raises(DamagedArtefactError, match=r"manifest\.json: missing, beside \d+ other"):
        generate.run(plan(tokens=60), lake, device="cpu")
    assert {path: artefact.read(path) for path in artefact.files()} == before


def test_an_unfinished_run_is_held_to_its_settings(lake, plan, monkeypatch):
    stop_after(monkeypatch, 1, plan(), lake)
    with pytest.raises(ArtefactExistsError, match="forward_contexts: 3 → 4"):
        generate.run(plan(forward_contexts=4), lake, device="cpu")


def stop_after(monkeypatch, shards, settings, lake):
    write = commits.write

    def interrupted(artefact, commit):
        if commit.shard == shards:
            raise Killed
        write(artefact, commit)

    with monkeypatch.context() as patch:
        patch.setattr(commits, "write", interrupted)
        with pytest.raises(Killed):
            generate.run(settings, lake, device="cpu")


def test_a_corpus_that_changed_in_between_is_refused(lake, plan, tmp_path, tiny_jsonl, monkeypatch):
    mine = tmp_path / "mine.jsonl"
    mine.write_text(tiny_jsonl.read_text())
    settings = plan(corpus={"sources": (JsonlSource(path=str(mine)),)})
    stop_after(monkeypatch, 1, settings, lake)
    mine.write_text(tiny_jsonl.read_text().replace("lighthouse", "warehouse"))
    with pytest.raises(ConfigError, match="changed since this run was interrupted") as caught:
        generate.run(settings, lake, device="cpu")
    assert "saestore remove" in caught.value.hint


def test_a_lost_shard_of_an_unfinished_run_is_missed(lake, plan, monkeypatch):
    stop_after(monkeypatch, 2, plan(), lake)
    lake.artefact(REF).remove("tokens/c.0")
    with pytest.raises(DamagedArtefactError, match=r"tokens/c\.0: missing"):
        generate.run(plan(), lake, device="cpu")


def test_an_empty_corpus_is_refused(lake, plan, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"text": ""}\n')
    with pytest.raises((UnsupportedError, ConfigError)) as caught:
        generate.run(plan(corpus={"sources": (JsonlSource(path=str(empty)),)}), lake, device="cpu")
    assert caught.value.hint


def test_float16_names_row_hookpoint_value_and_remedy(lake, plan, monkeypatch):
    capture = LanguageModel.capture

    def large(self, tokens, hookpoints, beside):
        found = capture(self, tokens, hookpoints, beside)
        found[HOOK] = found[HOOK].clone()
        found[HOOK][1, 2, 3] = 70_000.0
        return found

    monkeypatch.setattr(LanguageModel, "capture", large)
    with pytest.raises(OverflowRowError, match=rf"{HOOK}.*70000 at row 26, dimension 3") as caught:
        generate.run(plan(dtype="float16"), lake, device="cpu")
    assert "bfloat16" in caught.value.hint


def test_a_full_disk_keeps_what_was_finished(lake, plan, whole, monkeypatch):
    settings = plan()
    write = arrays._File.write
    left = [20]  # two for each array of a shard: its chunks, and its tail

    def full(self, data):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(arrays._File, "write", full)
        with pytest.raises(StorageError, match=r"c\.\d.*No space left") as caught:
            generate.run(settings, lake, device="cpu")
    assert "free space" in caught.value.hint
    artefact = lake.artefact(REF)
    assert len(artefact.names(".progress/commits")) >= 1
    assert not list(artefact.path().rglob(".tmp-*"))
    generate.run(settings, lake, device="cpu")
    assert payload_bytes(lake, REF) == whole(settings)


def test_progress_counts_the_tokens(lake, plan, monkeypatch):
    heard = Recorder()
    stop_after(monkeypatch, 2, plan(), lake)
    generate.run(plan(), lake, device="cpu", progress=heard)
    (task,) = heard.tasks
    assert (task["total"], task["unit"]) == (700, "tokens")
    assert (task["done"], task["advanced"]) == (128, 572)
