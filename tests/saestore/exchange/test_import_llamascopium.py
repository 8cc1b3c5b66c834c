"""Chunks that the real llamascopium wrote (tests/agreement/llamascopium_chunks/make.py), and every
way in which such a folder can be wrong."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from saestore.activations import ActivationStore
from saestore.api import OpenLake
from saestore.errors import ConfigError, HookpointNotFoundError
from saestore.exchange import import_activations
from saestore.lake import Ref
from saestore.progress import Recorder
from saestore.testing.stores import payload_bytes, scratch_lake
from saestore_schemas.activations import FLAG_SPECIAL
from saestore_schemas.exchange import ImportSettings


WRITTEN = Path(__file__).parents[2] / "agreement" / "llamascopium_chunks"
POST, MLP = "blocks.0.hook_resid_post", "blocks.1.hook_mlp_out"
TEXTS = [7, 3, 0, 8, 5, 8, 1]
NUMBERS = [0, 1, 3, 4, 5, 6]
"""Contexts that are stored: the third is a BOS and padding, which its mask cannot tell apart."""
LENGTHS = [8, 4, 8, 6, 8, 2]
"""Rows of each: BOS, then its text, cut at 8; the padding is gone."""


@pytest.fixture
def lake():
    with scratch_lake() as lake:
        yield lake


@pytest.fixture
def chunks(tmp_path):
    """A function that copies one set, all its files of one age."""

    def copy(name):
        folder = tmp_path / name
        shutil.copytree(WRITTEN / name, folder, dirs_exist_ok=True)
        for path in folder.rglob("*"):
            os.utime(path, (1e9, 1e9))
        return folder

    return copy


def settings(folder, name="x", *, source=None, **more):
    return ImportSettings.model_validate(
        {"name": name, "source": {"kind": "llamascopium", "path": str(folder), **(source or {})}}
        | more
    )


def value(hook, context, position, dimension):
    """What make.py put there."""
    return context * 100 + position + dimension / 16 + (1000 if hook == MLP else 0)


def expected(hook, width):
    return np.array(
        [
            [value(hook, context, position, d) for d in range(width)]
            for context, length in zip(NUMBERS, LENGTHS, strict=True)
            for position in range(length)
        ],
        np.float32,
    )


def test_contexts_lose_their_padding_and_keep_their_bos(chunks, lake):
    store = import_activations(settings(chunks("contexts")), lake)
    assert store.contexts()[:, 1].tolist() == LENGTHS
    np.testing.assert_array_equal(store.read(POST, 0, store.n_rows), expected(POST, 6))
    np.testing.assert_array_equal(store.read(MLP, 0, store.n_rows), expected(MLP, 5))
    firsts = store.contexts()[:, 0]
    assert (store.tokens()[firsts] == 1).all()
    assert np.flatnonzero(store.flags() == FLAG_SPECIAL).tolist() == firsts.tolist()
    assert store.record.dtype == "float32"
    assert store.record.lm is None
    assert store.record.context_size == 8
    assert store.manifest.counts["padding_rows"] == 7 * 8 - sum(LENGTHS)
    assert store.manifest.counts["empty_contexts"] == 1
    assert store.manifest.facts["imported"] == {"rows": 36, "max_error": 0.0}


def test_meta_records_become_documents(chunks, lake):
    store = import_activations(settings(chunks("contexts")), lake)
    documents = store.documents().to_pylist()
    assert [each["document_id"] for each in documents] == [str(n) for n in NUMBERS]
    assert {each["source"] for each in documents} == {"numbers"}
    assert {each["model_name"] for each in documents} == {"tiny"}
    assert [each["n_tokens"] for each in documents] == [n - 1 for n in LENGTHS]
    segments = store.segments()
    assert segments[:, [0, 1, 3]].tolist() == [[n, 1, n] for n in range(6)]
    assert segments[:, 2].tolist() == [n - 1 for n in LENGTHS]


def test_padding_can_be_kept_flagged(chunks, lake):
    store = import_activations(settings(chunks("contexts"), padding="keep"), lake)
    assert store.n_rows == 7 * 8
    assert store.manifest.counts["kept_rows"] == sum(LENGTHS) - 6


def test_pt_chunks_of_bfloat16_are_stored_bit_for_bit(chunks, lake):
    store = import_activations(settings(chunks("half")), lake)
    assert store.record.dtype == "bfloat16"
    rounded = torch.from_numpy(expected(POST, 6)).bfloat16().float().numpy()
    np.testing.assert_array_equal(store.read(POST, 0, store.n_rows), rounded)
    assert store.documents().num_rows == 6


def test_stacked_samples_are_flattened(chunks, lake):
    store = import_activations(settings(chunks("stacked")), lake)
    assert store.record.dtype == "float16"
    assert store.contexts()[:, 1].tolist() == LENGTHS[:3]
    rows = sum(LENGTHS[:3])
    np.testing.assert_array_equal(
        store.read(POST, 0, rows), expected(POST, 6)[:rows].astype(np.float16)
    )


def test_filtered_rows_are_contexts_of_one_row_unless_cut(chunks, lake):
    reporter = Recorder()
    store = import_activations(settings(chunks("rows")), lake, progress=reporter)
    kept = sum(LENGTHS) - 6
    assert store.contexts()[:, 1].tolist() == [1] * kept
    assert store.record.context_size == 1
    assert (store.flags() == 0).all()
    assert store.documents().column("document_id").to_pylist() == [
        "chunk-00000000", "chunk-00000001",
    ]  # fmt: skip
    assert any("a context of its own" in note for note in reporter.notes)
    cut = import_activations(settings(chunks("rows"), "cut", context_size=5), lake)
    # Files are cut one by one: a context never crosses two.
    assert cut.contexts()[:, 1].tolist() == [5, 5, 5, 1, 5, 5, 4]
    np.testing.assert_array_equal(cut.read(POST, 0, kept), store.read(POST, 0, kept))
    assert cut.segments()[:, [0, 3, 4]].tolist() == [
        [0, 0, 0], [1, 0, 5], [2, 0, 10], [3, 0, 15], [4, 1, 0], [5, 1, 5], [6, 1, 10],
    ]  # fmt: skip


def test_one_hookpoint_by_name_or_by_its_folder(chunks, lake):
    folder = chunks("contexts")
    one = import_activations(settings(folder, "one", hookpoints=[MLP]), lake)
    assert set(one.hookpoints) == {MLP}
    other = import_activations(settings(folder / MLP, "other"), lake)
    np.testing.assert_array_equal(one.read(MLP, 0, 9), other.read(MLP, 0, 9))
    renamed = import_activations(settings(folder, "r", hookpoints=[f"{MLP}=layers.3.mlp"]), lake)
    assert set(renamed.hookpoints) == {"blocks.3.hook_mlp_out"}


def test_other_spellings_are_translated_or_asked_for(chunks, lake):
    folder = chunks("contexts")
    (folder / POST).rename(folder / "model.layers.0")
    (folder / MLP).rename(folder / "somewhere")
    with pytest.raises(
        ConfigError, match=r"'somewhere' of .* is not how TransformerLens"
    ) as caught:
        import_activations(settings(folder), lake)
    assert "somewhere=" in caught.value.hint
    store = import_activations(settings(folder, hookpoints=["layers.0"]), lake)
    assert set(store.hookpoints) == {POST}
    assert store.manifest.facts["source"]["hookpoints"] == {POST: "model.layers.0"}


def test_importing_again_does_nothing_and_a_changed_source_is_another(chunks, lake):
    folder = chunks("contexts")
    import_activations(settings(folder), lake)
    before = payload_bytes(lake, Ref("activations", "x"))
    reporter = Recorder()
    import_activations(settings(folder), lake, progress=reporter)
    assert reporter.notes == ["activations x: finished already"]
    assert payload_bytes(lake, Ref("activations", "x")) == before
    rewritten(folder / POST / "chunk-00000001.safetensors", lambda t: t["activation"].add_(1))
    with pytest.raises(Exception, match=r"exists with other settings:\n  digest: ") as caught:
        import_activations(settings(folder), lake)
    assert caught.type.__name__ == "ArtefactExistsError"


def rewritten(path, change):
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    safetensors.torch.save_file(tensors, path)
    os.utime(path, (1e9, 1e9))


@pytest.mark.parametrize(("dtype", "row_bytes"), [("float32", 24), ("int8", 6)])
def test_a_killed_import_ends_with_the_same_bytes(chunks, lake, monkeypatch, dtype, row_bytes):
    from saestore.exchange import importing, source

    monkeypatch.setattr(importing, "MEASURED_ROWS", 9)
    monkeypatch.setattr(source, "PIECE_BYTES", 1)  # a context at a time
    folder = chunks("contexts")
    four_rows = {"chunk_kib": 1, "shard_mib": 4 * row_bytes / 2**20}
    small = {"store": four_rows, "dtype": dtype}
    whole = import_activations(settings(folder, **small), lake)
    assert whole.manifest.counts["shards"] == 9
    for stop in range(1, 6):
        with scratch_lake() as other:
            appended = importing._Import._append
            seen = []

            def killed(self, *args, _seen=seen, _stop=stop, _appended=appended):
                _seen.append(1)
                if len(_seen) > _stop:
                    raise KeyboardInterrupt
                return _appended(self, *args)

            with monkeypatch.context() as patch:
                patch.setattr(importing._Import, "_append", killed)
                with pytest.raises(KeyboardInterrupt):
                    import_activations(settings(folder, **small), other)
            again = import_activations(settings(folder, **small), other)
            ref = Ref("activations", "x")
            assert payload_bytes(other, ref) == payload_bytes(lake, ref)
            assert again.manifest.counts == whole.manifest.counts
            assert again.manifest.facts["imported"] == whole.manifest.facts["imported"]


CHUNK = "chunk-0000000{}.safetensors"


def torn(folder):
    path = folder / MLP / CHUNK.format(3)
    path.write_bytes(path.read_bytes()[:-7])


def headless(folder):
    (folder / POST / CHUNK.format(0)).write_bytes(b"\x05")


def older(folder):
    for hook in (POST, MLP):
        os.utime(folder / hook / CHUNK.format(3), (9e8, 9e8))


def repeated(folder):
    for hook in (POST, MLP):
        path = folder / hook / "chunk-00000003.meta.json"
        record = json.loads(path.read_text())
        record[0]["context_idx"] = 1
        path.write_text(json.dumps(record))
        os.utime(path, (1e9, 1e9))


def missing_one(folder):
    (folder / MLP / CHUNK.format(3)).unlink()


def gap(folder):
    for hook in (POST, MLP):
        (folder / hook / CHUNK.format(2)).unlink()


def wider(folder):
    rewritten(
        folder / MLP / CHUNK.format(3),
        lambda t: t.update(activation=torch.cat([t["activation"], t["activation"]], dim=2)),
    )


def longer(folder):
    def double(t):
        t.update({name: torch.cat([each, each]) for name, each in t.items()})

    rewritten(folder / MLP / CHUNK.format(3), double)


def other_type(folder):
    rewritten(folder / MLP / CHUNK.format(2), lambda t: t.update(activation=t["activation"].half()))


def other_hook_type(folder):
    for n in range(4):
        rewritten(
            folder / MLP / CHUNK.format(n), lambda t: t.update(activation=t["activation"].half())
        )


def other_tokens(folder):
    rewritten(folder / MLP / CHUNK.format(2), lambda t: t["tokens"].add_(1))


def no_tokens(folder):
    rewritten(folder / POST / CHUNK.format(0), lambda t: t.pop("tokens"))


def no_meta(folder):
    for path in folder.rglob("*.meta.json"):
        path.unlink()


def two_formats(folder):
    torch.save({"activation": torch.zeros(1, 2, 6)}, folder / POST / "chunk-00000000.pt")
    os.utime(folder / POST / "chunk-00000000.pt", (1e9, 1e9))


def code(folder):
    for hook in (POST, MLP):
        shutil.rmtree(folder / hook)
        (folder / hook).mkdir()
        torch.save({"activation": Ref("activations", "x")}, folder / hook / "chunk-00000000.pt")


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def negative(folder):
    for hook in (POST, MLP):
        rewritten(folder / hook / CHUNK.format(1), lambda t: t["tokens"].sub_(50))


WRONG = [
    (torn, r"is not whole: it has 561 bytes, .* promises 568", "--set source.chunks=3"),
    (headless, "no safetensors file", "name the file"),
    (older, "was written 100000000 s before the first chunk", "--set source.chunks=3"),
    (repeated, "repeats context 1 of numbers", "--set source.stale=keep"),
    (missing_one, r"different chunks \(.*post: 4, .*mlp_out: 3\)", "--set source.chunks=3"),
    (gap, "chunk 2 of shard 0 is missing", "--set source.chunks=2"),
    (wider, "float32 of width 10, and chunk-00000000", "--set source.chunks=3"),
    (longer, r"holds \[2, 8\] rows, and .*\[1, 8\]", "one by one"),
    (other_type, "float16 of width 5, and .* float32", "--set source.chunks=2"),
    (other_hook_type, "are float16 and float32", "--hookpoint"),
    (other_tokens, "its tokens are not those of", "different runs"),
    (no_tokens, "has no 'tokens'", "it holds activation, attention_mask, mask"),
    (no_meta, "may be contexts, or rows that were stacked", "source.axes=contexts"),
    (two_formats, "is the same chunk as", "two runs"),
    (code, "would run code", "as safetensors"),
    (empty, "has no folder with chunk files", "it holds nothing"),
    (negative, "holds token id -", "token ids"),
]


@pytest.mark.parametrize(
    ("damage", "message", "hint"), WRONG, ids=lambda x: getattr(x, "__name__", "")
)
def test_what_is_wrong_is_said_and_how_to_go_on(chunks, lake, damage, message, hint):
    folder = chunks("contexts")
    damage(folder)
    with pytest.raises(ConfigError, match=message) as caught:
        import_activations(settings(folder), lake)
    assert hint in caught.value.hint
    assert "Traceback" not in str(caught.value)
    artefact = lake.artefact(Ref("activations", "x"))
    assert not artefact.exists("manifest.json")
    if "source.chunks=" in hint:  # and the advice works
        chunks_left = int(hint.rpartition("=")[2])
        store = import_activations(settings(folder, source={"chunks": chunks_left}), lake)
        assert store.n_contexts == sum(number < 2 * chunks_left for number in NUMBERS)


@pytest.mark.parametrize("damage", [older, repeated])
def test_chunks_that_only_look_stale_can_be_kept(chunks, lake, damage):
    folder = chunks("contexts")
    damage(folder)
    store = import_activations(settings(folder, source={"stale": "keep"}), lake)
    assert store.n_contexts == 6


def test_contexts_without_meta_records_can_be_said_to_be_that(chunks, lake):
    folder = chunks("contexts")
    no_meta(folder)
    store = import_activations(settings(folder, source={"axes": "contexts"}), lake)
    assert store.contexts()[:, 1].tolist() == LENGTHS
    rows = import_activations(settings(folder, "rows", source={"axes": "rows"}), lake)
    assert rows.n_rows == 7 * 8


def test_shards_follow_one_another(chunks, lake):
    folder = chunks("contexts")
    for hook in (POST, MLP):
        for path in list((folder / hook).iterdir()):
            number = int(path.name[6:14])
            path.rename(
                path.with_name(f"shard-{number // 2}-chunk-{number % 2:08d}{path.name[14:]}")
            )
    reporter = Recorder()
    store = import_activations(settings(folder), lake, progress=reporter)
    np.testing.assert_array_equal(store.read(POST, 0, store.n_rows), expected(POST, 6))
    assert any("tell of 1 shards, and 2 are here" in note for note in reporter.notes)


def test_an_attention_mask_that_says_more_is_believed(chunks, lake):
    folder = chunks("contexts")
    for path in folder.rglob("*.safetensors"):
        rewritten(path, lambda t: t.update(attention_mask=(t["tokens"] != 0).int()))
    store = import_activations(settings(folder), lake)
    assert store.contexts()[:, 1].tolist() == [*LENGTHS[:2], 1, *LENGTHS[2:]]


def test_the_store_is_whole_and_says_where_it_came_from(chunks, lake):
    store = import_activations(settings(chunks("contexts")), lake)
    assert OpenLake(lake).verify("x") == []
    source = store.manifest.facts["source"]
    assert source["kind"] == "llamascopium"
    assert source["files"] == 16
    assert source["bytes"] == sum(size for _, size in source["listing"])
    assert source["digest"] == store.manifest.settings["digest"]
    assert ActivationStore.open(lake, "x").vocabulary().column("token").to_pylist()[5] == "<5>"


def test_an_unknown_hookpoint_names_what_there_is(chunks, lake):
    with pytest.raises(HookpointNotFoundError, match="no hookpoint matches") as caught:
        import_activations(settings(chunks("contexts"), hookpoints=["blocks.9.hook_z"]), lake)
    assert POST in caught.value.hint
