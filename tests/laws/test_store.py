"""Laws of a store that hold whatever its rows and however they arrive."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st

from saestore.activations import (
    ActivationStore,
    Cursor,
    Moments,
    RowBatch,
    Spec,
    StoreWriter,
    commits,
    moments,
)
from saestore.activations.moments import norm_edges
from saestore.errors import ArtefactBusyError
from saestore.lake import Ref, layout, manifest as manifests
from saestore.testing.stores import payload_bytes, scratch_lake, synthetic_vocabulary
from saestore_schemas.activations import StoreSettings
from saestore_schemas.corpus import CorpusSettings, StdlibSource
from saestore_schemas.generate import GenerateSettings
from saestore_schemas.lm import LmSettings


REF = Ref("activations", "a")
HOOKS = {"blocks.0.hook_resid_post": 5, "blocks.0.attn.hook_z": 3}


class Killed(BaseException):
    """Stands for the end of the process."""


def settings_of(shard_rows, dtype="float32"):
    size = 4 if dtype == "float32" else 2
    return GenerateSettings(
        name="a",
        lm=LmSettings(model="synthetic"),
        corpus=CorpusSettings(sources=(StdlibSource(),)),
        hookpoints=tuple(HOOKS),
        dtype=dtype,
        store=StoreSettings(chunk_kib=1, shard_mib=shard_rows * 5 * size / 2**20),
    )


def batches_of(lengths, *, per_batch, per_block, seed=0):
    """Batches with their places, as a corpus would give them; documents come once a block."""
    rng = np.random.default_rng(seed)
    given_batches = []
    documents = 0
    for number, start in enumerate(range(0, len(lengths), per_batch)):
        these = np.array(lengths[start : start + per_batch], np.int64)
        rows = int(these.sum())
        at = Cursor(number // per_block, number % per_block)
        fresh = [_document(documents + i) for i in range(3)] if at.batch == 0 else []
        documents += len(fresh)
        index = np.arange(len(these))
        zero = np.zeros_like(index)
        given_batches.append(
            (
                at,
                RowBatch(
                    hooks={
                        name: rng.normal(3.0, 2.0, (rows, width)).astype(np.float32)
                        for name, width in HOOKS.items()
                    },
                    tokens=rng.integers(0, 50, rows).astype(np.int32),
                    flags=(rng.random(rows) < 0.2).astype(np.uint8),
                    lengths=these,
                    segments=np.stack(
                        [index, zero, these, zero + documents - 1, zero, zero], axis=1
                    ),
                    documents=fresh,
                ),
            )
        )
    return given_batches


def _document(number):
    return {
        "document": number, "document_id": str(number), "source": "s", "n_tokens": 1, "n_chars": 1,
        "text": None,
    }  # fmt: skip


def write(lake, settings, batches, *, stop_at=None):
    """Write or continue a store; `stop_at` is how many chunks this attempt survives."""
    artefact = lake.artefact(REF)
    run = manifests.Run.of(REF, settings)
    commits.clear(artefact)
    assert manifests.begin(artefact, run) is None
    with StoreWriter(artefact, Spec(HOOKS, settings.record())) as writer:
        if stop_at is not None:
            _stop(writer, stop_at)
        resume = writer.resume
        for at, batch in batches:
            if resume is not None and (at.block, at.batch) < (resume.block, resume.batch):
                continue
            writer.append(batch, at, tally={"seen": at.batch})
        writer.finish(run, vocabulary=synthetic_vocabulary(), facts={})
    return ActivationStore.open(lake, "a")


def _stop(writer, chunks):
    left = [chunks]
    for each in writer._arrays.values():
        original = each._flush

        def flush(rows, original=original):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            original(rows)

        each._flush = flush


contexts = st.lists(st.integers(1, 40), min_size=1, max_size=25)
shapes = {
    "lengths": contexts,
    "per_batch": st.integers(1, 4),
    "per_block": st.integers(1, 5),
    "shard_rows": st.sampled_from([1, 8, 32, 128]),
}


@settings(max_examples=25, deadline=None)
@given(**shapes, kills=st.lists(st.integers(0, 40), max_size=3), dtype=st.sampled_from(
    ["float32", "float16", "bfloat16"]))  # fmt: skip
def test_killed_and_resumed_is_uninterrupted(kills, dtype, shard_rows, **shape):
    batches = batches_of(**shape)
    plan = settings_of(shard_rows, dtype)
    with scratch_lake() as whole, scratch_lake() as broken:
        write(whole, plan, batches)
        for stop_at in kills:
            try:
                write(broken, plan, batches, stop_at=stop_at)
            except Killed:
                assert not list(broken.artefact(REF).path().rglob(".tmp-*"))
                continue
            break
        else:
            write(broken, plan, batches)
        assert payload_bytes(broken, REF) == payload_bytes(whole, REF)


@settings(max_examples=25, deadline=None)
@given(**shapes, other=st.integers(1, 6))
def test_how_rows_are_batched_leaves_no_trace(lengths, per_batch, per_block, shard_rows, other):
    plan = settings_of(shard_rows)
    batches = batches_of(lengths, per_batch=per_batch, per_block=10**9)
    rows = {n: np.concatenate([b.hooks[n] for _, b in batches]) for n in HOOKS}
    tokens = np.concatenate([b.tokens for _, b in batches])
    flags = np.concatenate([b.flags for _, b in batches])
    again = []
    for number, start in enumerate(range(0, len(lengths), other)):
        these = np.array(lengths[start : start + other], np.int64)
        first = sum(lengths[:start])
        here = slice(first, first + int(these.sum()))
        index = np.arange(len(these))
        zero = np.zeros_like(index)
        again.append(
            (
                Cursor(0, number),
                RowBatch(
                    hooks={n: v[here] for n, v in rows.items()},
                    tokens=tokens[here],
                    flags=flags[here],
                    lengths=these,
                    segments=np.stack([index, zero, these, zero + 2, zero, zero], axis=1),
                    documents=[_document(i) for i in range(3)] if number == 0 else [],
                ),
            )
        )
    with scratch_lake() as one, scratch_lake() as two:
        store = write(one, plan, batches)
        write(two, plan, again)
        assert payload_bytes(one, REF) == payload_bytes(two, REF)
        for name, values in rows.items():
            assert np.array_equal(store.read(name, 0, len(values)), values)
        assert np.array_equal(store.tokens(), tokens)
        assert np.array_equal(store.flags(), flags)
        assert store.contexts()[:, 1].tolist() == lengths
        assert store.segments()[:, 0].tolist() == list(range(len(lengths)))
        assert store.documents()["document"].to_pylist() == [0, 1, 2]


@settings(max_examples=25, deadline=None)
@given(**shapes)
def test_moments_are_numpy_s_over_the_kept_rows(shard_rows, **shape):
    batches = batches_of(**shape)
    with scratch_lake() as lake:
        store = write(lake, settings_of(shard_rows, "bfloat16"), batches)
        kept = store.flags() == 0
        for name, width in HOOKS.items():
            rows = store.read(name, 0, store.n_rows)[kept].astype(np.float64)
            moments = store.moments(name)
            assert moments.count == len(rows) == store.manifest.counts["kept_rows"]
            if not len(rows):
                assert np.isnan(moments.trace_cov)
                assert np.isinf(moments.min).all()
                continue
            assert_close(moments.mean, rows.mean(0))
            assert_close(moments.variance, rows.var(0))
            assert_close(moments.trace_cov, rows.var(0).sum())
            assert_close(moments.mean_norm, np.linalg.norm(rows, axis=1).mean())
            assert_close(moments.mean_sq_norm, (rows**2).sum(1).mean())
            assert np.array_equal(moments.min, rows.min(0))
            assert np.array_equal(moments.max, rows.max(0))
            assert moments.mean.shape == (width,)


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 400), max_size=6),
    shift=st.sampled_from([0.0, 100.0, -1e6]),
    first=st.sampled_from([1, 7, 1 << 17]),
    seed=st.integers(0, 99),
)
def test_moments_merge_to_the_same_whatever_the_split(cuts, shift, seed, first):
    rows = (np.random.default_rng(seed).normal(shift, 1.0, (400, 3))).astype(np.float32)
    rows[:: 1 + seed % 5] *= 10.0 ** (seed % 3)  # a few rows are far longer, as residual streams'
    total = Moments.none(3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moments, "_FIRST", first)
        for piece in np.split(rows, sorted(cuts)):
            total = total.merge(Moments.of(piece))
    exact = rows.astype(np.longdouble)
    assert total.count == 400
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    clipped = np.clip(norms, norm_edges()[0], norm_edges()[-2])
    assert np.array_equal(total.norms, np.histogram(clipped, norm_edges())[0])
    if norms.max() < norm_edges()[-2]:  # the last bin is open
        below, above = total.norm_quantile(0.5) * np.array([2 ** (-1 / 8), 2 ** (1 / 8)])
        assert below <= np.sort(norms)[199] <= above
    np.testing.assert_allclose(total.mean, exact.mean(0).astype(float), rtol=1e-12)
    # A mean of `shift` can only be known to its own rounding, beside a deviation of 1.
    rtol = max(1e-12, 4 * np.finfo(float).eps * abs(shift))
    np.testing.assert_allclose(total.m2, (400 * exact.var(0)).astype(float), rtol=rtol)


def test_a_shard_is_committed_once():
    with scratch_lake() as lake:
        write(lake, settings_of(8), batches := batches_of([20], per_batch=1, per_block=1))
        lake.artefact(REF).remove(layout.MANIFEST)
        artefact = lake.artefact(REF)
        first = StoreWriter(artefact, Spec(HOOKS, settings_of(8).record()))
        second = StoreWriter(artefact, Spec(HOOKS, settings_of(8).record()))
        with first, second:
            first.append(batches[0][1], Cursor(0, 0), tally={})
            with pytest.raises(ArtefactBusyError, match="shard 0"):
                second.append(batches[0][1], Cursor(0, 0), tally={})


def test_metadata_columns_of_documents_keep_their_types():
    with scratch_lake() as lake:
        plan = settings_of(8)
        artefact = lake.artefact(REF)
        run = manifests.Run.of(REF, plan)
        manifests.begin(artefact, run)
        columns = pa.schema([("year", pa.int64()), ("tags", pa.list_(pa.string()))])
        ((at, batch),) = batches_of([3], per_batch=1, per_block=1)
        documents = [d | {"year": 1999, "tags": ["a"]} for d in batch.documents]
        with StoreWriter(artefact, Spec(HOOKS, plan.record()), metadata=columns) as writer:
            writer.append(RowBatch(**(vars(batch) | {"documents": documents})), at, tally={})
            late = [_document(3) | {"year": None, "tags": []}]
            writer.finish(run, vocabulary=synthetic_vocabulary(), facts={}, documents=late)
        table = ActivationStore.open(lake, "a").documents()
        assert table.schema.field("year").type == pa.int64()
        assert table["tags"].to_pylist() == [["a"], ["a"], ["a"], []]
        assert table["document"].to_pylist() == [0, 1, 2, 3]
