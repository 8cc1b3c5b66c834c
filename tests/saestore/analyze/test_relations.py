"""Token, coactivation and neighbour tables against dense brute force in float64."""

from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings as hypothesis_settings, strategies as st

from saestore.analyze.collectors import Coactivation, Tokens
from saestore.analyze.joint import Sampler, drawn
from saestore.analyze.neighbours import Directions, neighbour_rows
from saestore.analyze.relation_loops import together
from saestore.analyze.sort import Firings
from saestore.analyze.survey import _joined
from saestore.dictionaries import SparseDictionary
from saestore.lake import Lake
from saestore.progress import Silent
from saestore.testing.analyses import Planted, plant
from saestore.testing.collectors import (
    CollectorContract,
    planted_block,
    planted_firings,
    planted_scope,
)
from saestore_schemas import tables
from saestore_schemas.analyze import CoactivationSettings, NeighbourSettings, TokenSettings


FEW = TokenSettings(top_k=2, min_n=3)
TOGETHER = CoactivationSettings(rows=120, min_both=2, top_k=3)


def sample_of(planted, folder, settings=TOGETHER, *, pieces=3, room=16):
    scope, firings = planted_scope(planted), planted_firings(planted)
    sampler = Sampler(scope, settings, folder, features=planted.values.shape[1], memory_mib=room)
    cuts = np.linspace(0, len(firings), pieces + 1).astype(int)
    for low, high in pairwise(cuts):
        part = slice(low, high)
        sampler.add(
            Firings(
                firings.feature[part], firings.context[part], firings.position[part],
                firings.value[part],
            )
        )  # fmt: skip
    return sampler.sample()


@pytest.mark.parametrize("room", [0, 16])
def test_working_files_of_a_run_that_was_killed_do_not_show(tmp_path, room):
    planted = plant()
    for name in ("feature", "value"):
        (tmp_path / name).write_bytes(b"left" * 9)
    found = sample_of(planted, tmp_path, room=room).rows
    wanted = sample_of(planted, tmp_path / "empty").rows
    for name in ("ends", "feature", "value", "counts"):
        assert np.array_equal(getattr(found, name), getattr(wanted, name))


class TestTokens(CollectorContract):
    def make(self, scope, *, features):
        del features
        return Tokens(scope, FEW)

    def described(self):
        return tables.TOKEN_STATS


