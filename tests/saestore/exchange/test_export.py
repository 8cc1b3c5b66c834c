"""Exports and their way back: rows, tokens, flags, contexts are the same on both sides."""

import json
from itertools import pairwise

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given, settings as hypothesis, strategies as st

from saestore.activations import split_contexts
from saestore.errors import ConfigError, HookpointNotFoundError, OverflowRowError
from saestore.exchange import Range, Wanted, export_activations, import_activations
from saestore.exchange.formats import TARGETS
from saestore.exchange.selection import Selection, groups, select
from saestore.lake.manifest import digest_file
from saestore.lake.storage import Storage
from saestore.testing.stores import scratch_lake, synthetic_rows, synthetic_store
from saestore_schemas.exchange import ExportIndex, ImportSettings


HOOKS = ("blocks.1.hook_resid_post", "blocks.1.hook_mlp_out")
SMALL = {"chunk_kib": 1, "shard_mib": 0.01}


@pytest.fixture
def lake():
    with scratch_lake() as lake:
        yield lake


def ragged(lake, lengths, *, dtype="float32", name="s", flags=None, width=7):
    rows = int(sum(lengths))
    values = {
        hook: synthetic_rows(rows, width + n, seed=1, hookpoint=hook)
        for n, hook in enumerate(HOOKS)
    }
    return synthetic_store(
        lake, name, values=values, dtype=dtype, lengths=np.array(lengths, np.int64), flags=flags,
        norm_scale=np.linspace(0.5, 90, rows, dtype=np.float32),
    )  # fmt: skip


def back(lake, kind, folder, name="back", **more):
    given = {"name": name, "source": {"kind": kind, "path": str(folder)}, "store": SMALL, **more}
    return import_activations(ImportSettings.model_validate(given), lake)


def same_rows(one, other):
    assert one.contexts().tolist() == other.contexts().tolist()
    np.testing.assert_array_equal(one.tokens(), other.tokens())
    np.testing.assert_array_equal(one.flags(), other.flags())
    assert set(one.hookpoints) == set(other.hookpoints)
    for hook in one.hookpoints:
        np.testing.assert_array_equal(
            one.read(hook, 0, one.n_rows), other.read(hook, 0, other.n_rows)
        )


some_lengths = st.lists(st.integers(1, 12), min_size=1, max_size=20)


@given(
    some_lengths, st.sampled_from(["float32", "float16", "bfloat16"]), st.integers(1, 40),
    st.integers(0, 9),
)  # fmt: skip
@hypothesis(max_examples=8, deadline=None)
def test_safetensors_and_back_is_the_same_store(tmp_path_factory, lengths, dtype, mib, seed):
    folder = tmp_path_factory.mktemp("out") / "x"
    flags = np.random.default_rng(seed).integers(0, 4, sum(lengths)).astype(np.uint8)
    with scratch_lake() as lake:
        store = ragged(lake, lengths, dtype=dtype, flags=flags)
        report = export_activations(store, folder, Wanted(file_mib=mib * 100 / 2**20))
        again = back(lake, "safetensors", folder)
        same_rows(store, again)
        assert again.record.dtype == dtype
        np.testing.assert_array_equal(store.segments(), again.segments())
        assert store.documents().equals(again.documents())
        assert store.vocabulary().equals(again.vocabulary())
        assert again.record.lm == store.record.lm
        np.testing.assert_array_equal(
            store.captured("final_norm_scale"), again.captured("final_norm_scale")
        )
        assert again.manifest.facts["imported"]["max_error"] == 0.0
        assert report.rows == store.n_rows


def test_int8_goes_out_as_the_float32_it_stands_for(tmp_path, lake):
    store = ragged(lake, [3, 8, 2], dtype="int8")
    assert export_activations(store, tmp_path / "out", Wanted()).dtype == "float32"
    again = back(lake, "safetensors", tmp_path / "out")
    same_rows(store, again)
    assert again.record.dtype == "float32"
    for form in ("parquet", "llamascopium"):
        wanted = Wanted(files_are=form)
        assert export_activations(store, tmp_path / form, wanted).dtype == "float32"


@given(some_lengths, st.sampled_from(["float32", "float16", "bfloat16"]), st.integers(1, 40))
@hypothesis(max_examples=6, deadline=None)
def test_llamascopium_chunks_and_back_are_the_same_rows(tmp_path_factory, lengths, dtype, mib):
    folder = tmp_path_factory.mktemp("out") / "x"
    with scratch_lake() as lake:
        store = ragged(lake, lengths, dtype=dtype)
        wanted = Wanted(files_are="llamascopium", file_mib=mib * 100 / 2**20)
        export_activations(store, folder, wanted)
        again = back(lake, "llamascopium", folder)
        same_rows(store, again)
        ids = again.documents().column("document_id").to_pylist()
        assert ids == [str(n) for n in range(len(lengths))]


