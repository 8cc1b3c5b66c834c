"""Each kind of damage is found by verify, and by an ordinary read of that part."""

import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import saestore
from saestore.activations import ActivationStore, ActivationStream, shards, verify
from saestore.errors import DamagedArtefactError, FormatVersionError
from saestore.lake import Ref, layout, manifest as manifests
from saestore.testing.stores import HOOKPOINT, scratch_lake, synthetic_rows, synthetic_store
from saestore_schemas.activations import StoreSettings


OTHER = "blocks.0.attn.hook_z"
REF = Ref("activations", "synthetic")


@pytest.fixture(scope="module")
def pristine():
    """A lake with one store of several shards and chunks, partial at its end."""
    with scratch_lake() as lake:
        values = {HOOKPOINT: synthetic_rows(220, 9, seed=1), OTHER: synthetic_rows(220, 3, seed=2)}
        synthetic_store(
            lake,
            values=values,
            dtype="float16",
            store=StoreSettings(chunk_kib=1, shard_mib=64 * 18 / 2**20),
        )
        yield lake


@pytest.fixture
def lake(pristine, tmp_path_factory):
    """A copy to harm."""
    with scratch_lake() as lake:
        shutil.copytree(pristine.storage.path(), lake.storage.path(), dirs_exist_ok=True)
        yield lake


def read_everything(lake):
    store = ActivationStore.open(lake, "synthetic")
    for name in store.hookpoints:
        store.read(name, 0, store.n_rows)
        store.moments(name)
    return [
        store.tokens(), store.flags(), store.contexts(), store.segments(), store.documents(),
        store.vocabulary(),
    ]  # fmt: skip


def verified(lake):
    return saestore.open_lake(lake.storage.url).verify("synthetic")


def quickly(lake):
    return saestore.open_lake(lake.storage.url).verify("synthetic", quick=True)


def files(lake):
    return lake.artefact(REF).files()


def test_the_pristine_store_has_no_damage(pristine):
    assert verified(pristine) == []
    assert verify.damage(pristine, "synthetic", quick=True) == []
    read_everything(pristine)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
@given(st.data())
def test_one_flipped_bit_anywhere_is_found_by_verify_and_by_reading(pristine, data):
    path = data.draw(st.sampled_from(files(pristine)))
    artefact = pristine.artefact(REF)
    whole = artefact.read(path)
    place = data.draw(st.integers(0, len(whole) - 1))
    harmed = bytearray(whole)
    harmed[place] ^= 1 << data.draw(st.integers(0, 7))
    artefact.path(path).write_bytes(harmed)
    try:
        try:
            assert verified(pristine)
        except FormatVersionError:
            assert path == layout.MANIFEST
        with pytest.raises((DamagedArtefactError, FormatVersionError)) as caught:
            read_everything(pristine)
        if path.count("/c.") and path.split("/")[0] in {"hooks", "tokens", "flags"}:
            assert path in str(caught.value)
    finally:
        artefact.path(path).write_bytes(whole)


HOOK_SHARD = layout.shard_file(layout.hook_array(HOOKPOINT), 1, ndim=2)


@pytest.mark.parametrize("path", [HOOK_SHARD, "tokens/c.1", "flags/c.3"])
@pytest.mark.parametrize(
    "harm",
    [
        lambda file: file.unlink(),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:-1]),
        lambda file: file.write_bytes(file.read_bytes()[:50] + bytes(file.stat().st_size - 50)),
        lambda file: file.write_bytes(file.read_bytes() + b"0"),
    ],
    ids=["missing", "empty", "truncated", "zeroed tail", "too long"],
)
def test_a_shard_that_is_not_whole_is_found(lake, path, harm):
    harm(lake.artefact(REF).path(path))
    assert any(path in line for line in verified(lake))
    with pytest.raises(DamagedArtefactError, match=path.replace(".", r"\.")):
        read_everything(lake)


