"""Runs side by side: means, differences on the same features, what they took."""

import pytest

from saestore.errors import ArtefactNotFoundError
from saestore.features.interpretation import Interpretation, Mean
from saestore.interpret.compare import compare
from saestore.lake import Lake
from saestore.testing.analyses import plant, planted_analysis
from saestore.testing.interpretations import Explained, interpretation_run


ANALYSIS = "planted/relu/default"


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    lake = Lake.at(tmp_path_factory.mktemp("compared"))
    planted_analysis(lake, planted=plant(contexts=24, d_sae=11))
    first = [
        Explained(1, "one", scores={"detection": 0.9, "fuzzing": 0.6}),
        Explained(2, "two", scores={"detection": 0.7, "fuzzing": None}),
        Explained(4, None),
    ]
    second = [
        Explained(1, "uno", explainer="top", scores={"detection": 0.8}),
        Explained(2, "due", explainer="top", scores={"detection": 0.7}),
        Explained(5, "cinque", explainer="top", scores={"detection": 0.5}),
    ]
    interpretation_run(lake, ANALYSIS, "first", first)
    interpretation_run(lake, ANALYSIS, "second", second, priced=False)
    return lake


def test_an_analysis_stands_for_all_its_runs(lake):
    whole = compare(lake, ["planted/relu"])
    named = compare(lake, [f"{ANALYSIS}/first", f"features/{ANALYSIS}/interpretations/second"])
    assert whole == named
    assert [each.run for each in whole.outlays] == [f"{ANALYSIS}/first", f"{ANALYSIS}/second"]


def test_means_are_over_features_and_the_best_comes_first(lake):
    found = compare(lake, [ANALYSIS])
    table = [(s.scorer, s.explainer, s.score.n, s.score.value) for s in found.standings]
    assert table == [
        ("detection", "quantile", 2, pytest.approx(0.8)),
        ("detection", "top", 3, pytest.approx(2 / 3)),
        ("fuzzing", "quantile", 1, pytest.approx(0.6)),
    ]
    fuzzing = found.standings[2]
    assert (fuzzing.undefined, fuzzing.unparsed) == (1, 0.5)


def test_two_explainers_are_told_apart_on_the_features_of_both(lake):
    (duel,) = compare(lake, [ANALYSIS]).duels
    assert (duel.first, duel.second) == (
        (f"{ANALYSIS}/first", "quantile"),
        (f"{ANALYSIS}/second", "top"),
    )
    assert (duel.scorer, duel.difference.n, duel.wins) == ("detection", 2, 0.75)
    assert duel.difference.value == pytest.approx(0.05)
    assert duel.difference.ci_low == pytest.approx(0.0)
    assert duel.difference.ci_high == pytest.approx(0.1)


def test_what_runs_took_is_told_and_an_unknown_price_is_not_nothing(lake):
    first, second = compare(lake, [ANALYSIS]).outlays
    assert (first.features, first.explanations, first.asked) == (3, 2, 3)
    assert first.tokens > 0
    assert first.cost > 0
    assert second.cost is None


def test_a_run_shows_its_best_explanations_and_how_many_failed(lake):
    run = Interpretation.open(lake, lake.find(f"{ANALYSIS}/first"))
    best = [(said.feature, said.text, said.score) for said in run.best(9)]
    assert best == [(1, "one", pytest.approx(0.75)), (2, "two", pytest.approx(0.7))]
    assert run.failed == {"unparsed": 1}


def test_a_mean_has_an_interval_that_covers_it():
    mean = Mean.of([0.1 * each for each in range(11)])
    assert mean.value == pytest.approx(0.5)
    assert 0.2 < mean.ci_low < mean.value < mean.ci_high < 0.8
    assert Mean.of([0.25]) == Mean(1, 0.25, None, None)
    assert Mean.of([]) == Mean(0, None, None, None)


@pytest.mark.parametrize("name", ["planted/rely", f"{ANALYSIS}/frst"])
def test_what_is_not_there_is_said_with_the_nearest(lake, name):
    with pytest.raises(ArtefactNotFoundError) as caught:
        compare(lake, [name])
    assert "relu" in str(caught.value.hint) or "first" in str(caught.value.hint)