@given(some_lengths, st.integers(1, 30))
@hypothesis(deadline=None)
def test_groups_hold_every_context_once_and_keep_their_bound(lengths, rows):
    table = np.stack([np.cumsum([0, *lengths])[:-1], lengths], axis=1).astype(np.int64)
    numbers = np.arange(len(lengths))
    selection = Selection(numbers, table, np.zeros((0, 6), np.int64), pa.table({}))
    found = groups(selection, rows=rows)
    assert [g.start for g in found[1:]] == [g.stop for g in found[:-1]]
    assert (found[0].start, found[-1].stop) == (0, len(lengths))
    assert all(g.rows <= rows or g.stop - g.start == 1 for g in found)
    order = [row for g in found for run in g.runs(at_once=3) for row in range(*run)]
    assert order == list(range(sum(lengths)))


def test_ranges_and_splits_choose_whole_contexts(tmp_path, lake):
    lengths = [5, 3, 8, 1, 1, 6, 4, 9, 2, 7]
    store = ragged(lake, lengths)
    starts = np.cumsum([0, *lengths])[:-1]

    def chosen(**wanted):
        return select(store, **wanted).contexts.tolist()

    assert chosen(contexts=Range(2, 5)) == [2, 3, 4]
    assert chosen(contexts=Range(8)) == [8, 9]
    cuts = [0, 1, 7, 20, sum(lengths)]
    parts = [chosen(rows=Range(a, b)) for a, b in pairwise(cuts)]
    assert [n for part in parts for n in part] == list(range(10))
    assert parts[2] == [n for n in range(10) if 7 <= starts[n] < 20]
    held = chosen(split="held_out", held_out=0.4)
    assert held == np.flatnonzero(split_contexts(10, "held_out", 0.4)).tolist()
    assert sorted(held + chosen(split="train", held_out=0.4)) == list(range(10))
    with pytest.raises(ConfigError, match="nothing is chosen") as caught:
        chosen(contexts=Range(10))
    assert "10 contexts (46 rows)" in caught.value.expected


def test_a_part_comes_back_with_its_documents_renumbered(tmp_path, lake):
    store = ragged(lake, [5, 3, 8, 1, 1, 6])
    export_activations(store, tmp_path / "x", Wanted(contexts=Range(2, 5)))
    again = back(lake, "safetensors", tmp_path / "x")
    np.testing.assert_array_equal(again.read(HOOKS[0], 0, 10), store.read(HOOKS[0], 8, 18))
    assert again.documents().column("document_id").to_pylist() == [
        "document-2", "document-3", "document-4",
    ]  # fmt: skip
    assert again.documents().column("shelf").to_pylist() == ["A", "B", "A"]
    assert again.segments()[:, 3].tolist() == [0, 1, 2]
    index = json.loads((tmp_path / "x" / "index.json").read_text())
    assert index["first_context"] == 2


def test_the_files_are_what_the_library_reads(tmp_path, lake):
    store = ragged(lake, [5, 3, 8], dtype="bfloat16")
    export_activations(store, tmp_path / "x", Wanted(hookpoints=(HOOKS[1],)))
    found = safetensors.torch.load_file(tmp_path / "x" / "chunk-00000.safetensors")
    assert set(found) == {HOOKS[1], "final_norm_scale", "tokens", "flags", "contexts", "segments"}
    assert found[HOOKS[1]].dtype == torch.bfloat16
    np.testing.assert_array_equal(found[HOOKS[1]].float().numpy(), store.read(HOOKS[1], 0, 16))
    assert found["contexts"].tolist() == [[0, 5], [5, 3], [8, 8]]
    with safetensors.safe_open(tmp_path / "x" / "chunk-00000.safetensors", "pt") as file:
        assert file.get_slice(HOOKS[1])[3:5].shape == (2, 8)
    index = ExportIndex.model_validate_json((tmp_path / "x" / "index.json").read_bytes())
    for each in index.files:
        assert digest_file(Storage.at(tmp_path / "x"), each.path) == (each.bytes, each.checksum)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_parquet_is_read_alike_by_arrow_polars_and_duckdb(tmp_path, lake, dtype):
    lengths = [5, 3, 8, 1, 6]
    store = ragged(lake, lengths, dtype=dtype)
    wanted = Wanted(files_are="parquet", file_mib=600 / 2**20, contexts=Range(1))
    report = export_activations(store, tmp_path / "x", wanted)
    assert report.dtype == ("float16" if dtype == "float16" else "float32")
    assert report.files > 2
    files = str(tmp_path / "x" / "part-*.parquet")
    frame = pl.read_parquet(files)
    arrow = pq.read_table(sorted((tmp_path / "x").glob("part-*.parquet")))
    duck = duckdb.sql(f'SELECT "{HOOKS[0]}" AS v FROM \'{files}\' ORDER BY "row"').fetchall()
    expected = store.read(HOOKS[0], 5, 23)
    np.testing.assert_array_equal(frame[HOOKS[0]].to_numpy(), expected)
    np.testing.assert_array_equal(np.array(arrow.column(HOOKS[0]).to_pylist()), expected)
    np.testing.assert_array_equal(np.array([row[0] for row in duck], np.float32), expected)
    assert frame["row"].to_list() == list(range(5, 23))
    assert frame["context"].to_list() == np.repeat(np.arange(1, 5), lengths[1:]).tolist()
    assert frame["position"].to_list() == [p for n in lengths[1:] for p in range(n)]
    assert frame["token_id"].to_list() == store.tokens(5, 23).tolist()
    names = store.vocabulary().column("token").to_pylist()
    assert frame["token"].to_list() == [names[token] for token in store.tokens(5, 23)]
    assert frame["special"].to_list() == [p == 0 for n in lengths[1:] for p in range(n)]
    assert frame["document_id"].to_list() == [
        f"document-{c}" if p else None for c, n in enumerate(lengths[1:], 1) for p in range(n)
    ]
    assert not frame["ignored"].any()
    scale = store.captured("final_norm_scale", 5, 23)
    np.testing.assert_array_equal(frame["final_norm_scale"].to_numpy(), scale)


