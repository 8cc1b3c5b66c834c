import json

import polars as pl
import pytest

from saestore import analyze
from saestore.errors import (
    ArtefactNotFoundError,
    DamagedArtefactError,
    FeatureNotFoundError,
    QueryError,
)
from saestore.features import RULE, Analysis, features_about_something
from saestore.features.choose import _distinct
from saestore.lake import Lake
from saestore.testing.analyses import DICTIONARY, planted_analysis
from saestore_schemas.analyze import AnalyzeSettings


@pytest.fixture(scope="module")
def analysis(planted_lake):
    return Analysis.open(planted_lake, "planted/relu")


@pytest.mark.parametrize("feature", range(9))
def test_every_number_of_a_page_equals_its_sql(analysis, feature):
    page = analysis.feature(feature)
    where = {"f": feature}
    (line,) = analysis.sql("SELECT * FROM features WHERE feature = $f", where).to_pylist()
    assert page.statistics == {
        k: v for k, v in line.items() if k not in {"series", "dictionary", "analysis", "feature"}
    }
    for row in analysis.sql("SELECT * FROM histograms WHERE feature = $f", where).to_pylist():
        drawn = page.histograms[row["what"]]
        assert (drawn.lo, drawn.hi, list(drawn.counts)) == (row["lo"], row["hi"], row["counts"])
    rows = analysis.sql("SELECT * FROM examples WHERE feature = $f", where).to_pylist()
    shown = {(g.subsample, g.stratum, e.rank): (g, e) for g in page.groups for e in g.examples}
    assert len(shown) == len(rows)
    for row in rows:
        group, example = shown[row["subsample"], row["stratum"], row["rank"]]
        for name in ("context", "peak", "peak_position", "window_start"):
            assert getattr(example, name) == row[name]
        assert group.n_eligible == row["n_eligible"]
        assert len(example.tokens) == row["window_length"]
        fired = {p + row["window_start"]: t.value for p, t in enumerate(example.tokens) if t.value}
        assert fired == dict(zip(row["positions"], row["values"], strict=True))
    for row in analysis.sql("SELECT * FROM token_stats WHERE feature = $f", where).to_pylist():
        (table,) = [x for x in page.tokens if x.shift == row["shift"]]
        (count,) = [x for x in table.tokens if x.token_id == row["token_id"]]
        for name in ("token", "n", "sum", "max", "lift"):
            assert getattr(count, name) == row[name]
        assert count.share == row["p_token_given_fires"]
    sql = "SELECT * FROM coactivation WHERE feature = $f ORDER BY rank"
    for row, other in zip(analysis.sql(sql, where).to_pylist(), page.coactive, strict=True):
        assert other.feature == row["other"]
        for name in ("n_both", "n_rows", "phi", "jaccard", "lift", "era"):
            assert getattr(other, name) == row[name]
    sql = "SELECT * FROM neighbours WHERE feature = $f ORDER BY method, rank"
    rows = analysis.sql(sql, where).to_pylist()
    assert [(x["method"], x["neighbour"], x["score"]) for x in rows] == [
        (x.method, x.feature, x.score) for x in page.neighbours
    ]
    assert page.n_firings == line["n_firings"]
    assert page.max == (line["max"] or 0)


def test_example_pieces_are_the_text(analysis):
    contexts = {r["context"]: r for r in analysis.lazy("contexts").collect().to_dicts()}
    for feature in range(9):
        for group in analysis.feature(feature).groups:
            for example in group.examples:
                home = contexts[example.context]
                stop = example.window_start + len(example.tokens)
                low, high = home["char_offsets"][example.window_start], home["char_offsets"][stop]
                assert "".join(t.text for t in example.tokens) == home["text"][low:high]
                for at, token in enumerate(example.tokens, example.window_start):
                    assert token.kept == (at not in home["ignored"])
                    assert token.special == (home["token_ids"][at] == 0)
                assert example.document_id == f"document-{example.context}"
                assert example.source == home["source"]
                assert example.n_positions == home["n_positions"]


def test_groups_come_in_the_order_of_the_settings(analysis):
    page = analysis.feature(8)
    assert list(dict.fromkeys(g.subsample for g in page.groups)) == ["top", "quantile", "silent"]
    assert [g.stratum for g in page.groups if g.subsample == "quantile"] == list(range(10))
    assert {g.strata for g in page.groups if g.subsample == "quantile"} == {10}
    assert len(page.examples("top")) == 20
    assert page.examples("nothing") == ()


