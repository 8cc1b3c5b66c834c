"""Look-ups in stored contexts equal dense brute force, exactly, ties included."""

import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest

import saestore
from saestore import analyze
from saestore.errors import ConfigError, FeatureNotFoundError, QueryError
from saestore.features import Analysis, run_named
from saestore.lake import Lake
from saestore.testing.analyses import DICTIONARY, plant, planted_analysis
from saestore_schemas.analyze import AnalyzeSettings


CONTEXTS = [37, 0, 5, 12, 20]
"""In no order; one is of one token, one is masked whole."""


@pytest.fixture(scope="module")
def lake(planted_lake):
    return saestore.open_lake(planted_lake.storage.local)


def dense(planted, context):
    return planted.values[planted.context == context]


def brute_top(planted, context, k):
    values = dense(planted, context)
    peaks = [(-column.max(), feature) for feature, column in enumerate(values.T) if column.any()]
    return [
        (feature, -peak, int(values[:, feature].argmax()), int((values[:, feature] > 0).sum()))
        for peak, feature in sorted(peaks)[:k]
    ]


@pytest.mark.parametrize("k", [1, 3, None])
def test_features_of_contexts_are_those_of_brute_force(lake, k):
    planted = plant()
    table = lake.features_of_contexts(DICTIONARY, CONTEXTS, k)
    found = {}
    for line in table.to_pylist():
        where = (line["feature"], line["value"], line["position"], line["n"])
        found.setdefault(line["context"], []).append(where)
    assert found == {
        c: brute_top(planted, c, k) for c in sorted(CONTEXTS) if brute_top(planted, c, k)
    }
    for context in CONTEXTS:
        ready = run_named(
            lake.lake, "features_of_context", {"context": context, "n": k or 99}
        ).to_pylist()
        assert [(line["feature"], line["peak"], line["n"]) for line in ready] == [
            (feature, peak, n) for feature, peak, _, n in found.get(context, [])
        ]


def test_features_of_tokens_are_those_of_brute_force(lake):
    planted = plant()
    table = lake.features_of_contexts(DICTIONARY, CONTEXTS, 2, by_token=True)
    wanted = [
        (context, position, feature, row[feature])
        for context in sorted(CONTEXTS)
        for position, row in enumerate(dense(planted, context))
        for feature in np.lexsort((np.arange(len(row)), -row))[:2]
        if row[feature] > 0
    ]
    columns = ("context", "position", "feature", "value")
    assert [tuple(line[c] for c in columns) for line in table.to_pylist()] == wanted


@pytest.mark.parametrize("feature", range(9))
def test_texts_of_a_feature_are_the_top_contexts(lake, feature):
    ready = run_named(lake.lake, "top_contexts", {"feature": feature, "n": 7}).to_pylist()
    table = lake.texts_for_feature(DICTIONARY, feature, 7, window=5).to_pylist()
    assert [(t["context"], t["position"], t["value"]) for t in table] == [
        (r["context"], r["position"], r["value"]) for r in ready
    ]
    texts = dict(lake.sql("SELECT context, text FROM contexts").to_pydict().items())
    for line in table:
        assert line["text"] is None
        assert line["window"] in texts["text"][texts["context"].index(line["context"])]


def test_pieces_concatenate_to_the_text_and_carry_every_firing(lake):
    planted = plant()
    passages = Analysis.open(lake.lake, DICTIONARY).passages(range(40))
    texts = passages.contexts["text"].to_pylist()
    for feature in (1, 5):
        for example in passages.examples(feature, None, width=None, ranked=False):
            assert "".join(piece.text for piece in example.tokens) == texts[example.context]
            values = [piece.value for piece in example.tokens]
            assert values == dense(planted, example.context)[:, feature].tolist()
            kept = planted.kept[planted.context == example.context]
            assert [piece.kept for piece in example.tokens] == kept.tolist()


def test_without_the_order_of_contexts_answers_are_the_same(tmp_path):
    lake = Lake.at(tmp_path)
    planted_analysis(lake)
    settings = AnalyzeSettings(
        dictionary=DICTIONARY, name="half", logits=None, firings="feature", value_dtype="float16"
    )
    analyze.run(settings, lake, device="cpu")
    opened = saestore.open_lake(tmp_path)
    both, one = (
        opened.features_of_contexts(f"{DICTIONARY}/{name}", CONTEXTS)
        for name in ("default", "half")
    )
    assert one.drop_columns("value").equals(both.drop_columns("value"))
    assert np.allclose(one["value"].to_numpy(), both["value"].to_numpy(), rtol=2**-11)


@pytest.mark.parametrize("k", [1, 3])
def test_overlap_and_what_chance_makes_of_it(lake, k):
    planted = plant()
    tops = [{feature for feature, *_ in brute_top(planted, c, k)} for c in range(40)]
    chance = sum((sum(feature in top for top in tops) / 40) ** 2 for feature in range(9))
    found = lake.overlap(DICTIONARY, k=k, contexts=CONTEXTS).to_pylist()
    pairs = list(combinations(sorted(CONTEXTS), 2))
    assert len(found) == len(pairs)
    for line, (a, b) in zip(found, pairs, strict=True):
        both, either = tops[a] & tops[b], tops[a] | tops[b]
        assert line["shared"] == sorted(both)
        assert (line["n_a"], line["n_b"], line["overlap"]) == (
            len(tops[a]),
            len(tops[b]),
            len(both),
        )
        assert line["jaccard"] == (len(both) / len(either) if either else None)
        assert line["expected"] == pytest.approx(chance, abs=1e-12)
    ready = run_named(lake.lake, "overlap", {"a": a, "b": b, "k": k}).to_pylist()[0]
    names = ("n_a", "n_b", "overlap", "jaccard", "shared")
    assert [ready[name] or 0 for name in names] == [line[name] or 0 for name in names]


def test_the_strongest_features_of_all_texts_are_highlighted(lake):
    planted = plant()
    found = lake.highlight(DICTIONARY, contexts=CONTEXTS, k=2)
    inside = planted.values[np.isin(planted.context, CONTEXTS)].max(axis=0)
    assert [each.feature for each in found] == np.argsort(-inside, kind="stable")[:2].tolist()
    assert [e.context for e in found[0].examples] == sorted(CONTEXTS)
    with pytest.raises(ConfigError, match="texts and contexts"):
        lake.highlight(DICTIONARY, "a", contexts=[1])
    with pytest.raises(ConfigError, match="two texts or more"):
        lake.overlap(DICTIONARY, contexts=[1, 1])


def test_mistakes_say_what_there_is(lake):
    with pytest.raises(QueryError, match="no context 40") as caught:
        lake.features_of_contexts(DICTIONARY, [40])
    assert "0 to 39" in caught.value.hint
    with pytest.raises(FeatureNotFoundError, match="no feature 9"):
        lake.texts_for_feature(DICTIONARY, 9)


def test_a_lake_answers_without_torch(lake):
    code = (
        f"import saestore, sys; lake = saestore.open_lake({str(lake.lake.storage.local)!r});"
        f"lake.texts_for_feature({DICTIONARY!r}, 1); lake.features_of_contexts({DICTIONARY!r}, [3]);"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
