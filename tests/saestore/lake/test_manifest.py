import json
import os

import pytest

from saestore.errors import (
    ArtefactExistsError,
    ArtefactNotFoundError,
    DamagedArtefactError,
    FormatVersionError,
    IncompleteArtefactError,
    StorageError,
)
from saestore.lake import Lake, Ref, Storage, layout, lineage, lock, manifest as manifests
from saestore_schemas.lm import LmSettings
from saestore_schemas.manifest import ArrayInfo, Parent
from saestore_schemas.scatter import ScatterSettings


REF = Ref("activations", "a")


def make(lake, ref=REF, *, model="gpt2", parents=(), files=(("x/part.bin", b"12345"),)):
    run = manifests.Run.of(ref, LmSettings(model=model), parents)
    artefact = lake.artefact(ref)
    assert manifests.begin(artefact, run) is None
    for path, data in files:
        artefact.write(path, data)
    manifest = manifests.finish(
        artefact,
        run,
        arrays={"x": ArrayInfo(shape=(5,), dtype="float32")},
        counts={"rows": 5},
        facts={"rate": 1.5},
    )
    return run, artefact, manifest


@pytest.fixture
def lake(tmp_path):
    return Lake.at(tmp_path / "lake")


def test_an_artefact_exists_when_its_manifest_does(lake):
    run = manifests.Run.of(REF, LmSettings(model="gpt2"))
    artefact = lake.artefact(REF)
    assert lake.refs() == []
    manifests.begin(artefact, run)
    artefact.write("x", b"1")
    assert lake.refs() == []
    assert lake.refs(unfinished=True) == [REF]
    with pytest.raises(IncompleteArtefactError, match="not finished"):
        lake.manifest(REF)
    manifest = manifests.finish(artefact, run, arrays={}, counts={}, facts={})
    assert lake.refs() == [REF]
    assert lake.refs(unfinished=True) == []
    assert lake.manifest(REF) == manifest
    assert manifest.payload.files == 1
    assert manifest.payload.bytes == 1


def test_the_same_settings_again_are_a_no_op_and_others_are_refused_by_field(lake):
    run, artefact, manifest = make(lake)
    assert manifests.begin(artefact, run) == manifest
    other = manifests.Run.of(REF, LmSettings(model="pythia"))
    with pytest.raises(ArtefactExistsError, match=r'model: "gpt2" → "pythia"') as caught:
        manifests.begin(artefact, other)
    assert caught.value.differences == ('model: "gpt2" → "pythia"',)


def test_what_another_command_made_is_refused_without_listing_all_of_it(lake):
    _, artefact, _ = make(lake)
    settings = ScatterSettings(name=REF.name, store="other")
    with pytest.raises(ArtefactExistsError) as caught:
        manifests.begin(artefact, manifests.Run.of(REF, settings))
    (line,) = caught.value.differences
    assert line.startswith("another command made it: it was given bos_token_id, dtype, ")
    assert line.endswith(", this one name, seed, store")


@pytest.mark.parametrize("work", ["part.bin", f"{layout.COMMITS}/00000000.json"])
def test_unfinished_runs_are_held_to_their_settings_and_parents_too(lake, work):
    artefact = lake.artefact(REF)
    parent = Parent(kind="activations", name="p", fingerprint="1" * 64)
    manifests.begin(artefact, manifests.Run.of(REF, LmSettings(model="gpt2"), [parent]))
    artefact.write(work, b"something")
    changed = parent.model_copy(update={"fingerprint": "2" * 64})
    with pytest.raises(ArtefactExistsError, match="parent activations p") as caught:
        manifests.begin(artefact, manifests.Run.of(REF, LmSettings(model="gpt2"), [changed]))
    assert "is unfinished and was begun with other settings" in str(caught.value)


def test_a_run_that_failed_before_it_made_anything_keeps_no_name(lake):
    artefact = lake.artefact(REF)
    manifests.begin(artefact, manifests.Run.of(REF, LmSettings(model="misspelt")))
    artefact.write(f"{layout.PROGRESS}/corpus.json", b"{}")
    right = manifests.Run.of(REF, LmSettings(model="gpt2"))
    assert manifests.begin(artefact, right) is None
    assert not artefact.exists(f"{layout.PROGRESS}/corpus.json")
    assert manifests.begin(artefact, right) is None


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (lambda a: a.write("x/part.bin", b"12346"), "x/part.bin: checksum"),
        (lambda a: a.write("x/part.bin", b"1234"), "x/part.bin: 4 bytes, expected 5"),
        (lambda a: a.write("x/part.bin", b""), "x/part.bin: 0 bytes, expected 5"),
        (lambda a: a.remove("x/part.bin"), "x/part.bin: missing"),
        (lambda a: a.write("x/other.bin", b"1"), "x/other.bin: foreign file"),
        (lambda a: a.remove("files.parquet"), "files.parquet: missing"),
        (lambda a: a.write("files.parquet", b"PAR1"), "files.parquet: digest"),
    ],
)
def test_damage_is_named(lake, harm, expected):
    _, artefact, manifest = make(lake)
    assert manifests.damage(artefact, manifest) == []
    harm(artefact)
    found = manifests.damage(artefact, manifest)
    assert len(found) == 1
    assert found[0].startswith(expected)


def test_quick_compares_sizes_and_progress_counts_bytes(lake):
    _, artefact, manifest = make(lake)
    artefact.write("x/part.bin", b"99999")
    seen = []
    assert manifests.damage(artefact, manifest, quick=True, advance=seen.append) == []
    assert sum(seen) == 5


