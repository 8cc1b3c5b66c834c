import shutil

import pytest

from saestore.errors import DamagedArtefactError, FormatVersionError
from saestore.features import Analysis, query, run_named
from saestore.lake import Lake, Ref, layout, manifest as manifests
from saestore.testing.analyses import planted_analysis
from saestore.testing.interpretations import Explained, interpretation_run


ANALYSIS = "planted/relu/default"


@pytest.fixture(scope="module")
def whole_lake(tmp_path_factory):
    """A lake with an analysis that two runs are about."""
    lake = Lake.at(tmp_path_factory.mktemp("explained"))
    planted_analysis(lake)
    interpretation_run(
        lake,
        ANALYSIS,
        "zeta",
        [
            Explained(4, "says the", scores={"detection": 0.75, "fuzzing": 0.55}),
            Explained(4, "tokens after a comma", "top", {"detection": 0.9, "fuzzing": 0.8}),
            Explained(5, None, scores={}),
            Explained(6, "nothing in particular", scores={"detection": None}),
        ],
    )
    interpretation_run(
        lake, ANALYSIS, "alpha", [Explained(4, "articles", scores={"detection": 0.85})]
    )
    return lake


@pytest.fixture
def explained_lake(whole_lake, tmp_path):
    """A copy of it that may be changed."""
    shutil.copytree(whole_lake.storage.path(), tmp_path / "lake")
    return Lake.at(tmp_path / "lake")


def test_a_page_has_the_explanations_of_all_runs_the_newest_last(explained_lake):
    page = Analysis.open(explained_lake, ANALYSIS).feature(4)
    said = [(each.run, each.explainer, each.text) for each in page.explanations]
    assert said == [
        ("zeta", "quantile", "says the"),
        ("zeta", "top", "tokens after a comma"),
        ("alpha", "quantile", "articles"),
    ]
    scores = [{score.scorer: score.score for score in e.scores} for e in page.explanations]
    assert scores == [
        {"detection": 0.75, "fuzzing": 0.55},
        {"detection": 0.9, "fuzzing": 0.8},
        {"detection": 0.85},
    ]
    first = page.explanations[0].scores[0]
    assert (first.ci_low, first.ci_high, first.n, first.n_parsed) == (0.65, 0.85, 40, 40)
    assert first.counts == {"tp": 15, "fp": 5, "tn": 15, "fn": 5}
    assert page.to_dict()["explanations"][2]["scores"][0]["metrics"]["balanced_accuracy"] == 0.85


def test_the_best_explanation_has_the_largest_mean_and_of_equal_ones_is_the_newest(explained_lake):
    analysis = Analysis.open(explained_lake, ANALYSIS)
    assert analysis.feature(4).explanation.text == "articles"  # .85 both, and the run is newer
    assert analysis.feature(6).explanation.text == "nothing in particular"
    assert analysis.feature(6).explanation.score is None
    assert analysis.feature(5).explanation is None
    assert [each.outcome for each in analysis.feature(5).explanations] == ["unparsed"]
    assert analysis.feature(7).explanations == ()


def test_explanations_are_ranked_as_pages_rank_them(explained_lake):
    analysis = Analysis.open(explained_lake, ANALYSIS)
    ranked = analysis.interpretations.ranked()
    assert ranked.rows() == [
        (4, "articles", 0.85),
        (4, "tokens after a comma", 0.85),
        (4, "says the", 0.65),
        (6, "nothing in particular", None),
    ]
    for page in analysis.pages(range(analysis.n_features)):
        mine = ranked.filter(ranked["feature"] == page.feature)
        assert (page.explanation and page.explanation.text) == next(iter(mine["text"]), None)


def test_an_open_analysis_sees_runs_that_come_and_go(explained_lake):
    analysis = Analysis.open(explained_lake, ANALYSIS)
    before = analysis.interpretations.version
    assert analysis.feature(7).explanations == ()
    ref = interpretation_run(explained_lake, ANALYSIS, "more", [Explained(7, "a number")])
    between = analysis.interpretations.version
    assert analysis.feature(7).explanation.text == "a number"
    explained_lake.artefact(ref).remove()
    assert analysis.feature(7).explanations == ()
    interpretation_run(explained_lake, ANALYSIS, "more", [Explained(7, "a digit")])
    assert analysis.feature(7).explanation.text == "a digit"
    assert len({before, between, analysis.interpretations.version}) == 3


def test_a_run_that_is_not_finished_is_not_read(explained_lake):
    analysis = Analysis.open(explained_lake, ANALYSIS)
    explained_lake.artefact(Ref("interpretation", f"{ANALYSIS}/alpha")).remove(layout.MANIFEST)
    assert {each.run for each in analysis.feature(4).explanations} == {"zeta"}


ZETA = f"features/{ANALYSIS}/interpretations/zeta"


def cut(lake):
    path = lake.artefact(Ref("interpretation", f"{ANALYSIS}/zeta")).path(
        "interpretation_scores/part-00000.parquet"
    )
    path.write_bytes(path.read_bytes()[:-3])


def later_format(lake):
    path = lake.artefact(Ref("interpretation", f"{ANALYSIS}/zeta")).path(layout.MANIFEST)
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 9'))