def test_float16_is_refused_where_it_would_overflow(tmp_path, lake):
    values = {HOOKS[0]: np.full((4, 2), 7e4, np.float32)}
    store = synthetic_store(lake, values=values)
    with pytest.raises(OverflowRowError, match="do not fit float16"):
        export_activations(store, tmp_path / "x", Wanted(dtype="float16"))
    with pytest.raises(ConfigError, match="bfloat16") as caught:
        export_activations(store, tmp_path / "y", Wanted(files_are="parquet", dtype="bfloat16"))
    assert not (tmp_path / "y").exists()
    assert "parquet files can hold" in caught.value.expected


def test_an_earlier_export_is_replaced_and_anything_else_is_not_touched(tmp_path, lake):
    store = ragged(lake, [5, 3, 8])
    export_activations(store, tmp_path / "x", Wanted(file_mib=200 / 2**20))
    assert len(list((tmp_path / "x").glob("chunk-*"))) == 3
    export_activations(store, tmp_path / "x", Wanted())
    names = sorted(each.name for each in (tmp_path / "x").iterdir())
    assert names == [
        "chunk-00000.safetensors", "documents.parquet", "index.json", "vocabulary.parquet",
    ]  # fmt: skip
    first = {name: (tmp_path / "x" / name).read_bytes() for name in names}
    export_activations(store, tmp_path / "x", Wanted())
    assert {name: (tmp_path / "x" / name).read_bytes() for name in names} == first
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.json").write_text("{}")
    for folder, text in ((tmp_path / "mine", "no index of ours"), (tmp_path, "are no export")):
        with pytest.raises(ConfigError, match=text):
            export_activations(store, folder, Wanted())
    assert (tmp_path / "mine" / "index.json").read_text() == "{}"


def test_an_export_that_was_stopped_is_no_export_and_is_begun_anew(tmp_path, lake, monkeypatch):
    store = ragged(lake, [5, 3, 8])
    write = type(TARGETS["safetensors"]).write

    def stopped(self, job, number, group):
        if number:
            raise KeyboardInterrupt
        return write(self, job, number, group)

    with monkeypatch.context() as patch:
        patch.setattr(type(TARGETS["safetensors"]), "write", stopped)
        with pytest.raises(KeyboardInterrupt):
            export_activations(store, tmp_path / "x", Wanted(file_mib=200 / 2**20))
    assert not (tmp_path / "x" / "index.json").exists()
    export_activations(store, tmp_path / "x", Wanted())
    same_rows(store, back(lake, "safetensors", tmp_path / "x"))


def test_a_damaged_export_is_not_imported(tmp_path, lake):
    store = ragged(lake, [5, 3, 8])
    export_activations(store, tmp_path / "x", Wanted(file_mib=200 / 2**20))
    (tmp_path / "x" / "chunk-00001.safetensors").unlink()
    with pytest.raises(ConfigError, match="has no bytes, and index"):
        back(lake, "safetensors", tmp_path / "x")


def test_an_unknown_hookpoint_is_named(tmp_path, lake):
    with pytest.raises(HookpointNotFoundError, match="hook_resid_pots"):
        export_activations(
            ragged(lake, [3]), tmp_path, Wanted(hookpoints=("blocks.1.hook_resid_pots",))
        )


@pytest.mark.parametrize("text", ["5", "a:b", "5:5", "9:2", "-1:3", ""])
def test_a_range_that_is_none(text):
    with pytest.raises(ConfigError, match="contexts: found"):
        Range.parse(text, field="contexts")


def test_ranges():
    assert Range.parse("2:7", field="x") == Range(2, 7)
    assert Range.parse(":7", field="x") == Range(0, 7)
    assert Range.parse(":", field="x") == Range(0, None)
