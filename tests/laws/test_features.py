"""The feature tables against brute force on the dense array: oracles S1 to S13 of the specification."""

import hashlib
import math
from collections import Counter, defaultdict

import numpy as np
import pyarrow.parquet as pq
import pytest

from saestore import analyze
from saestore.analyze.order import sample_offsets, shuffle_ranks
from saestore.features import Analysis, query, run_named
from saestore.features.connect import answer, connect_to
from saestore.features.named import bound
from saestore.lake import Lake, Ref
from saestore.progress import Silent
from saestore.testing.analyses import DICTIONARY, plant, planted_analysis
from saestore_schemas.analyze import (
    AnalyzeSettings,
    CoactivationSettings,
    IntervalSubsample,
    NearSubsample,
    ProportionSubsample,
    QuantileSubsample,
    SameTokenSubsample,
    SilentSubsample,
    TopSubsample,
    UniformSubsample,
)
from saestore_schemas.tables import QUANTILES


SUBSAMPLES = {
    "top": TopSubsample(n=4, window=5),
    "parts": QuantileSubsample(q=3, n=2, window=4),
    "any": UniformSubsample(n=3, window=None),
    "off": SilentSubsample(n=3, window=2),
    "weak": ProportionSubsample(p=0.4, n=3, window=6),
    "filled": ProportionSubsample(p=0.3, n=9, window=3, include_silent=True),
    "ranges": IntervalSubsample(q=4, n=2, window=5),
    "close": NearSubsample(first=2, n=7, window=5),
    "together": NearSubsample(by=("coactivation",), first=3, n=2, window=None),
    "spelt": SameTokenSubsample(n=6, window=4),
    "spelt_all": SameTokenSubsample(n=99),
}


class Oracle:
    """Brute force over the dense activations of one analysis."""

    def __init__(self, planted, dtype, *, seed):
        values = planted.values
        if dtype == "float16":
            tiny = np.float32(2.0**-24)
            rounded = np.maximum(np.abs(values).astype(np.float16).astype(np.float32), tiny)
            values = np.sign(values) * rounded
        self.values, self.planted, self.seed = values, planted, seed
        self.context, self.position = planted.context, planted.position
        self.n_contexts, self.n_features = len(planted.lengths), values.shape[1]
        self.rank = shuffle_ranks(self.n_contexts, seed=seed)

    def firings(self, feature):
        """(context, position, value, row) of every firing, in order."""
        rows = np.flatnonzero(self.values[:, feature])
        return [
            (int(self.context[r]), int(self.position[r]), float(self.values[r, feature]), int(r))
            for r in rows
        ]

    def peaks(self, feature):
        """Context to (largest strength, first position with it)."""
        found = {}
        for context, position, value, _ in self.firings(feature):
            if context not in found or abs(value) > found[context][0]:
                found[context] = (abs(value), position)
        return found

    def place(self, feature, context):
        """Place of a context in the feature's random order."""
        offset = sample_offsets(feature, 1, contexts=self.n_contexts, seed=self.seed)[0]
        return (int(self.rank[context]) - int(offset)) % self.n_contexts


@pytest.fixture(
    scope="module",
    params=[
        (0, "float32", "both", False),
        (1, "float16", "both", True),
        (2, "float32", "feature", False),
    ],
    ids=["seed0-float32", "seed1-float16-signed", "seed2-one-order"],
)
def analysed(request, tmp_path_factory):
    """An analysis and its oracle."""
    seed, dtype, firings, signed = request.param
    lake = Lake.at(tmp_path_factory.mktemp("lake"))
    settings = AnalyzeSettings(
        dictionary=DICTIONARY,
        logits=None,
        subsamples=SUBSAMPLES,
        value_dtype=dtype,
        firings=firings,
        seed=seed,
        coactivation=CoactivationSettings(min_both=1),
    )
    ref, planted = planted_analysis(
        lake, planted=plant(seed=seed, signed=signed), settings=settings
    )
    return Analysis.open(lake, ref.name), Oracle(planted, dtype, seed=seed)


def rows_of(analysis, name, **params):
    return run_named(analysis.lake, name, params).to_pylist()


@pytest.fixture(scope="module")
def asked(analysed):
    """A function that answers named queries over one connection."""
    analysis, _ = analysed
    with connect_to(analysis.lake, [analysis.ref]) as connection:
        yield lambda name, **params: answer(connection, *bound(name, params)).to_pylist()