@pytest.mark.parametrize("array", [layout.hook_array(HOOKPOINT), layout.TOKENS])
def test_swapped_and_duplicated_shards_are_found_by_verify_and_by_reading(lake, array):
    """Each of their chunks has a right crc32c, and so have all together: the same in both."""
    ndim = 1 if array == layout.TOKENS else 2
    one, two = (lake.artefact(REF).path(layout.shard_file(array, n, ndim=ndim)) for n in (0, 1))
    first, second = one.read_bytes(), two.read_bytes()
    grid = ActivationStore.open(lake, "synthetic").spec.arrays()[array].grid
    chunks = slice(grid.offset(grid.chunks))
    assert manifests.checksum_of(first[chunks]) == manifests.checksum_of(second[chunks])
    for here, there, wrong in [(second, first, 2), (first, first, 1)]:
        one.write_bytes(here)
        two.write_bytes(there)
        assert len(verified(lake)) == wrong
        with pytest.raises(DamagedArtefactError, match="not those that were written there"):
            read_everything(lake)
    two.write_bytes(second)
    assert verified(lake) == []


def test_a_chunk_in_another_chunk_s_place_is_found(lake):
    array = ActivationStore.open(lake, "synthetic").spec.arrays()[layout.hook_array(HOOKPOINT)]
    path = lake.artefact(REF).path(HOOK_SHARD)
    data = bytearray(path.read_bytes())
    end = array.grid.offset(1)
    data[:end] = data[end : 2 * end]
    path.write_bytes(data)
    assert verified(lake)
    with pytest.raises(DamagedArtefactError, match=r"c\.1\.0: chunk 0 does not match"):
        read_everything(lake)


def test_a_small_array_in_another_s_place_is_found(lake):
    base = f"{layout.MOMENTS}/{HOOKPOINT}"
    one, two = (lake.artefact(REF).path(f"{base}/{n}/c.0.0") for n in ("min", "max"))
    one.write_bytes(two.read_bytes())
    (line,) = verified(lake)
    assert line.startswith(f"{base}/min/c.0.0: checksum sha256:")
    with pytest.raises(DamagedArtefactError, match=r"min/c\.0\.0: does not match"):
        read_everything(lake)


def test_a_foreign_file_is_found_by_verify(lake):
    folder = lake.artefact(REF).path(layout.hook_array(HOOKPOINT))
    first = (folder / "c.0.0").read_bytes()
    (folder / "c.9.0").write_bytes(first)
    (line,) = verified(lake)
    assert line.startswith(f"{layout.hook_array(HOOKPOINT)}/c.9.0: foreign file")


def test_a_shard_read_once_and_cut_afterwards_is_missed(lake):
    store = ActivationStore.open(lake, "synthetic")
    store.tokens(0, 64)
    path = lake.artefact(REF).path("tokens/c.0")
    with path.open("r+b") as file:
        file.truncate(100)
    with pytest.raises(DamagedArtefactError, match=r"ends \d+ bytes too early"):
        store.tokens(0, 64)


def test_streams_refuse_damage_too(lake):
    path = lake.artefact(REF).path(HOOK_SHARD)
    data = bytearray(path.read_bytes())
    data[5] ^= 64
    path.write_bytes(data)
    store = ActivationStore.open(lake, "synthetic")
    with pytest.raises(DamagedArtefactError, match=r"c\.1\.0: chunk 0 does not match"):
        next(iter(ActivationStream(store, [HOOKPOINT], batch_rows=200, seed=0)))


def test_all_damage_is_reported_at_once(lake):
    artefact = lake.artefact(REF)

    def flip(path, place):
        data = bytearray(artefact.read(path))
        data[place] ^= 1
        artefact.path(path).write_bytes(data)

    grid = ActivationStore.open(lake, "synthetic").spec.arrays()[layout.hook_array(HOOKPOINT)].grid
    flip(HOOK_SHARD, 3)
    flip(HOOK_SHARD, grid.offset(1) + 7)
    flip(f"{layout.hook_array(HOOKPOINT)}/zarr.json", 4)
    flip("tokens/c.2", -1)
    flip(layout.VOCABULARY, 90)
    artefact.remove("flags/c.1")
    artefact.path("tokens/c.77").write_bytes(b"")
    found = verified(lake)
    assert [line.partition(":")[0] for line in found] == [
        "flags/c.1", "tokens/c.77", f"{layout.hook_array(HOOKPOINT)}/zarr.json",
        layout.VOCABULARY, HOOK_SHARD, "tokens/c.2",
    ]  # fmt: skip
    assert "chunks 0, 1 do not match the crc32c (2 of " in found[4]
    assert [line.partition(":")[0] for line in quickly(lake)] == [
        "flags/c.1", "tokens/c.77", "tokens/c.2",
    ]  # fmt: skip


