"""A scattered copy: the same rows elsewhere, for training; its order leads back."""

import numpy as np
import pytest

from saestore.activations import ActivationStore, ActivationStream, commits, verify
from saestore.activations.neighbours import meetings
from saestore.activations.scatter import permutation, scatter
from saestore.errors import (
    ArtefactExistsError,
    DamagedArtefactError,
    IncompleteArtefactError,
    UnsupportedError,
)
from saestore.lake import Ref
from saestore.lake.lineage import ancestors
from saestore.progress import Recorder
from saestore.testing.stores import HOOKPOINT, payload_bytes, scratch_lake, synthetic_store
from saestore_schemas.activations import StoreSettings
from saestore_schemas.scatter import ScatterSettings


REF = Ref("activations", "copy")
SMALL = StoreSettings(chunk_kib=1, shard_mib=0.005)
SETTINGS = ScatterSettings(name="copy", store="synthetic", seed=3)


class Killed(BaseException):
    """Stands for the end of the process: nobody catches it."""


@pytest.fixture
def lake():
    with scratch_lake() as lake:
        yield lake


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_the_copy_holds_the_rows_where_its_order_says(lake, dtype):
    hookpoints = (HOOKPOINT, "blocks.0.x")
    scale = np.linspace(0.5, 9, 1200, dtype=np.float32)
    store = synthetic_store(
        lake, rows=1200, dtype=dtype, store=SMALL, hookpoints=hookpoints, norm_scale=scale
    )
    copy = scatter(SETTINGS, lake)
    order = copy.order()
    size = store.spec.shard_rows
    assert store.n_rows > 2 * size
    for shard, first in enumerate(range(0, store.n_rows, size)):
        here = order[first : first + size]
        assert np.array_equal(here, first + permutation(len(here), shard, seed=3))
        assert (here != np.arange(first, first + len(here))).mean() > 0.9
    for name in store.hookpoints:
        assert np.array_equal(copy.read(name, 0, 1200), store.read(name, 0, 1200)[order])
        found, expected = copy.moments(name), store.moments(name)
        assert found.count == expected.count
        np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12)
        np.testing.assert_allclose(found.m2, expected.m2, rtol=1e-12)
    assert np.array_equal(copy.tokens(), store.tokens()[order])
    assert np.array_equal(copy.flags(), store.flags()[order])
    assert np.array_equal(copy.captured("final_norm_scale"), scale[order])
    for split in ("all", "train", "held_out"):
        assert np.array_equal(copy.kept(split, 0.3), store.kept(split, 0.3)[order])
    assert copy.documents().equals(store.documents())
    assert copy.vocabulary().equals(store.vocabulary())
    assert verify.damage(lake, "copy") == []
    assert [node.ref.name for node in ancestors(lake, REF).parents] == ["synthetic"]


def test_the_stream_delivers_the_rows_of_the_original(lake):
    store = synthetic_store(lake, store=SMALL)
    copy = scatter(SETTINGS, lake)

    def epoch(of):
        stream = ActivationStream(
            of, [HOOKPOINT], batch_rows=50, seed=0, split="train", held_out=0.2
        )
        batches = [
            next(stream)[HOOKPOINT].numpy().copy() for _ in range(stream.rows_per_epoch // 50)
        ]
        return np.concatenate(batches)

    def rows(values):
        return {row.tobytes() for row in values}

    kept = rows(store.read(HOOKPOINT, 0, store.n_rows)[store.kept("train", 0.2)])
    found = epoch(copy)
    assert len(rows(found)) == len(found)
    assert rows(found) <= kept


def test_contexts_are_refused_with_the_name_of_the_original(lake):
    synthetic_store(lake, store=SMALL)
    copy = scatter(SETTINGS, lake)
    with pytest.raises(UnsupportedError, match="scattered copy") as error:
        copy.contexts()
    assert "synthetic" in error.value.hint
    with pytest.raises(UnsupportedError, match="scattered copy itself") as error:
        scatter(ScatterSettings(name="again", store="copy"), lake)
    assert "synthetic" in error.value.hint


def test_a_row_meets_few_rows_of_its_context_in_a_unit(lake):
    store = synthetic_store(lake, rows=40_000, width=4, context_size=100, store=StoreSettings(
        chunk_kib=1, shard_mib=16_384 * 16 / 2**20))  # fmt: skip
    copy = scatter(SETTINGS, lake)
    unit = 64
    own, total = meetings(copy, copy.context_table(), unit_rows=unit)
    before = meetings(store, store.contexts(), unit_rows=unit)
    assert total == before[1]
    contexts = copy.row_contexts()
    met = [
        sum(count * (count - 1) for count in np.unique(part, return_counts=True)[1])
        for part in np.split(contexts, range(unit, len(contexts), unit))
    ]
    assert own == pytest.approx(sum(met) / len(contexts), rel=0.1)
    assert own < 1 < before[0]


@pytest.mark.parametrize("after", [0, 1, 2])
def test_killed_it_ends_with_the_same_bytes(lake, monkeypatch, after):
    synthetic_store(lake, store=SMALL)
    with scratch_lake() as other:
        synthetic_store(other, store=SMALL)
        scatter(SETTINGS, other)
        whole = payload_bytes(other, REF)
    write = commits.write

    def interrupted(artefact, commit):
        if commit.shard == after:
            raise Killed
        write(artefact, commit)

    with monkeypatch.context() as patch:
        patch.setattr(commits, "write", interrupted)
        with pytest.raises(Killed):
            scatter(SETTINGS, lake)
    with pytest.raises(IncompleteArtefactError):
        ActivationStore.open(lake, "copy")
    heard = Recorder()
    scatter(SETTINGS, lake, progress=heard)
    assert any("resuming" in note for note in heard.notes) == (after > 0)
    assert payload_bytes(lake, REF) == whole
    again = Recorder()
    scatter(SETTINGS, lake, progress=again)
    assert again.notes == ["activations copy: finished already"]
    with pytest.raises(ArtefactExistsError, match="seed: 3 → 4"):
        scatter(ScatterSettings(name="copy", store="synthetic", seed=4), lake)


@pytest.mark.parametrize("name", ["order/c.1", f"hooks/{HOOKPOINT}/c.0.0"])
def test_damage_is_found(lake, name):
    synthetic_store(lake, store=SMALL)
    scatter(SETTINGS, lake)
    path = lake.artefact(REF).path(name)
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    assert any(name in line for line in verify.damage(lake, "copy"))


def test_a_damaged_original_is_not_copied(lake):
    synthetic_store(lake, store=SMALL)
    path = lake.artefact(Ref("activations", "synthetic")).path(f"hooks/{HOOKPOINT}/c.1.0")
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedArtefactError, match="crc32c"):
        scatter(SETTINGS, lake)
