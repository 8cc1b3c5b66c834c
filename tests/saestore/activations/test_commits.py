"""Commits and what is made of them: a run continues at the last, and the store is made of all."""

import re

import numpy as np
import pytest
import zarr
from hypothesis import given, settings, strategies as st

from saestore.activations import (
    ActivationStore,
    Cursor,
    RowBatch,
    Spec,
    StoreWriter,
    layout as stores,
)
from saestore.activations.small import SmallArray
from saestore.errors import DamagedArtefactError
from saestore.lake import Ref, Storage, layout, manifest as manifests
from saestore.lake.lock import writing
from saestore.testing.stores import payload_bytes, scratch_lake, synthetic_vocabulary
from saestore_schemas.activations import StoreRecord, StoreSettings


REF = Ref("activations", "many")
RUN = manifests.Run(REF, {}, ())
WIDTH, SHARD_ROWS = 3, 4
RECORD = StoreRecord(
    dtype="float32",
    store=StoreSettings(chunk_kib=1, shard_mib=SHARD_ROWS * WIDTH * 4 / 2**20),
    lm=None,
    context_size=6,
)
SPEC = Spec({"h": WIDTH}, RECORD)


@pytest.fixture
def lake():
    with scratch_lake() as lake:
        yield lake


def batch(number, rows):
    values = np.random.default_rng(number).normal(size=(rows, WIDTH)).astype(np.float32)
    return RowBatch(
        hooks={"h": values},
        tokens=np.arange(rows, dtype=np.int32),
        flags=np.arange(rows, dtype=np.uint8) % 3 // 2,
        lengths=np.array([rows]),
        segments=np.array([[0, 0, rows, number, 0, 0]]),
        documents=[
            {"document": number, "document_id": str(number), "source": "s", "n_tokens": rows,
             "n_chars": 1, "text": None}
        ],
    )  # fmt: skip


def begin(artefact, *, batches):
    """Write whole shards; the caller holds the lock."""
    manifests.begin(artefact, RUN)
    with StoreWriter(artefact, SPEC) as writer:
        for number in range(batches):
            rows = batch(number, SHARD_ROWS)
            writer.append(rows, Cursor(number, 0), tally={"seen": number})


def append(writer, lengths):
    """Append the batches that are not committed."""
    at = writer.resume or Cursor(0, 0)
    for number in range(at.block + at.batch, len(lengths)):
        writer.append(batch(number, lengths[number]), Cursor(number, 0), tally={})