def test_a_dead_feature_has_a_page_too(analysis):
    page = analysis.feature(0)
    assert (page.n_firings, page.density, page.max, page.top_token) == (0, 0, 0, None)
    assert not any(page.histograms["value"].counts)
    assert {g.kind for g in page.groups} == {"silent"}
    assert page.logits == ()


def test_a_page_is_json_and_says_where_it_comes_from(analysis):
    page = analysis.feature(4)
    plain = json.loads(json.dumps(page.to_dict()))
    assert plain["feature"] == 4
    assert plain["groups"][0]["examples"][0]["tokens"][0].keys() == {
        "text", "value", "special", "kept",
    }  # fmt: skip
    assert (page.series, page.dictionary, page.analysis) == ("planted", "relu", "default")
    origin = page.provenance
    assert origin.activations == "planted"
    assert origin.hookpoints == ("blocks.1.hook_resid_post",)
    assert origin.n_contexts == 40
    assert origin.fingerprint == analysis.manifest.fingerprint


@pytest.mark.parametrize("feature", [-1, 9, 10**9])
def test_a_feature_that_is_not_there_names_the_range(analysis, feature):
    with pytest.raises(FeatureNotFoundError, match="planted/relu has no feature") as caught:
        analysis.feature(feature)
    assert "0 to 8" in caught.value.hint


def test_tables_are_lazy_polars_frames(analysis):
    frame = analysis.lazy("firings_by_feature")
    assert isinstance(frame, pl.LazyFrame)
    counted = frame.group_by("feature").len().sort("feature").collect()
    table = analysis.lazy("features").filter(pl.col("n_firings") > 0).collect()
    assert counted["len"].to_list() == table["n_firings"].to_list()


def test_a_misspelt_table_is_answered_with_the_nearest(analysis):
    with pytest.raises(QueryError, match="no table 'feature'") as caught:
        analysis.lazy("feature")
    assert "features" in caught.value.hint
    with pytest.raises(QueryError) as other:
        analysis.lazy("zzz")
    assert "it has: " in other.value.hint


def test_an_analysis_that_is_not_there_is_named_with_the_nearest(planted_lake):
    with pytest.raises(ArtefactNotFoundError) as caught:
        Analysis.open(planted_lake, "planted/relu/defalt")
    assert "planted/relu/default" in caught.value.hint


def test_a_missing_or_cut_file_is_damage(tmp_path):
    lake = Lake.at(tmp_path)
    ref, _ = planted_analysis(lake)
    path = lake.artefact(ref).path("examples/part-00000.parquet")
    data = path.read_bytes()
    path.write_bytes(data[:-7])
    with pytest.raises(DamagedArtefactError, match=r"examples/part-00000\.parquet"):
        Analysis.open(lake, ref.name).feature(1)
    path.unlink()
    with pytest.raises(DamagedArtefactError, match="examples"):
        Analysis.open(lake, ref.name).feature(1)


def test_features_to_show_are_chosen_by_a_stated_rule(analysis):
    chosen = features_about_something(analysis, 3)
    assert chosen == features_about_something(analysis, 3)
    assert len({p.feature for p in chosen}) == 3
    assert all(p.n_firings for p in chosen)
    assert "words" in RULE
    assert features_about_something(analysis, 0) == ()


def test_features_about_the_same_word_are_shown_once():
    lines = [{"led_by": ["a", "b"]}, {"led_by": ["b"]}, {"led_by": ["c", "a"]}]
    assert _distinct(lines, 2) == [lines[0], lines[2]]
    assert _distinct(lines, 3) == [lines[0], lines[2], lines[1]]
    assert _distinct([], 3) == []


def test_one_order_only_answers_the_same(tmp_path):
    lake = Lake.at(tmp_path)
    planted_analysis(lake)
    settings = AnalyzeSettings(
        dictionary=DICTIONARY, name="one", logits=None, firings="feature", value_dtype="float16"
    )
    analyze.run(settings, lake, device="cpu")
    one = Analysis.open(lake, f"{DICTIONARY}/one")
    assert "firings_by_context" not in one.tables
    counts = one.sql("SELECT count(*) n FROM firings_by_context").to_pylist()
    assert counts == [{"n": one.manifest.counts["firings"]}]
    assert one.feature(2).max == 1.0
