import re

import pytest

from saestore import analyze
from saestore.errors import ArtefactNotFoundError, QueryError
from saestore.features import Analysis, named_queries, run_named
from saestore.features.named import Parameter, parse
from saestore.lake import Lake
from saestore.testing.analyses import DICTIONARY, planted_analysis, synthetic_dictionary
from saestore.testing.stores import synthetic_store
from saestore_schemas.analyze import AnalyzeSettings
from saestore_schemas.dictionary import Relu


@pytest.mark.parametrize("name", named_queries())
def test_every_query_says_what_it_answers_and_which_parameters(name):
    query = named_queries()[name]
    assert query.doc.endswith(".")
    for param in query.params:
        assert f"${param.name}" in query.sql
        assert param.doc
    assert set(re.findall(r"\$(\w+)", query.sql)) == {p.name for p in query.params}


def test_names_are_those_of_the_specification():
    wanted = {"top_contexts", "statistics", "silent", "quantile_strata", "features_on_token",
              "coactive", "features_of_context", "dead",
              "overlap", "source_contrast", "absorption_suspects", "search", "search_token", "search_logit"}  # fmt: skip
    assert wanted <= set(named_queries())


def test_a_header_is_parsed():
    text = "-- One.\n-- Two.\n-- n int = 3: how many\n-- a str: which\nSELECT $n, $a;\n"
    query = parse("x", text)
    assert query.doc == "One. Two."
    assert query.params == (
        Parameter("n", "int", 3, "how many"), Parameter("a", "str", None, "which"),
    )  # fmt: skip
    assert query.sql == "SELECT $n, $a"


def test_lists_stand_between_commas_or_are_json(planted_lake):
    given = {"parent": 4, "n": 9}
    one = run_named(
        planted_lake, "absorption_suspects", {**given, "tokens": " w3, w8", "children": "2,5"}
    )
    other = {**given, "tokens": '[" w3", " w8"]', "children": [5, 2]}
    assert one.num_rows == 2
    assert one.equals(run_named(planted_lake, "absorption_suspects", other))
    every = {**given, "tokens": [" w3"], "children": "", "min_cos": "-1"}
    assert run_named(planted_lake, "absorption_suspects", every).num_rows > 2


def test_absorbing_features_are_looked_for_among_those_like_the_parent(tmp_path):
    lake = Lake.at(tmp_path)
    store = synthetic_store(lake)
    synthetic_dictionary(lake, "like/relu", store, activation=Relu(), d_sae=12)
    settings = AnalyzeSettings(dictionary="like/relu", logits=None)
    near = Analysis.open(lake, analyze.run(settings, lake, device="cpu").name).lazy("neighbours")
    lines = near.filter(feature=0, method="dec_cos").collect()
    like = lines.filter(lines["score"] > 0.3)["neighbour"].to_list()
    assert 0 < len(like) < len(lines)
    given = {"parent": 0, "tokens": " w3, w4", "n": 99}
    default, named, every = (
        run_named(lake, "absorption_suspects", {**given, **more})
        for more in ({}, {"children": like}, {"min_cos": -1})
    )
    assert default.equals(named)
    assert 0 < default.num_rows < every.num_rows


def test_text_is_converted(planted_lake):
    one = run_named(planted_lake, "top_contexts", {"feature": "2", "n": "3"})
    assert one.equals(run_named(planted_lake, "top_contexts", {"feature": 2, "n": 3}))
    assert one.num_rows == 3


@pytest.mark.parametrize(
    ("name", "params", "message", "hint"),
    [
        ("top_context", {}, "no query named", "top_contexts"),
        ("xyz", {}, "no query named", "coactive"),
        ("top_contexts", {}, "needs the parameter 'feature'", "--param feature="),
        ("top_contexts", {"featur": 1}, "no parameter 'featur'", "did you mean feature"),
        ("top_contexts", {"feature": "x"}, "found 'x'; expected int", "which feature"),
        ("statistics", {"zz": 1}, "no parameter 'zz'", "none"),
        (
            "absorption_suspects",
            {"parent": 1, "tokens": "[1"},
            "found '.1'; expected texts",
            "spells",
        ),
        ("absorption_suspects", {"parent": 1, "tokens": 5}, "found 5; expected texts", "spells"),
        (
            "absorption_suspects",
            {"parent": 1, "tokens": "a", "children": "1,x"},
            "whole numbers",
            "the parent's",
        ),
    ],
)
def test_mistakes_are_answered_with_the_nearest(planted_lake, name, params, message, hint):
    with pytest.raises(QueryError, match=message) as caught:
        run_named(planted_lake, name, params)
    assert hint in caught.value.hint


def test_an_analysis_is_chosen_or_asked_for(tmp_path):
    lake = Lake.at(tmp_path)
    with pytest.raises(ArtefactNotFoundError) as none:
        run_named(lake, "statistics")
    assert "saestore analyze" in none.value.hint
    planted_analysis(lake)
    alone = run_named(lake, "statistics")
    settings = AnalyzeSettings(
        dictionary=DICTIONARY, name="part", logits=None, neighbours=None, rows=50
    )
    analyze.run(settings, lake, device="cpu")
    with pytest.raises(QueryError) as several:
        run_named(lake, "statistics")
    assert "planted/relu/default, planted/relu/part" in several.value.hint
    assert run_named(lake, "statistics", analysis=f"{DICTIONARY}/default").equals(alone)
    part = f"{DICTIONARY}/part"
    assert not run_named(lake, "statistics", analysis=part).equals(alone)
    # it has no neighbours to look at: every feature is
    every = [
        run_named(
            lake, "absorption_suspects", {"parent": 4, "tokens": " w3", **more}, analysis=part
        )
        for more in ({}, {"min_cos": -1})
    ]
    assert every[0].num_rows > 0
    assert every[0].equals(every[1])
    with pytest.raises(ArtefactNotFoundError) as unclear:
        run_named(lake, "statistics", analysis=DICTIONARY)
    assert "planted/relu/part" in unclear.value.hint
    with pytest.raises(ArtefactNotFoundError) as misspelt:
        run_named(lake, "statistics", analysis="planted/rela")
    assert "planted/relu" in misspelt.value.hint