def test_q1_top_contexts(analysed):
    analysis, oracle = analysed
    for feature in range(oracle.n_features):
        values = {(c, p): v for c, p, v, _ in oracle.firings(feature)}
        peaks = sorted(
            ((c, p, values[c, p]) for c, (_, p) in oracle.peaks(feature).items()),
            key=lambda x: (-abs(x[2]), x[0]),
        )
        found = rows_of(analysis, "top_contexts", feature=feature, n=7)
        assert [tuple(r.values()) for r in found] == peaks[:7]


def test_q2_statistics_are_the_features_table(analysed):
    analysis, oracle = analysed
    table = {r["feature"]: r for r in analysis.lazy("features").collect().to_dicts()}
    for row in rows_of(analysis, "statistics"):
        values = sorted(abs(v) for _, _, v, _ in oracle.firings(row["feature"]))
        line = table[row["feature"]]
        assert row["n_firings"] == line["n_firings"] == len(values)
        assert row["n_contexts"] == line["n_contexts"] == len(oracle.peaks(row["feature"]))
        for name in ("min", "q01", "q50", "q99", "max"):
            assert row[name] == line[name]
        assert (row["min"], row["max"]) == (values[0], values[-1])
        for name in ("sum", "mean"):
            assert row[name] == pytest.approx(line[name], rel=1e-12)


def test_q3_proportion(analysed, asked):
    _, oracle = analysed
    for feature in range(oracle.n_features):
        peaks = {c: v for c, (v, _) in oracle.peaks(feature).items()}
        limit = 0.6 * max(peaks.values(), default=0)
        kept = sorted((c for c, v in peaks.items() if v <= limit), key=lambda c: (-peaks[c], c))
        found = asked("proportion", feature=feature, p=0.6, n=5)
        assert [r["context"] for r in found] == kept[:5]


def test_q4_silent(analysed, asked):
    _, oracle = analysed
    for feature in range(oracle.n_features):
        silent = [c for c in range(oracle.n_contexts) if c not in oracle.peaks(feature)]
        silent.sort(key=lambda c: oracle.place(feature, c))
        found = asked("silent", feature=feature, n=6)
        assert [r["context"] for r in found] == silent[:6]


def test_q5_quantile_strata(analysed, asked):
    _, oracle = analysed
    for feature in range(oracle.n_features):
        found = asked("quantile_strata", feature=feature, q=3, n=2)
        assert [(r["stratum"], r["context"]) for r in found] == strata(oracle, feature, q=3, n=2)


