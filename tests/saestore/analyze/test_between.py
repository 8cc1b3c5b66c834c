"""Between dictionaries and analyses: planted copies are found, noise is not, sums are brute force's."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from saestore import analyze
from saestore.activations import ActivationStore
from saestore.analyze.between import correlation, diff, match
from saestore.analyze.between.correlation import correlate
from saestore.analyze.between.match import Null
from saestore.analyze.between.rows import Codes
from saestore.errors import ArtefactNotFoundError, ConfigError, UnsupportedError
from saestore.lake import Lake
from saestore.testing.analyses import plant, planted_analysis, synthetic_dictionary
from saestore.testing.stores import synthetic_store
from saestore_schemas.analyze import AnalyzeSettings, TopSubsample
from saestore_schemas.dictionary import Relu


N = 9
ORDER = np.array([4, 2, 8, 0, 6, 1, 5, 3, 7])
LEAN = {
    "logits": None, "coactivation": None, "neighbours": None, "subsamples": {"top": TopSubsample(n=1)},
}  # fmt: skip


def settings(dictionary, **changes):
    return AnalyzeSettings(dictionary=dictionary, **LEAN, **changes)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store of 18 dimensions, the first 9 with everything that goes wrong, the others noise.

    `p/copy` has the features of `p/one` in another order, `p/noise` fires on its own.
    """
    lake = Lake.at(tmp_path_factory.mktemp("between") / "lake")
    known = plant(seed=3, contexts=60)
    rng = np.random.default_rng(5)
    noise = rng.lognormal(size=(len(known.tokens), N)).astype(np.float32)
    noise[rng.random(noise.shape) > 0.3] = 0
    noise[~known.kept] = 0
    both = replace(known, values=np.concatenate([known.values, noise], axis=1))
    planted_analysis(lake, planted=both, settings=settings("planted/relu"))
    store = ActivationStore.open(lake, "planted")
    eye = torch.eye(2 * N)
    for name, columns in (("one", np.arange(N)), ("copy", ORDER), ("noise", np.arange(N, 2 * N))):
        weights = eye[:, columns]
        scale = torch.linspace(1, 2, N) if name == "copy" else torch.ones(N)
        synthetic_dictionary(
            lake,
            f"p/{name}",
            store,
            activation=Relu(),
            encoder=weights,
            decoder=(weights * scale).T,
        )
        analyze.run(settings(f"p/{name}"), lake, device="cpu")
    return lake, both


def by(found):
    return {each.method: each for each in found.methods}


def columns(found, method):
    rows = [row for row in found.table.to_pylist() if row["method"] == method]
    assert [row["feature"] for row in rows] == list(range(found.features[0]))
    return rows


def test_a_permuted_copy_is_found_exactly(made):
    lake, known = made
    found = match("p/one/default", "p/copy/default", lake, draws=2, device="cpu")
    place = np.argsort(ORDER)
    assert found.features == (N, N)
    assert found.facts["rows"] == known.kept.sum()
    assert found.agreeing == N - 1  # all but the dead one
    for method in ("dec_cos", "pearson", "phi"):
        for row in columns(found, method):
            feature = row["feature"]
            if method != "dec_cos" and feature in {0, 1} and (feature == 0 or method == "phi"):
                # one never fires, one always does: nothing to correlate
                assert (row["other"], row["score"], row["p"], row["paired"]) == (None,) * 4
                assert not row["mutual"]
                continue
            assert row["score"] == pytest.approx(1, abs=1e-12)
            assert row["mutual"]
            assert (row["other"], row["paired"]) == (place[feature], place[feature])
            assert row["paired_score"] == pytest.approx(1, abs=1e-6)
    again = match("p/one/default", "p/copy/default", lake, draws=2, device="cpu")
    assert again.table == found.table


def brute(a, b):
    """Pearson's correlation of every two columns; NaN of one that never changes."""
    a, b = (x.astype(np.float64) for x in (a, b))
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a.T @ b) / np.outer(np.linalg.norm(a, axis=0), np.linalg.norm(b, axis=0))


def of_dense(values, rows=None):
    feature, row = np.nonzero(values.T)
    counts = np.bincount(feature, minlength=values.shape[1])
    ends = np.concatenate([[0], np.cumsum(counts)])
    return Codes(ends, row, values[row, feature], rows or len(values))