def written(lake, lengths, *, stops=()):
    """Write a store, giving up and continuing before some of its batches."""
    artefact = lake.artefact(REF)
    with writing(artefact, name="many"):
        manifests.begin(artefact, RUN)
        for stop in stops:
            with StoreWriter(artefact, SPEC) as writer:
                append(writer, lengths[:stop])
        with StoreWriter(artefact, SPEC) as writer:
            append(writer, lengths)
            writer.finish(RUN, vocabulary=synthetic_vocabulary(), facts={})
    return ActivationStore.open(lake, "many")


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=14), st.data())
def test_a_run_that_continues_from_the_last_commit_ends_with_the_same_bytes(lengths, data):
    stops = sorted(data.draw(st.lists(st.integers(0, len(lengths)), max_size=3)))
    with scratch_lake() as lake, scratch_lake() as other:
        whole = written(lake, lengths)
        again = written(other, lengths, stops=stops)
        assert payload_bytes(lake, REF) == payload_bytes(other, REF)
        assert again.manifest.counts == whole.manifest.counts
        kept = [int((batch(n, rows).flags == 0).sum()) for n, rows in enumerate(lengths)]
        assert whole.manifest.counts == {
            "rows": sum(lengths),
            "kept_rows": sum(kept),
            "contexts": len(lengths),
            "segments": len(lengths),
            "documents": len(lengths),
            "shards": -(-sum(lengths) // SHARD_ROWS),
            "shard_rows": SHARD_ROWS,
        }


def test_continuing_reads_one_commit_and_nothing_that_grows(lake, monkeypatch):
    artefact = lake.artefact(REF)
    with writing(artefact, name="many"):
        begin(artefact, batches=40)
        touched = []
        for name in ("read", "exists", "size", "files", "names", "sizes"):
            real = getattr(Storage, name)

            def noted(self, path="", _name=name, _real=real):
                touched.append((_name, path))
                return _real(self, path) if path else _real(self)

            monkeypatch.setattr(Storage, name, noted)
        with StoreWriter(artefact, SPEC) as writer:
            assert (writer.rows, writer.documents) == (40 * SHARD_ROWS, 40)
            assert (writer.resume, writer.tally) == (Cursor(39, 1), {"seen": 39})
    assert [path for name, path in touched if name == "read"] == [layout.commit_file(39)]
    assert not [name for name, _ in touched if name in {"files", "names", "sizes"}]
    assert len(touched) < 20


def test_opening_asks_as_much_of_many_shards_as_of_few(monkeypatch):
    asked = []
    real = Storage.size
    monkeypatch.setattr(Storage, "size", lambda self, path: asked.append(path) or real(self, path))
    counts = set()
    for shards in (1, 30):
        with scratch_lake() as lake:
            store = written(lake, [SHARD_ROWS] * shards)
            asked.clear()
            opened = ActivationStore.open(lake, "many")
            counts.add(len(asked))
            assert opened.documents()["document"].to_pylist() == list(range(shards))
            assert opened.documents().schema == store.documents_schema()
            assert opened.document_part(shards) is None
    assert len(counts) == 1


def test_documents_are_in_order_however_many_digits_their_parts_have(lake, monkeypatch):
    monkeypatch.setattr(layout, "part_file", lambda table, part: f"{table}/part-{part}.parquet")
    assert written(lake, [4] * 12).documents()["document"].to_pylist() == list(range(12))


def finish(artefact):
    with StoreWriter(artefact, SPEC) as writer:
        writer.finish(RUN, vocabulary=synthetic_vocabulary(), facts={})


@pytest.mark.parametrize("shard", [0, 3])
@pytest.mark.parametrize("harm", ["missing", "torn"])
def test_a_finished_shard_that_is_lost_is_missed_when_the_store_is_finished(lake, harm, shard):
    artefact = lake.artefact(REF)
    path = layout.shard_file("hooks/h", shard, ndim=2)
    with writing(artefact, name="many"):
        begin(artefact, batches=4)
        data = artefact.read(path)
        if harm == "missing":
            artefact.remove(path)
        else:
            artefact.write(path, data[:-1])
        said = "missing" if harm == "missing" else f"{len(data) - 1} bytes, expected {len(data)}"
        with pytest.raises(DamagedArtefactError, match=re.escape(f"{path}: {said}")) as error:
            finish(artefact)
        assert "restore these files, or remove" in error.value.hint
        assert not artefact.exists(layout.MANIFEST)
        artefact.write(path, data)
        finish(artefact)
    assert ActivationStore.open(lake, "many").n_rows == 4 * SHARD_ROWS


def test_a_lost_commit_is_missed_when_the_store_is_finished(lake):
    artefact = lake.artefact(REF)
    with writing(artefact, name="many"):
        begin(artefact, batches=4)
        artefact.remove(layout.commit_file(2))
        with pytest.raises(DamagedArtefactError, match=r"00000002\.json: missing"):
            finish(artefact)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 9), max_size=6),
    st.sampled_from([(), (2,), (3, 2)]),
    st.sampled_from(["<i8", "<f4", "<f8"]),
    st.integers(1, 12),
)
def test_small_arrays_are_what_zarr_writes_however_they_come(pieces, tail, dtype, chunk):
    values = np.random.default_rng(0).integers(-9, 9, (sum(pieces), *tail)).astype(dtype)
    names = ("entry", "a", "b")[: values.ndim]
    spec = stores.SmallSpec(values.shape, dtype, names)
    with pytest.MonkeyPatch.context() as patch, scratch_lake() as lake:
        patch.setattr(stores, "CHUNK_CONTEXTS", chunk)
        artefact = lake.artefact(REF)
        listed = stores.write_metadata(artefact, SPEC, 1, {"some/array": spec})
        array = SmallArray(artefact, "some/array", spec)
        for start, stop in zip(np.cumsum([0, *pieces]), np.cumsum(pieces), strict=False):
            array.append(values[start:stop])
        listed |= array.close()
        assert sorted(listed) == artefact.files()
        assert manifests.wrong_sizes(artefact, listed) == []
        read = zarr.open_array(str(artefact.path("some/array")), mode="r")
        assert read.chunks[0] == max(1, min(len(values), chunk))
        np.testing.assert_array_equal(read[...], values)
        files = {path: artefact.read(path) for path in listed if path.startswith("some/array/")}
        np.testing.assert_array_equal(stores.parse_small(files, "some/array"), values)
        assert all(manifests.matches(files[path], listed[path][1]) for path in files)


def test_wide_entries_make_short_chunks():
    assert stores.SmallSpec((10**6, 768), "<f8", ("shard", "d")).chunk_entries == 1365
    assert stores.SmallSpec((10**9, 2), "<i8", ("context", "field")).chunk_entries == 65_536
    assert stores.SmallSpec((3, 768), "<f8", ("shard", "d")).chunk_entries == 3