class TestCoactivation(CollectorContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.folder = tmp_path

    def make(self, scope, *, features):
        del features
        seed = next(s for s in range(3) if np.array_equal(plant(seed=s).kept, scope.kept))
        return Coactivation(sample_of(plant(seed=seed), self.folder / str(seed)), TOGETHER)

    def described(self):
        return tables.COACTIVATION


@st.composite
def activations(draw):
    """Sparse codes with ties, silent features, features that always fire, ragged contexts."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    lengths = rng.integers(1, 14, draw(st.integers(1, 30)))
    rows, d_sae = int(lengths.sum()), draw(st.sampled_from([1, 2, 11, 40]))
    values = rng.choice([0.25, 0.5, 1.0, 3.0], (rows, d_sae)).astype(np.float32)
    values[rng.random((rows, d_sae)) > rng.choice([0, 0.1, 0.5, 1], d_sae)] = 0
    kept = rng.random(rows) > 0.15
    values[~kept] = 0
    return Planted(values, rng.integers(0, draw(st.sampled_from([2, 9, 50])), rows), kept, lengths)


def collected(collector, block, size):
    for first in range(0, block.n, size):
        collector.update(block.select(first, min(size, block.n - first)))
    return collector.table().to_pylist()


def brute_tokens(planted, wanted):
    """Lines of `token_stats`."""
    found, rows = [], len(planted.tokens)
    for feature in range(planted.values.shape[1]):
        column = planted.values[:, feature].astype(np.float64)
        density = (column > 0).sum() / max(planted.kept.sum(), 1)
        for shift in (-1, 0, 1):
            values = defaultdict(list)
            for row in np.flatnonzero(column):
                at = row + shift
                if 0 <= at < rows and planted.context[at] == planted.context[row]:
                    values[int(planted.tokens[at])].append(column[row])
            lift = {
                t: len(v) / (planted.kept & (planted.tokens == t)).sum() / density
                for t, v in values.items()
                if shift == 0 and len(v) >= wanted.min_n
            }
            scores = (
                {t: len(v) for t, v in values.items()},
                {t: sum(v) for t, v in values.items()},
                lift,
            )
            chosen = set()
            for score in scores:
                chosen |= set(sorted(score, key=lambda t: (-score[t], t))[: wanted.top_k])
            for token in sorted(chosen, key=lambda t: (-len(values[t]), t)):
                v = values[token]
                found.append((feature, shift, token, len(v), sum(v), max(v)))
    return found


def brute_joint(planted, start, wanted):
    """Lines of `coactivation`, but for float32 columns."""
    inside = planted.kept & (start[planted.context] >= 0)
    values = planted.values[inside].astype(np.float64)
    fires = (values > 0).astype(np.float64)
    n, both, product = inside.sum(), fires.T @ fires, values.T @ values
    counts, found = fires.sum(axis=0), []
    for f in range(values.shape[1]):
        ranked = []
        for o in range(values.shape[1]):
            a, b = counts[f], counts[o]
            if o == f or both[f, o] < wanted.min_both or n in {a, b}:
                continue
            phi = (both[f, o] * n - a * b) / np.sqrt(a * b * (n - a) * (n - b))
            assert phi == pytest.approx(
                np.corrcoef(fires[:, f], fires[:, o])[0, 1], rel=1e-9, abs=1e-12
            )
            ranked.append((-phi, o))
        for rank, (phi, o) in enumerate(sorted(ranked)[: wanted.top_k]):
            found.append((f, o, rank, counts[f], counts[o], both[f, o], n, values[:, f].sum(), product[f, o], -phi))  # fmt: skip
    return found


@given(activations(), st.sampled_from([1, 3, 64]), st.integers(1, 4), st.integers(1, 3))
@hypothesis_settings(max_examples=30)
def test_tokens_are_those_of_brute_force_in_any_blocks(planted, size, top_k, min_n):
    wanted = TokenSettings(top_k=top_k, min_n=min_n)
    lines = collected(Tokens(planted_scope(planted), wanted), planted_block(planted), size)
    assert [tuple(line.values()) for line in lines] == brute_tokens(planted, wanted)


@given(
    activations(),
    st.sampled_from([1, 3, 64]),
    st.integers(1, 200),
    st.integers(1, 5),
    st.integers(1, 3),
)
@hypothesis_settings(max_examples=30)
def test_coactivation_is_that_of_brute_force_in_any_blocks(
    tmp_path_factory, planted, size, rows, top_k, pieces
):
    wanted = CoactivationSettings(rows=rows, top_k=top_k, min_both=2)
    sample = sample_of(planted, tmp_path_factory.getbasetemp() / "sample", wanted, pieces=pieces)
    kept = np.array([planted.kept[planted.context == c].sum() for c in range(len(planted.lengths))])
    rank = planted_scope(planted).shuffle_rank
    drawn_rows = {c: kept[rank < rank[c]].sum() < rows for c in range(len(kept))}
    assert [start >= 0 for start in sample.start] == list(drawn_rows.values())
    lines = collected(Coactivation(sample, wanted), planted_block(planted), size)
    expected = brute_joint(planted, sample.start, wanted)
    assert [tuple(line.values())[:7] for line in lines] == [line[:7] for line in expected]
    for line, (*_, total, product, phi) in zip(lines, expected, strict=True):
        assert line["sum_feature"] == pytest.approx(total, rel=1e-12)
        assert line["sum_product"] == pytest.approx(product, rel=1e-12)
        assert line["phi"] == np.float32(phi)
        a, b, both = line["n_feature"], line["n_other"], line["n_both"]
        assert line["jaccard"] == np.float32(both / (a + b - both))
        assert line["lift"] == np.float32(both * line["n_rows"] / (a * b))


def test_coactivation_is_the_same_in_both_directions(tmp_path):
    planted = plant(contexts=200, d_sae=30)
    wanted = CoactivationSettings(top_k=64)
    lines = collected(
        Coactivation(sample_of(planted, tmp_path, wanted), wanted), planted_block(planted), 4
    )
    known = {(line["feature"], line["other"]): line for line in lines}
    assert len(known) > 300
    for (feature, other), line in known.items():
        mirrored = known[other, feature]
        for name in ("n_both", "n_rows", "sum_product", "jaccard", "lift"):
            assert line[name] == mirrored[name]
        assert line["phi"] == pytest.approx(mirrored["phi"], rel=1e-6)


def test_silent_features_change_no_count_of_the_others(tmp_path):
    wanted = CoactivationSettings(min_both=2, top_k=5)
    sample = sample_of(plant(contexts=90, d_sae=12), tmp_path, wanted)
    here = sample.of(planted_block(plant(contexts=90, d_sae=12)))
    rows = sample.rows
    wide = replace(rows, counts=np.concatenate([rows.counts, np.zeros(10_000, np.int64)]))
    found, among = (together(here, 0, each, top_k=5, min_both=2) for each in (rows, wide))
    assert len(found.other) > 30
    for name, column in vars(found).items():
        np.testing.assert_array_equal(getattr(among, name), column)


def test_contexts_are_left_out_where_pairs_are_too_many(tmp_path):
    planted = plant(contexts=60)
    pairs = (planted.values > 0).sum(axis=1) ** 2
    wanted = CoactivationSettings(pairs=int(pairs.sum()) // 2, min_both=1)
    sample, scope = sample_of(planted, tmp_path, wanted), planted_scope(planted)
    used = sample.start >= 0
    assert 0 < pairs[used[planted.context]].sum() <= wanted.pairs
    assert scope.shuffle_rank[used].max() < scope.shuffle_rank[~used].min()
    lines = collected(Coactivation(sample, wanted), planted_block(planted), 9)
    expected = brute_joint(planted, sample.start, wanted)
    assert [tuple(line.values())[:7] for line in lines] == [line[:7] for line in expected]
    assert drawn(scope, scope.kept_in, 10**9).all()
    mapped = Coactivation(sample_of(planted, tmp_path / "mapped", wanted, room=0), wanted)
    assert collected(mapped, planted_block(planted), 9) == lines


def vectors_with_copies(n, d, *, seed):
    """Random vectors of unequal lengths; some are copies of others, tripled or zero."""
    rng = np.random.default_rng(seed)
    found = rng.normal(size=(n, d)).astype(np.float32) * rng.lognormal(size=(n, 1)).astype(
        np.float32
    )
    found[n // 2] = found[1]
    found[-1] = found[1] * 2
    found[n // 3] = 0
    return found


@pytest.mark.parametrize(("n", "d", "k"), [(2, 1, 3), (11, 7, 3), (11, 7, 20), (300, 13, 20)])
@pytest.mark.parametrize("size", [1, 7, 300])
@pytest.mark.parametrize("narrow", [False, True])
def test_neighbours_are_those_of_brute_force_in_any_blocks(n, d, k, size, narrow, monkeypatch):
    monkeypatch.setattr("saestore.analyze.neighbours._multiplies_bfloat16", lambda _: narrow)
    vectors = vectors_with_copies(n, d, seed=n)
    exact = vectors.astype(np.float64)
    lengths = np.sqrt((exact**2).sum(axis=1))
    expected = []
    for f in range(n):
        others = [o for o in range(n) if o != f and lengths[f] and lengths[o]]
        cosine = {o: np.float32(exact[f] @ exact[o] / (lengths[f] * lengths[o])) for o in others}
        ranked = sorted(others, key=lambda o: (-cosine[o], o))[:k]
        expected += [(f, rank, o, cosine[o]) for rank, o in enumerate(ranked)]
    directions = Directions(torch.from_numpy(vectors))
    found = []
    for first in range(0, n, size):
        found += zip(
            *(x.tolist() for x in directions.nearest(first, min(first + size, n), k=k)), strict=True
        )
    assert [x[:2] for x in found] == [x[:2] for x in expected]
    assert [x[3] for x in found] == pytest.approx([x[3] for x in expected], abs=1.2e-7)
    agree = sum(a[2] == b[2] for a, b in zip(found, expected, strict=True))
    assert agree >= 0.99 * len(found)
    copies = {1, n // 2, n - 1} - {n // 3}
    for f in copies if n > 2 else ():
        firsts = [x[2] for x in found if x[0] == f][: len(copies) - 1]
        assert firsts == sorted(copies - {f})


@pytest.mark.parametrize("narrow", [False, True])
def test_of_many_vectors_that_rounding_does_not_tell_apart_the_nearest_are_found(
    narrow, monkeypatch
):
    monkeypatch.setattr("saestore.analyze.neighbours._multiplies_bfloat16", lambda _: narrow)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(400, 40)).astype(np.float32)
    near = vectors[7] + 1e-3 * rng.normal(size=(250, 40)).astype(np.float32)
    vectors[100:350] = near
    vectors[200:300] = near[0]  # copies, in which the first others are wanted
    exact = vectors.astype(np.float64)
    unit = exact / np.sqrt((exact**2).sum(axis=1, keepdims=True))
    cosines = (unit @ unit.T).astype(np.float32)
    np.fill_diagonal(cosines, -np.inf)
    feature, _, other, score = Directions(torch.from_numpy(vectors)).nearest(0, 400, k=20)
    best = -np.sort(-cosines, axis=1)[:, :20]
    np.testing.assert_allclose(score.reshape(400, 20), best, atol=1.2e-7)
    np.testing.assert_allclose(score, cosines[feature, other], atol=1.2e-7)
    copies = other.reshape(400, 20)[219:300]
    assert (copies == [100, *range(200, 219)]).all()


def test_neighbours_of_a_dictionary_come_sorted_by_feature_and_method(tmp_path, monkeypatch):
    lake = Lake.at(tmp_path)
    folded = planted_dictionary(lake)
    whole = neighbours_of(folded)
    keys = [(r["feature"], r["method"], r["rank"]) for r in whole.to_pylist()]
    assert keys == sorted(keys)
    assert {r["method"] for r in whole.to_pylist()} == {"dec_cos", "enc_cos"}
    monkeypatch.setattr("saestore.analyze.neighbours._COSINES", 22)
    assert neighbours_of(folded).equals(whole)


def neighbours_of(folded):
    pieces = neighbour_rows(folded, NeighbourSettings(top_k=3), progress=Silent())
    import pyarrow as pa

    return pa.concat_tables(pieces).combine_chunks()


def planted_dictionary(lake) -> SparseDictionary:
    from saestore import dictionaries
    from saestore.testing.analyses import synthetic_dictionary
    from saestore.testing.stores import synthetic_store
    from saestore_schemas.dictionary import Relu

    synthetic_dictionary(lake, "a/b", synthetic_store(lake, rows=20), activation=Relu(), d_sae=11)
    return dictionaries.load(lake, "a/b").in_raw_units().eval()


def test_rows_are_joined_inside_one_stretch_of_a_document_only():
    # two contexts: BOS, three rows, two of another document; then one row, a separator, two rows
    parts = np.array(
        [[0, 1, 3, 0, 0, 0], [0, 4, 2, 1, 0, 0], [1, 0, 1, 1, 2, 0], [1, 2, 2, 2, 0, 0]]
    )
    found = _joined(parts, np.array([0, 6]), (0, 10))
    assert found.astype(int).tolist() == [0, 0, 1, 1, 0, 1, 0, 0, 0, 1]
    later = _joined(parts[2:], np.array([0, 6]), (6, 10))
    assert later.tolist() == found[6:].tolist()