@pytest.mark.parametrize("seed", range(4))
def test_correlations_are_brute_force(seed, monkeypatch):
    monkeypatch.setattr(correlation, "_A_THREAD", 4)  # several threads
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    rng = np.random.default_rng(seed)
    rows, n, m = 57, 23, 40
    sides = []
    for width in (n, m):
        values = rng.lognormal(size=(rows, width)).astype(np.float32)
        values[rng.random((rows, width)) > rng.uniform(0.02, 0.9, width)] = 0
        values[:, 0] = 0  # dead
        values[:, 1] = 2.5  # always, and always the same
        values[:, 2] = rng.random(rows).astype(np.float32) + 5  # always
        values[:, 3] = (rng.random(rows) > 0.5).astype(np.float32)  # ties with its copy
        values[:, 4] = values[:, 3]
        values[:, 5] = 0
        values[rows // 2, 5] = 1  # once
        sides.append(values)
    sides[1][:, 6] = sides[0][:, 6]
    moved = rng.permutation(rows)
    found = correlate(of_dense(sides[0]), of_dense(sides[1]), moved, whole=True)
    permuted = np.empty_like(sides[1])
    permuted[moved] = sides[1]
    for method, (a, b) in {
        "pearson": (sides[0], permuted), "phi": ((sides[0] > 0), (permuted > 0)),
    }.items():  # fmt: skip
        expected = brute(a, b)
        still = np.outer(a.std(axis=0) < 1e-12, np.ones(m)) + np.outer(
            np.ones(n), b.std(axis=0) < 1e-12
        )
        expected[still > 0] = np.nan
        got = found[method]
        np.testing.assert_allclose(got.all, expected, rtol=1e-9, atol=1e-9)
        for best, table in ((got.forth, got.all), (got.back, got.all.T)):
            for k, line in enumerate(table):
                if np.isnan(line).all():
                    assert best.other[k] == -1
                    assert np.isnan(best.score[k])
                else:
                    assert best.other[k] == np.nanargmax(line)  # the first of equals
                    assert best.score[k] == np.nanmax(line)


def test_shared_rows_are_those_that_both_keep(made):
    lake, known = made
    analyze.run(settings("p/copy", name="part", rows=100, ignore_tokens=[3]), lake, device="cpu")
    found = match("p/one/default", "p/copy/part", lake, rows=None, draws=0, device="cpu")
    lengths = np.cumsum(known.lengths)
    table = lake_rows(lake, "p/copy/part")
    stop = lengths[table - 1]
    kept = known.kept[:stop] & (known.tokens[:stop] != 3)
    assert found.facts["rows"] == kept.sum() < known.kept.sum()
    values = known.values[:stop][kept]
    expected = brute(values[:, :N], values[:, ORDER])
    for row in columns(found, "pearson"):
        line = expected[row["feature"]]
        if not np.isnan(line).all():
            assert row["score"] == pytest.approx(np.nanmax(line), rel=1e-9)
        assert row["p"] is None


def lake_rows(lake, name):
    from saestore.features import Analysis

    return Analysis.open(lake, name).manifest.counts["contexts"]


def test_some_contexts_can_be_drawn(made):
    lake, known = made
    found = match("p/one/default", "p/noise", lake, rows=50, draws=1, device="cpu")
    assert 50 <= found.facts["rows"] < 50 + 13
    assert found.facts["contexts"] < len(known.lengths)


def test_noise_is_no_better_than_chance(made):
    lake, _ = made
    found = by(match("p/one/default", "p/noise", lake, draws=20, seed=1, device="cpu"))
    p = found["pearson"].null.p(found["pearson"].best.score)
    assert np.nanmin(p) > 0.002  # nine features: 0.05 / 9, and room
    assert found["pearson"].summary()["above_chance"] == 0
    copied = by(match("p/one/default", "p/copy/default", lake, draws=20, seed=1, device="cpu"))[
        "pearson"
    ]
    assert (copied.null.p(copied.best.score)[2:] < 0.05).sum() >= 6


def test_p_counts_what_matches_as_well():
    null = Null(np.array([0.1, 0.2, 0.2, 0.5]))
    assert null.p(np.array([0.6, 0.5, 0.2, 0.05, np.nan])).tolist()[:4] == [0.2, 0.4, 0.8, 1.0]
    assert np.isnan(null.p(np.array([np.nan]))).all()


def test_without_analyses_only_weights_are_compared(made, tmp_path):
    lake, _ = made
    store = ActivationStore.open(lake, "planted")
    synthetic_dictionary(lake, "p/fresh", store, activation=Relu(), d_sae=5)
    found = match("p/one/default", "p/fresh", lake, draws=0, device="cpu")
    assert [each.method for each in found.methods] == ["dec_cos"]
    assert found.facts["without_activations"] == "not analysed: p/fresh"
    assert found.agreeing is None
    rows = columns(found, "dec_cos")
    assert sum(row["paired"] is not None for row in rows) == 5  # each of the smaller one once
    assert len({row["paired"] for row in rows} - {None}) == 5
    for wrong in ({"draws": -1}, {"rows": 0}):
        with pytest.raises(ConfigError):
            match("p/one/default", "p/fresh", lake, **wrong)
    with pytest.raises(ArtefactNotFoundError):
        match("p/one/default", "p/nothing", lake)
    narrow = synthetic_store(lake, "narrow", rows=30, width=4)
    synthetic_dictionary(lake, "p/narrow", narrow, activation=Relu(), d_sae=5)
    with pytest.raises(UnsupportedError, match="cannot be matched"):
        match("p/one/default", "p/narrow", lake, device="cpu")


def test_two_analyses_of_one_dictionary_are_compared_feature_by_feature(made):
    lake, known = made
    half = analyze.run(settings("p/one", name="half", rows=120), lake, device="cpu")
    found = diff(half.name, "p/one/default", lake)
    contexts = lake_rows(lake, half.name)
    stop = int(known.lengths[:contexts].sum())
    first, rest = (
        known.values[:stop, :N][known.kept[:stop]],
        known.values[stop:, :N][known.kept[stop:]],
    )
    assert found.facts["rows_a"] == found.facts["rows_shared"] == len(first)
    assert (found.facts["compared_a"], found.facts["compared_b"]) == (len(first), len(rest))
    back = diff("p/one/default", half.name, lake)
    for row, turned in zip(found.table.to_pylist(), back.table.to_pylist(), strict=True):
        own = known.values[known.kept][:, row["feature"]]
        ka, kb = ((each[:, row["feature"]] > 0).sum() for each in (first, rest))
        na, nb = len(first), len(rest)
        p = (ka + kb) / (na + nb)
        assert (row["n_firings_a"], row["n_firings_b"]) == (ka, (own > 0).sum())
        assert row["density_b"] == (own > 0).sum() / len(own)
        if p in {0, 1}:
            assert row["z"] is None
        else:
            z = (kb / nb - ka / na) / np.sqrt(p * (1 - p) * (1 / na + 1 / nb))
            assert row["z"] == pytest.approx(z, rel=1e-12)
            assert turned["z"] == pytest.approx(-z, rel=1e-12)
        assert row["change"] == ("fires" if ka else "woke" if kb else "silent")
        assert turned["change"] == {"woke": "fell_silent"}.get(row["change"], row["change"])
        if ka and kb:
            assert 0 < row["tokens_jaccard"] <= 1
    assert found.changes["silent"] == 1
    assert sum(found.changes.values()) == N
    top = found.most_changed(3)["z"].to_pylist()
    assert [abs(z) for z in top] == sorted((abs(z) for z in top), reverse=True)


def test_the_same_rows_have_no_z_and_other_dictionaries_are_refused(made):
    lake, _ = made
    analyze.run(settings("p/one", name="again", seed=4), lake, device="cpu")
    found = diff("p/one/default", "p/one/again", lake)
    assert found.facts["without_z"] == "both analyses are of the same rows"
    assert found.significant is None
    assert set(found.table["z"].to_pylist()) == {None}
    assert found.most_changed(5).num_rows == 0
    assert found.table["tokens_jaccard"].to_pylist()[1:] == [1.0] * (N - 1)
    with pytest.raises(UnsupportedError, match="different dictionaries") as caught:
        diff("p/one/default", "p/copy/default", lake)
    assert "saestore match" in caught.value.hint