def no_manifest(lake):
    lake.artefact(Ref("interpretation", f"{ANALYSIS}/zeta")).path(layout.MANIFEST).write_text("{")


@pytest.mark.parametrize("damage", [cut, later_format, no_manifest])
def test_a_run_that_cannot_be_read_is_left_out_and_said(explained_lake, damage):
    whole = Analysis.open(explained_lake, ANALYSIS).feature(4)
    assert {each.run for each in whole.explanations} == {"alpha", "zeta"}
    assert not whole.unreadable
    damage(explained_lake)
    analysis = Analysis.open(explained_lake, ANALYSIS)
    page = analysis.feature(4)
    assert page.statistics == whole.statistics
    assert page.groups == whole.groups
    assert {each.run for each in page.explanations} == {"alpha"}
    assert list(page.unreadable) == [ZETA]
    assert page.to_dict()["unreadable"] == dict(page.unreadable)
    ranked = analysis.interpretations.ranked()
    assert 0 < len(ranked) < 5
    assert analysis.interpretations.version != ""


def test_a_question_about_a_damaged_run_names_it(explained_lake):
    cut(explained_lake)
    with pytest.raises(DamagedArtefactError, match="relu/default/zeta") as caught:
        query(explained_lake, "SELECT count(*) FROM interpretation_scores")
    assert "interpretation_scores/part-00000.parquet" in caught.value.damage[0]
    assert query(explained_lake, "SELECT count(*) AS n FROM interpretations").to_pylist() == [
        {"n": 5}
    ]


def test_sql_names_the_run(explained_lake):
    found = query(
        explained_lake,
        "SELECT series, dictionary, analysis, run, text, s.score FROM interpretations "
        "JOIN interpretation_scores s USING (series, dictionary, analysis, run, interpretation_id) "
        "WHERE scorer = 'detection' AND s.feature = 4 ORDER BY s.score DESC",
    ).to_pylist()
    assert [(line["run"], line["text"], line["score"]) for line in found] == [
        ("zeta", "tokens after a comma", 0.9),
        ("alpha", "articles", 0.85),
        ("zeta", "says the", 0.75),
    ]
    assert {line["analysis"] for line in found} == {"default"}


def test_answers_follow_the_scores(explained_lake):
    (found,) = (
        Analysis.open(explained_lake, ANALYSIS)
        .sql(
            "SELECT count(*) FILTER (label AND outcome = 'right') AS tp, count(*) AS n "
            "FROM interpretation_answers WHERE run = 'zeta' AND interpretation_id = 'top/4' "
            "AND scorer = 'detection'"
        )
        .to_pylist()
    )
    assert found == {"tp": 18, "n": 40}


def test_best_explained_has_one_line_of_a_feature(explained_lake):
    found = run_named(explained_lake, "best_explained").to_pylist()
    assert [(line["feature"], line["score"], line["text"], line["run"]) for line in found] == [
        (4, 0.9, "tokens after a comma", "zeta")
    ]
    (mine,) = run_named(explained_lake, "best_explained", {"run": "alpha"}).to_pylist()
    assert (mine["text"], mine["explainer"], mine["ci_low"]) == ("articles", "quantile", 0.75)
    assert (
        run_named(explained_lake, "best_explained", {"scorer": "fuzzing", "run": "alpha"}).num_rows
        == 0
    )


def test_badly_explained_are_those_without_a_text_or_a_score_and_those_below(explained_lake):
    firings = {
        line["feature"]: line["n_firings"]
        for line in query(explained_lake, "SELECT feature, n_firings FROM features").to_pylist()
    }
    found = run_named(explained_lake, "badly_explained").to_pylist()
    assert [line["feature"] for line in found] == sorted({5, 6}, key=lambda f: -firings[f])
    assert {line["feature"]: line["outcome"] for line in found} == {
        5: "unparsed",
        6: "no answer could be read",
    }
    more = run_named(explained_lake, "badly_explained", {"below": 0.91, "min_firings": firings[4]})
    assert 4 in more["feature"].to_pylist()
    assert min(more["n_firings"].to_pylist()) >= firings[4]


def test_a_run_that_is_removed_while_it_is_read_is_as_if_it_had_not_been_there(
    explained_lake, monkeypatch
):
    analysis = Analysis.open(explained_lake, ANALYSIS)
    gone = explained_lake.artefact(Ref("interpretation", f"{ANALYSIS}/zeta"))
    check = manifests.check_sizes

    def removing(artefact, manifest, paths):
        if manifest.name.endswith("zeta"):
            gone.remove()
        check(artefact, manifest, paths)

    monkeypatch.setattr(manifests, "check_sizes", removing)
    assert [each.run for each in analysis.feature(4).explanations] == ["alpha"]


def test_a_question_about_a_run_of_another_format_is_refused(explained_lake):
    later_format(explained_lake)
    with pytest.raises(FormatVersionError):
        query(explained_lake, "SELECT * FROM interpretations")
    assert query(explained_lake, "SELECT count(*) AS n FROM features").to_pylist() == [{"n": 9}]