def test_ordinary_reading_compares_sizes(lake):
    _, artefact, manifest = make(lake)
    manifests.check_sizes(artefact, manifest, ["x/part.bin"])
    artefact.write("x/part.bin", b"1")
    with pytest.raises(DamagedArtefactError, match="1 bytes, expected 5"):
        manifests.check_sizes(artefact, manifest, ["x/part.bin"])
    with pytest.raises(DamagedArtefactError, match="not in the artefact's file list"):
        manifests.check_sizes(artefact, manifest, ["y"])


@pytest.mark.parametrize("position", range(0, 1400, 37))
def test_a_flipped_bit_in_the_manifest_never_passes_unnoticed(lake, position):
    _, artefact, _ = make(lake)
    data = artefact.read(layout.MANIFEST)
    position %= len(data)
    for bit in (1, 32):  # the second changes the case of letters
        harmed = bytearray(data)
        harmed[position] ^= bit
        artefact.write(layout.MANIFEST, bytes(harmed))
        with pytest.raises((DamagedArtefactError, FormatVersionError)):
            lake.manifest(REF)


def test_other_versions_and_foreign_manifests_are_refused(lake):
    _, artefact, _ = make(lake)
    content = json.loads(artefact.read(layout.MANIFEST))
    artefact.write(layout.MANIFEST, json.dumps(content | {"format_version": 2}).encode())
    with pytest.raises(FormatVersionError, match="format version 2; this release reads 1"):
        lake.manifest(REF)
    artefact.write(layout.MANIFEST, json.dumps(content | {"name": "b"}).encode())
    with pytest.raises(DamagedArtefactError, match="belongs to activations 'b'"):
        lake.manifest(REF)
    for junk in (b"", b"[]", b"{}", b'{"format_version": 1}'):
        artefact.write(layout.MANIFEST, junk)
        with pytest.raises(DamagedArtefactError):
            lake.manifest(REF)


def test_names_are_found_bare_or_with_their_folder(lake):
    make(lake)
    make(lake, Ref("dictionary", "s/a"))
    make(lake, Ref("features", "s/a/default"))
    make(lake, Ref("evaluation", "s/a/default"))
    assert lake.find("a") == REF
    assert lake.find("activations/a/") == REF
    assert lake.find("s/a") == Ref("dictionary", "s/a")
    with pytest.raises(ArtefactNotFoundError) as caught:
        lake.find("s/a/default")
    assert "features/s/a/default" in caught.value.hint
    with pytest.raises(ArtefactNotFoundError) as caught:
        lake.find("s/b")
    assert "s/a" in caught.value.hint
    with pytest.raises(ArtefactNotFoundError, match="no activations named 'b'"):
        lake.manifest(Ref("activations", "b"))


def test_lineage_follows_parents_and_sees_changes(lake):
    _, _, store = make(lake)
    child = Ref("dictionary", "s/d")
    make(lake, child, parents=[manifests.parent_of(store)])
    node = lineage.ancestors(lake, child)
    assert [(p.ref, p.state) for p in node.parents] == [(REF, "present")]
    assert lineage.children(lake, REF) == [child]
    lake.artefact(REF).remove()
    assert lineage.ancestors(lake, child).parents[0].state == "missing"
    make(lake, model="other")
    assert lineage.ancestors(lake, child).parents[0].state == "changed"


def test_writes_are_whole_or_absent(tmp_path, monkeypatch):
    storage = Storage.at(tmp_path)
    storage.write("a/b", b"old")

    def full(descriptor):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left") as caught:
        storage.write("a/b", b"new")
    assert "free space" in caught.value.hint
    assert storage.read("a/b") == b"old"
    assert storage.names("a") == ["b"]


def test_leftovers_of_killed_writers_are_removed_when_a_run_begins(lake):
    artefact = lake.artefact(REF)
    leftover = artefact.path("x") / ".tmp-1234-part.bin"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"half")
    make(lake)
    assert not leftover.exists()


def test_progress_of_a_run_killed_behind_its_manifest_goes_when_it_is_run_again(lake, monkeypatch):
    def killed(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(manifests, "drop_progress", killed)
        with pytest.raises(KeyboardInterrupt):
            make(lake)
    run, artefact = manifests.Run.of(REF, LmSettings(model="gpt2")), lake.artefact(REF)
    artefact.write(f"{layout.PROGRESS}/checkpoints/1/large", b"1")
    with lock.writing(artefact, name="a"):  # another process may be just about to
        assert manifests.begin(artefact, run) is not None
        assert artefact.exists(f"{layout.PROGRESS}/checkpoints/1/large")
    assert manifests.begin(artefact, run) is not None
    assert artefact.names(layout.PROGRESS) == []


def test_memory_and_other_file_systems_hold_a_lake_too():
    storage = Storage.at("memory://somewhere/lake")
    assert storage.local is None
    storage.write("a/b.txt", b"1")
    assert storage.read("a/b.txt") == b"1"
    assert storage.size("a/b.txt") == 1
    assert storage.size("a/c.txt") is None
    assert storage.names("a") == ["b.txt"]
    assert storage.names("none") == []
    assert storage.files() == ["a/b.txt"]
    with pytest.raises(StorageError, match="remote"):
        storage.path("a")
    storage.remove("a")
    assert not storage.exists("a/b.txt")


def test_hookpoint_names_are_path_safe_and_reversible():
    for name in ("blocks.8.hook_resid_post", "model.layers[3]/mlp out", "é%2F"):
        segment = layout.hook_array(name).removeprefix("hooks/")
        assert "/" not in segment
        assert layout.hookpoint_of(segment) == name