def test_the_bytes_that_verify_reports_are_those_of_the_payload(pristine):
    for quick in (False, True):
        seen = []
        assert verify.damage(pristine, "synthetic", quick=quick, advance=seen.append) == []
        assert sum(seen) == pristine.manifest(REF).payload.bytes


def test_tokens_beyond_the_vocabulary_are_found():
    with scratch_lake() as lake:
        tokens = np.r_[0, np.full(99, 61)]
        synthetic_store(lake, rows=100, tokens=tokens)
        (line,) = verified(lake)
        assert "tokens 0 to 61, the vocabulary has 61" in line


def forged(lake, change):
    """Change files and list them anew, as someone would who knows the format."""
    artefact = lake.artefact(REF)
    manifest = manifests.load(artefact, REF)
    store = ActivationStore.open(lake, REF.name)
    change(artefact)
    checksums = {}
    for path, array in store.spec.arrays().items():
        for shard, first in enumerate(range(0, store.n_rows, array.grid.shard_rows)):
            name = layout.shard_file(path, shard, ndim=1 + len(array.tail))
            data = artefact.read(name)
            rows = min(store.n_rows - first, array.grid.shard_rows)
            tail = data[-array.grid.tail_bytes(rows) :]
            checksums[name] = len(data), shards.checksum_of(tail)
    artefact.remove(layout.MANIFEST)
    manifests.finish(
        artefact,
        manifests.Run(REF, manifest.settings, manifest.parents),
        arrays=manifest.arrays,
        counts=manifest.counts,
        facts=manifest.facts,
        checksums=checksums,
    )


def test_rows_that_are_not_those_of_the_moments_are_found(lake):
    folder = layout.hook_array(HOOKPOINT)

    def swap(artefact):
        one, two = artefact.read(f"{folder}/c.0.0"), artefact.read(f"{folder}/c.1.0")
        artefact.write(f"{folder}/c.0.0", two)
        artefact.write(f"{folder}/c.1.0", one)

    forged(lake, swap)
    found = verified(lake)
    assert len(found) == 2
    assert all("has other rows than the moments of" in line for line in found)


def test_contexts_and_segments_that_do_not_fit_are_found(lake):
    with scratch_lake() as elsewhere:
        lengths = np.array([100, 120])
        values = {HOOKPOINT: synthetic_rows(220, 9, seed=1), OTHER: synthetic_rows(220, 3, seed=2)}
        synthetic_store(elsewhere, values=values, lengths=lengths)
        theirs = elsewhere.artefact(REF)
        for array, expected in [(layout.CONTEXTS, "contexts: 2"), (layout.SEGMENTS, "segments")]:
            with scratch_lake() as copy:
                shutil.copytree(lake.storage.path(), copy.storage.path(), dirs_exist_ok=True)

                def replace(artefact, array=array):
                    shutil.rmtree(artefact.path(array))
                    shutil.copytree(theirs.path(array), artefact.path(array))

                forged(copy, replace)
                assert any(line.startswith(expected) for line in verified(copy))


def test_opening_looks_at_small_files_and_no_shard(lake, monkeypatch):
    artefact = lake.artefact(REF)
    artefact.remove("tokens/c.0")
    ActivationStore.open(lake, "synthetic")
    artefact.remove(layout.VOCABULARY)
    with pytest.raises(DamagedArtefactError, match=r"vocabulary\.parquet: missing"):
        ActivationStore.open(lake, "synthetic")