def strata(oracle, feature, *, q, n):
    peaks = {c: v for c, (v, _) in oracle.peaks(feature).items()}
    ascending = sorted(peaks, key=lambda c: (peaks[c], c))
    groups = [[] for _ in range(q)]
    for rank, context in enumerate(ascending):
        groups[rank * q // len(ascending)].append(context)
    return [
        (s, c)
        for s, group in enumerate(groups)
        for c in sorted(group, key=lambda c: oracle.place(feature, c))[:n]
    ]


def test_q6_features_on_token(analysed):
    analysis, oracle = analysed
    kept, tokens = oracle.planted.kept, oracle.planted.tokens
    on = kept & (tokens == 3)
    expected = []
    for feature in range(oracle.n_features):
        fires = oracle.values[:, feature] != 0
        n = int((fires & on).sum())
        if n >= 2:
            share = n / on.sum()
            expected.append((feature, n, share, share / (fires.sum() / kept.sum())))
    expected.sort(key=lambda x: (-x[3], x[0]))
    found = rows_of(analysis, "features_on_token", token=" w3", min_n=2)
    assert [(r["feature"], r["n"]) for r in found] == [x[:2] for x in expected]
    for row, (_, _, share, lift) in zip(found, expected, strict=True):
        assert row["p_fires_given_token"] == pytest.approx(share, rel=1e-12)
        assert row["lift"] == pytest.approx(lift, rel=1e-12)


def test_q7_coactive_and_s12_phi_is_the_correlation_of_indicators(analysed, asked):
    _, oracle = analysed
    kept = oracle.planted.kept
    fires = oracle.values[kept] != 0
    for feature in range(2, oracle.n_features):
        found = asked("coactive", feature=feature, min_n=1, n=99)
        others = {
            o
            for o in range(oracle.n_features)
            if o != feature and (fires[:, o] & fires[:, feature]).any() and not fires[:, o].all()
        }
        assert {r["other"] for r in found} == others
        for row in found:
            a, b = fires[:, feature], fires[:, row["other"]]
            assert row["n_both"] == (a & b).sum()
            assert row["jaccard"] == pytest.approx((a & b).sum() / (a | b).sum(), rel=1e-12)
            assert row["phi"] == pytest.approx(np.corrcoef(a, b)[0, 1], rel=1e-9)
            column = oracle.values[kept].astype(np.float64)
            era = column[:, feature] @ column[:, row["other"]] / column[:, feature].sum()
            assert row["era"] == pytest.approx(era, rel=1e-12)


def test_q8_features_of_context(analysed, asked):
    _, oracle = analysed
    for context in range(0, oracle.n_contexts, 7):
        block = oracle.values[oracle.context == context]
        expected = [
            (f, float(abs(block[:, f]).max()), int((block[:, f] != 0).sum()))
            for f in range(oracle.n_features)
            if (block[:, f] != 0).any()
        ]
        expected.sort(key=lambda x: (-x[1], x[0]))
        found = asked("features_of_context", context=context, n=99)
        assert [tuple(r.values()) for r in found] == expected


def sets_of(oracle, k):
    """Context to its k strongest features."""
    found = {}
    for context in range(oracle.n_contexts):
        peak = abs(oracle.values[oracle.context == context]).max(axis=0)
        order = sorted(np.flatnonzero(peak > 0).tolist(), key=lambda f: (-peak[f], f))
        found[context] = set(order[:k])
    return found


@pytest.mark.parametrize("k", [1, 3, 99])
def test_q9_overlap_and_what_chance_gives(analysed, asked, k):
    _, oracle = analysed
    sets = sets_of(oracle, k)
    for a, b in [(0, 0), (5, 6), (7, 8), (9, 30), (12, 13), (14, 3)]:
        (row,) = asked("overlap", a=a, b=b, k=k)
        one, other = sets[a], sets[b]
        both, either = one & other, one | other
        assert (row["n_a"], row["n_b"], row["overlap"]) == (len(one), len(other), len(both))
        assert row["jaccard"] == (len(both) / len(either) if either else None)
        assert row["shared"] == (sorted(both) or None)
    (row,) = asked("chance_overlap", k=k)
    counts = Counter(f for features in sets.values() for f in features)
    expected = sum((n / oracle.n_contexts) ** 2 for n in counts.values())
    assert row["expected"] == pytest.approx(expected, rel=1e-12)
    assert (row["features"], row["contexts"]) == (len(counts), oracle.n_contexts)


def test_q10_source_contrast(analysed, asked):
    _, oracle = analysed
    own = np.where(oracle.context % 3, "synthetic", "other")
    fires, kept = oracle.values != 0, oracle.planted.kept
    na, nb = (int((kept & (own == source)).sum()) for source in ("synthetic", "other"))
    expected = []
    for feature in range(oracle.n_features):
        ka, kb = (int(fires[own == s, feature].sum()) for s in ("synthetic", "other"))
        if 1 <= ka + kb < na + nb:
            p = (ka + kb) / (na + nb)
            z = (ka / na - kb / nb) / math.sqrt(p * (1 - p) * (1 / na + 1 / nb))
            expected.append((feature, ka / na, kb / nb, z))
    expected.sort(key=lambda x: (-abs(x[3]), x[0]))
    found = asked("source_contrast", a="synthetic", b="other", n=99)
    assert [r["feature"] for r in found] == [x[0] for x in expected]
    for row, (_, *numbers) in zip(found, expected, strict=True):
        own = [row["density_a"], row["density_b"], row["z"]]
        assert own == pytest.approx(numbers, rel=1e-9)


@pytest.mark.parametrize("given", [{"min_cos": -1}, {"children": [8, 2, 0, 6]}], ids=str)
def test_q11_absorption_suspects(analysed, asked, given):
    _, oracle = analysed
    for parent in (0, 1, 4, 7):
        on = oracle.planted.kept & np.isin(oracle.planted.tokens, [3, 8])
        missed = on & (oracle.values[:, parent] == 0)
        counts = {
            child: int((missed & (oracle.values[:, child] != 0)).sum())
            for child in given.get("children", range(oracle.n_features))
            if child != parent
        }
        expected = sorted((c for c in counts if counts[c]), key=lambda c: (-counts[c], c))
        asking = {"parent": parent, "tokens": [" w3", " w8"], "n": 99}
        found = asked("absorption_suspects", **asking, **given)
        assert [(r["child"], r["n"]) for r in found] == [(c, counts[c]) for c in expected]
        for row in found:
            assert (row["missed"], row["rows"]) == (missed.sum(), on.sum())
            assert row["share_of_missed"] == row["n"] / row["missed"]


def test_q12_search(analysed, asked):
    analysis, _ = analysed
    names = {r["token_id"]: r["token"] for r in analysis.lazy("vocabulary").collect().to_dicts()}
    lines = analysis.lazy("features").collect().to_dicts()

    def searched(**wanted):
        return [r["feature"] for r in asked("search", n=99, **wanted)]

    def expected(keep):
        kept = [line for line in lines if keep(line)]
        kept.sort(key=lambda x: (-(x["top_token_share"] or -1), -x["n_firings"], x["feature"]))
        return [line["feature"] for line in kept]

    assert searched() == expected(lambda x: x["n_firings"])
    assert searched(min_firings=0) == expected(lambda _: True)
    middle = sorted(line["density"] for line in lines)[4]
    assert searched(max_density=middle) == expected(lambda x: 0 < x["density"] <= middle)
    assert searched(min_density=middle) == expected(lambda x: x["density"] >= middle)
    assert searched(min_max=2.5) == expected(lambda x: (x["max"] or 0) >= 2.5)
    assert searched(min_contexts=9) == expected(lambda x: x["n_contexts"] >= 9)
    assert searched(token="W3") == expected(lambda x: "w3" in names.get(x["top_token_id"], ""))
    assert searched(token="W3") == [r["feature"] for r in asked("search_token", token="w3")]
    assert searched(promotes="w3") == []  # this one has no logits


def test_q13_dead_features(analysed):
    analysis, oracle = analysed
    seen = oracle.planted.kept.cumsum() - oracle.planted.kept
    for limit in (1, 40, 10**9):
        first = [
            min((seen[r] for *_, r in oracle.firings(f)), default=None)
            for f in range(oracle.n_features)
        ]
        expected = sum(x is None or x >= limit for x in first)
        (row,) = rows_of(analysis, "dead", rows=limit)
        assert row["dead"] == expected
        n = min(limit, int(oracle.planted.kept.sum()))
        assert row["rows"] == n
        assert row["density_bound_95"] == pytest.approx(1 - 0.05 ** (1 / n), rel=1e-9)


def test_s2_firings_add_up(analysed):
    analysis, oracle = analysed
    fires = oracle.values != 0
    table = analysis.lazy("features").collect()
    assert table["n_firings"].sum() == fires.sum()
    assert table["n_firings"].sum() == np.trace(fires.T.astype(int) @ fires)
    assert table["n_rows"].unique().to_list() == [oracle.planted.kept.sum()]


def test_s3_both_orders_hold_the_same_firings(analysed):
    analysis, _ = analysed
    names = "feature, context, position, value"
    one, other = (
        sorted(map(tuple, (r.values() for r in analysis.sql(sql).to_pylist())))
        for sql in (f"SELECT {names} FROM firings", f"SELECT {names} FROM firings_by_context")
    )
    assert one == other


def test_the_stored_orders_are_the_stated_ones(analysed):
    analysis, _ = analysed
    for table in analysis.tables:
        if table.startswith("firings_by_"):
            lines = analysis.lazy(table).collect().rows()
            order = [(f, c, p) if table.endswith("feature") else (c, p, f) for f, c, p, _ in lines]
            assert order == sorted(order)


def test_s7_no_zero_no_masked_row_every_feature(analysed):
    analysis, oracle = analysed
    assert analysis.sql("SELECT count(*) n FROM firings WHERE value = 0").to_pylist() == [{"n": 0}]
    below = analysis.sql("SELECT count(*) n FROM firings WHERE value < 0").to_pylist()
    assert below == [{"n": (oracle.values < 0).sum()}]
    on_masked = analysis.sql(
        "SELECT count(*) n FROM firings JOIN tokens USING (context, position) WHERE NOT kept"
    )
    assert on_masked.to_pylist() == [{"n": 0}]
    features = analysis.lazy("features").collect()["feature"].to_list()
    assert features == list(range(oracle.n_features))


def test_s10_firings_joined_to_tokens_lose_nothing(analysed):
    analysis, oracle = analysed
    joined = analysis.sql(
        "SELECT f.row, t.row AS other, t.token_id FROM firings f JOIN tokens t "
        "USING (context, position) ORDER BY f.row, f.feature"
    ).to_pylist()
    expected = [(int(r), int(oracle.planted.tokens[r])) for r in np.nonzero(oracle.values)[0]]
    assert [(x["row"], x["token_id"]) for x in joined] == expected
    assert all(x["row"] == x["other"] for x in joined)


def test_s11_every_column_of_features(analysed):
    analysis, oracle = analysed
    kept, tokens = oracle.planted.kept, oracle.planted.tokens
    seen = kept.cumsum() - kept
    starts = {}
    for row in np.flatnonzero(kept):
        starts.setdefault(int(oracle.context[row]), int(oracle.position[row]))
    for line in analysis.lazy("features").collect().to_dicts():
        feature = line["feature"]
        firings = oracle.firings(feature)
        values = [v for _, _, v, _ in firings]
        strengths = sorted(map(abs, values))
        n = len(values)
        assert line["density"] == n / kept.sum()
        offset = sample_offsets(feature, 1, contexts=oracle.n_contexts, seed=oracle.seed)
        assert line["sample_offset"] == offset[0]
        assert (line["enc_norm"], line["dec_norm"], line["enc_dec_cos"]) == (1, 1, 1)
        undefined = ("mean", "std", "max", "max_context", "max_position", "min", "first_row",
                     "first_position_share", "top_token_id", "top_token_share", *QUANTILES)  # fmt: skip
        if not n:
            assert all(line[name] is None for name in undefined)
            continue
        assert line["sum"] == pytest.approx(math.fsum(values), rel=1e-12)
        assert line["sum_sq"] == pytest.approx(math.fsum(v * v for v in values), rel=1e-12)
        assert line["mean"] == pytest.approx(np.mean(values), rel=1e-12, abs=1e-15)
        assert line["std"] == pytest.approx(np.std(values), rel=1e-12, abs=1e-15)
        top = max(firings, key=lambda x: (abs(x[2]), -x[0], -x[1]))
        where = line["max"], line["max_context"], line["max_position"]
        assert where == (abs(top[2]), top[0], top[1])
        assert line["min"] == strengths[0]
        for name, p in QUANTILES.items():
            assert line[name] == strengths[max(1, -(-p * n // 1000)) - 1]
        assert line["first_row"] == seen[firings[0][3]]
        at_start = sum(starts[c] == p for c, p, _, _ in firings)
        assert line["first_position_share"] == at_start / n
        counts = Counter(int(tokens[r]) for *_, r in firings)
        token, most = min(counts.items(), key=lambda x: (-x[1], x[0]))
        assert (line["top_token_id"], line["top_token_share"]) == (token, most / n)


def test_s11_histograms(analysed):
    analysis, oracle = analysed
    size = max(int(oracle.planted.lengths.max()), 2)
    for line in analysis.lazy("histograms").collect().to_dicts():
        values = [abs(v) for _, _, v, _ in oracle.firings(line["feature"])]
        peaks = [v for v, _ in oracle.peaks(line["feature"]).values()]
        top = max(values, default=1.0)
        match line["what"]:
            case "value" | "peak" as what:
                bins = [min(int(v / top * 50), 49) for v in (values if what == "value" else peaks)]
                width, low, high = 50, 0, top if values else 0
            case "position":
                bins = [p * 32 // size for _, p, _, _ in oracle.firings(line["feature"])]
                width, low, high = 32, 0, size
            case _:
                edges = [2 ** (k / 4) for k in range(-96, 64)]
                bins = [max(sum(v >= e for e in edges) - 1, 0) for v in values]
                width, low, high = 160, edges[0], 2**16
        assert line["counts"] == np.bincount(np.array(bins, int), minlength=width).tolist()
        assert (line["lo"], line["hi"]) == (np.float32(low), np.float32(high))


def in_ranges(oracle, feature, peaks, n):
    """Return (stratum, rank, context, eligible) of equal parts of the range."""
    found, most = [], max(peaks.values(), default=0)
    for part in range(4):
        able = [c for c, v in peaks.items() if most * part / 4 < v <= most * (part + 1) / 4]
        able.sort(key=lambda c: oracle.place(feature, c))
        found += [(part, r, c, len(able)) for r, c in enumerate(able[:n])]
    return found


def near_others(oracle, feature, subsample, lists):
    """Return context to position of each eligible context, in order."""
    lists = [[other for rank, other in sorted(lists[by, feature]) if rank < subsample.first]
             for by in subsample.by]  # fmt: skip
    own, found = oracle.peaks(feature), {}
    for rank in range(subsample.first):
        for listed in lists:
            peaks = oracle.peaks(listed[rank]) if rank < len(listed) else {}
            fresh = [c for c in peaks if c not in own and c not in found]
            fresh.sort(key=lambda c: oracle.place(feature, c))
            found |= {c: peaks[c][1] for c in fresh}
    return found


def on_same_token(oracle, feature):
    """Return context to position of each eligible context, in order."""
    fires = {r for *_, r in oracle.firings(feature)}
    tokens, kept = oracle.planted.tokens, oracle.planted.kept
    counts = Counter(int(tokens[r]) for r in fires)
    found = {}
    if counts:
        token, _ = min(counts.items(), key=lambda x: (-x[1], x[0]))
        for row in np.flatnonzero(kept & (tokens == token)):
            if row not in fires:
                found.setdefault(int(oracle.context[row]), int(oracle.position[row]))
    return {c: found[c] for c in sorted(found, key=lambda c: oracle.place(feature, c))}


def lists_of(analysis):
    """Return (list, feature) to the ranks and numbers of its other features."""
    sql = (
        "SELECT 'coactivation' list, feature, rank, other FROM coactivation UNION ALL "
        "SELECT 'dec_cos', feature, rank, neighbour FROM neighbours WHERE method = 'dec_cos'"
    )
    found = defaultdict(list)
    for row in analysis.sql(sql).to_pylist():
        found[row["list"], row["feature"]].append((row["rank"], row["other"]))
    return found


@pytest.mark.parametrize("name", ["close", "together", "spelt", "spelt_all"])
def test_s11_hard_negatives(analysed, name):
    analysis, oracle = analysed
    subsample, lists = SUBSAMPLES[name], lists_of(analysis)
    sql = "SELECT * FROM examples WHERE subsample = $s ORDER BY feature, stratum, rank"
    chosen = analysis.sql(sql, {"s": name}).to_pylist()
    several = 0
    for feature in range(oracle.n_features):
        expected = (
            near_others(oracle, feature, subsample, lists)
            if isinstance(subsample, NearSubsample)
            else on_same_token(oracle, feature)
        )
        lines = [x for x in chosen if x["feature"] == feature]
        found = [(x["context"], x["peak_position"], x["peak"], x["n_eligible"]) for x in lines]
        most = list(expected.items())[: subsample.n]
        assert found == [(c, p, 0, len(expected)) for c, p in most]
        assert [(x["stratum"], x["rank"]) for x in lines] == [(0, r) for r in range(len(most))]
        several += sum(len(x["positions"]) > 0 for x in lines)
        for x in lines:
            inside = [
                (p, v)
                for c, p, v, _ in oracle.firings(feature)
                if c == x["context"] and 0 <= p - x["window_start"] < x["window_length"]
            ]
            assert list(zip(x["positions"], x["values"], strict=True)) == inside
            size = int(oracle.planted.lengths[x["context"]])
            length = min(size, subsample.window or size)
            start = x["peak_position"] - length // 2 if subsample.window else 0
            if subsample.window and size >= subsample.window:
                assert x["window_start"] == max(0, min(start, size - length))
            assert x["window_length"] == length
    assert (several > 0) == isinstance(subsample, SameTokenSubsample)


def expected_examples(oracle, feature, name):
    """Return (stratum, rank, context, eligible) of one subsample."""
    peaks = {c: v for c, (v, _) in oracle.peaks(feature).items()}
    n = SUBSAMPLES[name].n
    if name == "top":
        chosen = sorted(peaks, key=lambda c: (-peaks[c], c))[:n]
        return [(0, r, c, len(peaks)) for r, c in enumerate(chosen)]
    if name in {"any", "off"}:
        able = [c for c in range(oracle.n_contexts) if (c in peaks) == (name == "any")]
        chosen = sorted(able, key=lambda c: oracle.place(feature, c))[:n]
        return [(0, r, c, len(able)) for r, c in enumerate(chosen)]
    if name in {"weak", "filled"}:
        limit = SUBSAMPLES[name].p * max(peaks.values(), default=0)
        able = sorted((c for c in peaks if peaks[c] <= limit), key=lambda c: (-peaks[c], c))
        if name == "filled":
            able += [c for c in range(oracle.n_contexts) if c not in peaks]
        return [(0, r, c, len(able)) for r, c in enumerate(able[:n])]
    if name == "ranges":
        return in_ranges(oracle, feature, peaks, n)
    every = strata(oracle, feature, q=3, n=10**6)
    sizes = Counter(s for s, _ in every)
    seen = Counter()
    found = []
    for stratum, context in every:
        if seen[stratum] < n:
            found.append((stratum, seen[stratum], context, sizes[stratum]))
        seen[stratum] += 1
    return found


def test_s11_and_s12_examples(analysed):
    analysis, oracle = analysed
    lines = analysis.lazy("examples").collect().to_dicts()
    for feature in range(oracle.n_features):
        peaks = oracle.peaks(feature)
        for name, subsample in SUBSAMPLES.items():
            if isinstance(subsample, NearSubsample | SameTokenSubsample):
                continue
            mine = [x for x in lines if (x["feature"], x["subsample"]) == (feature, name)]
            found = [(x["stratum"], x["rank"], x["context"], x["n_eligible"]) for x in mine]
            assert found == expected_examples(oracle, feature, name)
            assert len({x["context"] for x in mine}) == len(mine)
            for line in mine:
                value, position = peaks.get(line["context"], (0.0, 0))
                assert (line["peak"], line["peak_position"]) == (value, position)
                size = int(oracle.planted.lengths[line["context"]])
                length = min(size, subsample.window or size)
                start = position - (subsample.window or 0) // 2 if subsample.window else 0
                start = max(0, min(start, size - length))
                assert (line["window_start"], line["window_length"]) == (start, length)
                inside = [
                    (p, v)
                    for c, p, v, _ in oracle.firings(feature)
                    if c == line["context"] and start <= p < start + length
                ]
                assert list(zip(line["positions"], line["values"], strict=True)) == inside


def test_s11_token_stats_are_counted_from_firings_and_tokens(analysed):
    analysis, oracle = analysed
    lines = analysis.sql("SELECT * FROM token_stats ORDER BY ALL").to_pylist()
    known = {(x["feature"], x["shift"], x["token_id"]): x for x in lines}
    counted = analysis.sql(
        "SELECT f.feature, shift, t.token_id, count(*) n, sum(f.value::DOUBLE) sum, max(abs(f.value)) max "
        "FROM (SELECT *, position::INTEGER AS place, unnest([-1, 0, 1]) AS shift FROM firings) f "
        "JOIN tokens t ON t.context = f.context AND t.position = place + shift "
        "JOIN contexts c ON c.context = f.context "
        "WHERE shift = 0 OR len(list_filter(c.segments, lambda x: x.start <= least(place, place + shift) "
        "AND x.start + x.length > greatest(place, place + shift))) > 0 GROUP BY ALL"
    ).to_pylist()
    assert len(counted) == len(known)  # few tokens: all are kept
    for row in counted:
        line = known[row["feature"], row["shift"], row["token_id"]]
        assert (line["n"], line["max"]) == (row["n"], row["max"])
        assert line["sum"] == pytest.approx(row["sum"], rel=1e-12)
        fires = oracle.values[:, row["feature"]] != 0
        assert line["p_token_given_fires"] == row["n"] / fires.sum()
        if row["shift"]:
            assert line["lift"] is None
        else:
            on = oracle.planted.kept & (oracle.planted.tokens == row["token_id"])
            assert line["p_fires_given_token"] == row["n"] / on.sum()
            assert line["lift"] == pytest.approx(
                line["p_fires_given_token"] / fires[oracle.planted.kept].mean()
            )


def test_s11_coactivation_is_q7_where_all_rows_are_counted(analysed, asked):
    analysis, oracle = analysed
    lines = analysis.sql("SELECT * FROM coactivation ORDER BY feature, rank").to_pylist()
    for feature in range(oracle.n_features):
        table = [x for x in lines if x["feature"] == feature]
        query = asked("coactive", feature=feature, min_n=1, n=64)
        assert [(x["other"], x["n_both"]) for x in table] == [
            (x["other"], x["n_both"]) for x in query
        ]
        for x, y in zip(table, query, strict=True):
            assert x["era"] == pytest.approx(y["era"], rel=1e-12)
            assert (x["phi"], x["jaccard"]) == (np.float32(y["phi"]), np.float32(y["jaccard"]))


def test_contexts_remember_rows_documents_and_text(analysed):
    analysis, oracle = analysed
    kept = oracle.planted.kept
    pieces = {r["token_id"]: r["bytes"] for r in analysis.lazy("vocabulary").collect().to_dicts()}
    for line in analysis.lazy("contexts").collect().to_dicts():
        rows = np.flatnonzero(oracle.context == line["context"])
        assert line["store_row"] == rows[0]
        assert line["n_positions"] == len(rows)
        assert line["token_ids"] == oracle.planted.tokens[rows].tolist()
        assert line["ignored"] == np.flatnonzero(~kept[rows]).tolist()
        assert line["kept_before"] == kept[: rows[0]].sum()
        raw = b"".join(pieces[t] for t in line["token_ids"])
        assert line["text"] == raw.decode(errors="replace")
        assert line["segments"][0]["document_id"] == f"document-{line['context']}"
    for line in analysis.lazy("vocabulary").collect().to_dicts():
        assert line["n_rows"] == (kept & (oracle.planted.tokens == line["token_id"])).sum()


def digests(lake, ref):
    folder = lake.artefact(ref)
    return {
        path: hashlib.sha256(folder.read(path)).hexdigest()
        for path in folder.files()
        if path.endswith(".parquet") and "/" in path
    }


WHOLE = AnalyzeSettings(dictionary=DICTIONARY, logits=None, subsamples=SUBSAMPLES)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """An analysis in a lake of its own, and its files' digests."""
    lake = Lake.at(tmp_path_factory.mktemp("reference"))
    ref, _ = planted_analysis(lake, settings=WHOLE)
    return lake, ref, digests(lake, ref)


@pytest.mark.parametrize("room", [7, 100])
@pytest.mark.parametrize("block", [3, 64])
def test_s13_bytes_do_not_depend_on_memory_or_blocks(reference, monkeypatch, room, block, tmp_path):
    _, _, expected = reference
    init = analyze.write.Sorter.__init__

    def small(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self._room = room

    monkeypatch.setattr(analyze.write.Sorter, "__init__", small)
    monkeypatch.setattr(analyze.encode, "block_rows", lambda _: block)
    monkeypatch.setattr(analyze.subsamples, "_A_THREAD", 1)
    lake = Lake.at(tmp_path)
    settings = WHOLE.model_copy(update={"memory_mib": 16})
    ref, _ = planted_analysis(lake, settings=settings)
    assert digests(lake, ref) == expected


@pytest.mark.parametrize("step", ["encode", "count", "examples"])
def test_s13_a_run_that_was_killed_ends_with_the_same_bytes(reference, step, tmp_path):
    _, _, expected = reference

    class Killed(BaseException):
        pass

    class Killing(Silent):
        def task(self, label, *, total, unit, done=0):
            if label == step:
                raise Killed
            return super().task(label, total=total, unit=unit, done=done)

    lake = Lake.at(tmp_path)
    planted_analysis_until(lake, Killing(), Killed)
    ref = Ref("features", f"{DICTIONARY}/default")
    assert lake.refs("features", unfinished=True) == [ref]
    analyze.run(WHOLE, lake, device="cpu")
    assert digests(lake, ref) == expected


def planted_analysis_until(lake, progress, error):
    run = analyze.run
    planted_analysis(lake, settings=WHOLE.model_copy(update={"name": "other"}))
    with pytest.raises(error):
        run(WHOLE, lake, device="cpu", progress=progress)


def test_part_of_a_store_has_the_values_of_the_whole(reference):
    lake, _, _ = reference
    part = AnalyzeSettings(dictionary=DICTIONARY, name="part", logits=None, rows=100)
    ref = analyze.run(part, lake, device="cpu")
    analysis = Analysis.open(lake, ref.name)
    contexts = analysis.manifest.counts["contexts"]
    sql = "SELECT feature, context, position, value FROM firings WHERE context < $n ORDER BY ALL"
    whole = Analysis.open(lake, f"{DICTIONARY}/default")
    assert analysis.sql(sql, {"n": contexts}).equals(whole.sql(sql, {"n": contexts}))
    lengths = pq.read_table(lake.artefact(ref).path("contexts"))["n_positions"].to_pylist()
    assert sum(lengths) >= 100 > sum(lengths[:-1])


def test_two_analyses_stand_side_by_side(reference):
    lake, _, _ = reference
    settings = AnalyzeSettings(dictionary=DICTIONARY, name="beside", logits=None, seed=9)
    analyze.run(settings, lake, device="cpu")
    counted = query(lake, "SELECT analysis, count(*) n FROM features GROUP BY ALL ORDER BY ALL")
    names = {row["analysis"]: row["n"] for row in counted.to_pylist()}
    assert names["default"] == names["beside"] == 9
