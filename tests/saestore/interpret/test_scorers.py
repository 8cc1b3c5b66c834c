"""Scorers against personas whose every answer is known: what they must come to."""

import json
import math
from dataclasses import replace

import pytest

from saestore.errors import UnsupportedError
from saestore.features import Analysis
from saestore.interpret.places import Material
from saestore.interpret.request import Answer, Asking, Choice
from saestore.interpret.scorers import REGISTRY, Scorer, scorer_of
from saestore.lake import Lake
from saestore.testing import personas
from saestore.testing.judging import ASKING, Session
from saestore.testing.llm import Reply
from saestore.testing.rules import AFTER, ON, RULES, SOURCE, rules_analysis
from saestore.testing.shown import marked_of, text_of
from saestore_schemas.interpret import (
    DetectionScorer,
    EmbeddingScorer,
    FuzzingScorer,
    SimulationScorer,
)
from saestore_schemas.interpretation_tables import INTERPRETATION_SCORES


ORACLE = personas.oracle(RULES)
JUDGES = [DetectionScorer, FuzzingScorer]


@pytest.fixture(scope="session")
def material(tmp_path_factory):
    lake = Lake.at(tmp_path_factory.mktemp("rules"))
    return Material(Analysis.open(lake, rules_analysis(lake).name), seed=1)


@pytest.fixture(scope="session")
def feature(material):
    draws = list(material.draws(range(len(RULES))))
    return lambda number, persona=ORACLE: Session(material, draws[number], persona)


def columns(session, settings, rule, **more):
    return session.judged(scorer_of(settings), rule.said, **more).score.columns


def test_every_kind_has_a_scorer_that_its_settings_make():
    made = [
        scorer_of(s) for s in (*(kind() for kind in JUDGES), SimulationScorer(), EmbeddingScorer())
    ]
    assert [scorer.version for scorer in made] == [f"{kind}-1" for kind in
        ("detection", "fuzzing", "simulation", "embedding")]  # fmt: skip
    assert all(isinstance(scorer, Scorer) and scorer.window == 32 for scorer in made)
    assert set(REGISTRY) == {"detection", "fuzzing", "simulation", "embedding"}


@pytest.mark.parametrize("kind", JUDGES)
@pytest.mark.parametrize(("answer", "number"), [("binary", 0), ("probability", 1)])
@pytest.mark.parametrize(
    ("persona", "accuracy"),
    [
        (ORACLE, 1.0),
        (personas.inverted(RULES), 0.0),
        (personas.always(True, RULES), 0.5),
        (personas.always(False, RULES), 0.5),
    ],
    ids=["oracle", "inverted", "yes", "no"],
)
def test_what_judges_come_to(feature, kind, answer, number, persona, accuracy):
    found = columns(feature(number, persona), kind(answer=answer), RULES[number])
    assert (found["balanced_accuracy"], found["auroc"]) == (accuracy, accuracy)
    assert found["balanced_accuracy_all"] == found["score"] == accuracy
    assert found["n"] == found["n_parsed"] == sum(found[c] for c in ("tp", "fp", "tn", "fn"))
    assert (found["ci_low"], found["ci_high"]) == (accuracy, accuracy)
    assert found["why_null"] is None
    assert len(found["by_decile"]) == 10
    assert {each for each in found["by_decile"] if each is not None} <= {0.0, 0.5, 1.0}
    assert (found["brier"] is None) == (answer == "binary")


def test_a_score_has_the_columns_of_its_table_in_order(feature):
    names = [column.name for column in INTERPRETATION_SCORES.columns]
    inside = names[names.index("n") : names.index("why_null") + 1]
    for settings in (DetectionScorer(), SimulationScorer(), EmbeddingScorer()):
        assert list(columns(feature(0), settings, ON)) == inside


def test_a_source_is_detected_and_has_no_tokens_to_be_fuzzed_with(feature):
    session = feature(2)
    assert columns(session, DetectionScorer(), SOURCE)["score"] == 1.0
    found = columns(session, FuzzingScorer(), SOURCE)
    assert (found["score"], found["why_null"]) == (None, "there was no negative")
    assert (found["recall"], found["ci_low"]) == (1.0, None)


@pytest.mark.parametrize("kind", JUDGES)
@pytest.mark.parametrize("p", [0.1, 0.3])
def test_who_errs_with_a_probability_is_right_with_the_rest(feature, kind, p):
    right, n = 0, 0
    for number, rule in ((0, ON), (1, AFTER)):
        for seed in range(3):
            noisy = personas.noisy(p, RULES, seed=seed)
            found = columns(feature(number, noisy), kind(), rule, bootstrap=0)
            right, n = right + found["tp"] + found["tn"], n + found["n"]
            assert found["ci_low"] is None
    assert abs(right - n * (1 - p)) <= 3.3 * math.sqrt(n * p * (1 - p))  # 99.9 % of a binomial


SPOILT = {
    "malformed": personas.malformed(RULES),
    "truncated": personas.truncated(RULES),
    "longer": personas.wrong_length(RULES),
    "shorter": personas.wrong_length(RULES, more=-1),
}


@pytest.mark.parametrize(
    "settings", [*(kind() for kind in JUDGES), SimulationScorer()], ids=lambda s: s.kind
)
@pytest.mark.parametrize("persona", SPOILT.values(), ids=SPOILT)
def test_what_cannot_be_read_is_neither_right_nor_wrong(feature, settings, persona):
    session = feature(0, persona)
    judgement = session.judged(scorer_of(settings), ON.said)
    found = judgement.score.columns
    assert found["n"] > 0
    assert found["n_parsed"] == found["tp"] == found["fp"] == found["tn"] == found["fn"] == 0
    assert found["score"] is found["auroc"] is found["ci_low"] is None
    assert found["why_null"] == "no answer could be read"
    assert {verdict.outcome for verdict in judgement.verdicts} == {"unparsed"}
    if settings.kind != "simulation":
        assert found["balanced_accuracy"] is None
        assert found["balanced_accuracy_all"] == 0.0


@pytest.mark.parametrize("kind", JUDGES)
def test_items_are_mixed_and_each_is_asked_about_once(feature, kind):
    session, scorer = feature(0), scorer_of(kind(per_request=7))
    evidence = session.evidence(scorer)
    items = scorer.items(evidence, seed=1)
    assert sorted(item.place for item in items) == list(range(len(evidence.snippets)))
    assert items == scorer.items(evidence, seed=1) != scorer.items(evidence, seed=2)
    labels = [item.label for item in items]
    assert labels != sorted(labels) != sorted(labels, reverse=True)
    questions = scorer.questions(ON.said, items, ASKING, evidence)
    assert [item for question in questions for item in question.items] == list(items)
    assert [len(question.items) for question in questions][:-1] == [7] * (len(questions) - 1)
    for item in items:
        assert (item.decile is None) == (item.negative_kind is not None) == (not item.label)


def lines_of(request):
    return [
        line.split("] ", 1)[1] for line in request.body["messages"][1]["content"].split("\n")[2:]
    ]


def test_detection_shows_no_marks(feature):
    judgement = feature(0).judged(scorer_of(DetectionScorer()), ON.said)
    assert not any(marked_of(line) for request in judgement.requests for line in lines_of(request))


def test_fuzzing_marks_what_fires_or_as_much_that_does_not(feature):
    session, scorer = feature(0), scorer_of(FuzzingScorer(per_request=100))
    evidence = session.evidence(scorer)
    items = scorer.items(evidence, seed=3)
    (question,) = scorer.questions(ON.said, items, ASKING, evidence)
    assert {item.label for item in items} == {True, False}
    deciles = [item.decile for item in items if item.label]
    assert max(map(deciles.count, range(10))) - min(map(deciles.count, range(10))) <= 1
    for item, line in zip(question.items, lines_of(question.request), strict=True):
        marked = " ".join(marked_of(line)).split()
        fires = [t.text.strip() for t in item.snippet.example.tokens if t.value]
        assert item.negative_kind == (None if item.label else "other_tokens")
        if item.label:
            assert marked == fires
        else:
            assert len(marked) == len(fires)
            assert not set(marked) & {"w3", "w8"}
    other = Asking(ASKING.endpoint, seed=ASKING.seed + 1)
    (again,) = scorer.questions(ON.said, items, other, evidence)
    assert lines_of(again.request) != lines_of(question.request)  # drawn by the run's seed


@pytest.mark.parametrize("answer", ["binary", "probability"])
def test_the_form_wants_each_number_once(feature, answer):
    judgement = feature(0).judged(scorer_of(DetectionScorer(answer=answer)), ON.said)
    form = judgement.requests[0].body["response_format"]["json_schema"]
    assert form["schema"]["required"] == ["1", "2", "3", "4", "5"]
    wanted = {"binary": "boolean", "probability": "number"}[answer]
    assert {each["type"] for each in form["schema"]["properties"].values()} == {wanted}


def test_nothing_is_asked_of_a_feature_that_never_fires(material, feature):
    never = feature(4).draw
    for settings in (DetectionScorer(), FuzzingScorer(), SimulationScorer(), EmbeddingScorer()):
        scorer = scorer_of(settings)
        assert list(scorer.choose(never)) == []
        (evidence,) = material.shown([(feature(0).draw, [], 32)])
        assert not scorer.questions("x", scorer.items(evidence, seed=0), ASKING, evidence)
        score = scorer.measure([], evidence=evidence, bootstrap=9, seed=0)
        assert (score.columns["n"], score.columns["score"]) == (0, None)
        assert score.columns["why_null"] == "there was nothing to ask about"


@pytest.mark.parametrize("values", ["numeric", "expected"])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_an_exact_simulation_correlates_wholly(feature, values, number):
    found = columns(feature(number), SimulationScorer(values=values), RULES[number])
    assert found["correlation"] == pytest.approx(1.0, abs=1e-12)
    assert found["score"] == found["correlation"]
    assert found["ci_low"] == pytest.approx(1.0, abs=1e-12)
    assert (found["by_decile"], found["tp"], found["auroc"]) == ([], 0, None)


def test_an_inverted_simulation_correlates_wholly_the_other_way(feature):
    found = columns(feature(0, personas.inverted(RULES)), SimulationScorer(), ON)
    assert found["correlation"] == pytest.approx(-1.0, abs=1e-12)


def test_a_constant_simulation_has_no_correlation_and_says_why(feature):
    found = columns(feature(0, personas.constant(3, RULES)), SimulationScorer(), ON)
    assert found["n"] == found["n_parsed"] > 0
    assert found["score"] is found["correlation"] is found["ci_low"] is None
    assert found["why_null"] == "the strengths told are the same everywhere"


def test_a_simulation_asks_about_each_token_of_one_text(feature):
    session, scorer = feature(0), scorer_of(SimulationScorer())
    evidence = session.evidence(scorer)
    for question in scorer.questions(ON.said, scorer.items(evidence, seed=0), ASKING, evidence):
        (item,) = question.items
        tokens = item.snippet.example.tokens
        lines = question.request.body["messages"][1]["content"].split("\n")
        told = [line.split("\t")[1].strip('"') for line in lines if "\t" in line]
        assert [text_of(each) for each in told] == [token.text for token in tokens]
        assert "logprobs" not in question.request.body


def question_about(feature, settings, values):
    """A question of a simulation, and answers to it."""
    session, scorer = feature(0), scorer_of(settings)
    evidence = session.evidence(scorer)
    question = scorer.questions(ON.said, scorer.items(evidence, seed=0), ASKING, evidence)[0]
    n = len(question.items[0].snippet.example.tokens)
    return scorer, evidence, question, dict(zip(map(str, range(1, n + 1)), values(n), strict=True))


def test_an_expected_strength_is_the_mean_over_what_could_have_stood_there(feature):
    scorer, evidence, question, told = question_about(
        feature, SimulationScorer(values="expected"), lambda n: [10, *[2] * (n - 1)]
    )
    assert question.request.body["top_logprobs"] == 20
    choices = []
    for place, (key, value) in enumerate(told.items()):
        choices.append(Choice(f'{"," if place else "{"}"{key}":', 0.0, ((f'"{key}":', 0.0),)))
        if value == 10:  # two tokens of one number: the first stands for it
            choices += [
                Choice(
                    "1",
                    -0.6931471805599453,
                    (("1", -0.6931471805599453), ("0", -0.6931471805599453)),
                )
            ]
            choices += [Choice("0", 0.0, (("0", 0.0),))]
        else:  # 2 and 4 are equally likely, a word and a number out of range do not count
            half = -1.6094379124341003
            choices.append(
                Choice(" 2", half, ((" 2", half), ("4", half), ("none", half), ("99", half)))
            )
    choices.append(Choice("}", 0.0, ()))
    text = "".join(choice.text for choice in choices)
    answer = Answer("h", text, "stop", 1, 1, 0, "m", tuple(choices))
    (verdict,) = scorer.read(question, answer, evidence)
    assert verdict.values == pytest.approx((5.0, *[3.0] * (len(told) - 1)))
    with pytest.raises(UnsupportedError, match="log-probabilities") as caught:
        scorer.read(question, replace(answer, choices=()), evidence)
    assert "numeric" in caught.value.hint


@pytest.mark.parametrize(
    ("spoil", "outcome"),
    [
        (json.dumps, "answered"),
        (lambda told: json.dumps(list(told.values())), "answered"),
        (lambda told: "\n".join(f"{key}\t{value}" for key, value in told.items()), "answered"),
        (lambda told: json.dumps(list(told.values())[1:]), "unparsed"),
        (lambda told: json.dumps({key: told[key] for key in list(told)[1:]}), "unparsed"),
        (lambda told: json.dumps(told | {"2": 11}), "unparsed"),
        (lambda told: json.dumps(told | {"2": True}), "unparsed"),
        (lambda told: json.dumps(told | {"999": 1}), "unparsed"),
    ],
    ids=["object", "list", "lines", "short", "missing", "too strong", "no number", "extra"],
)
def test_a_simulation_counts_whole_or_not_at_all(feature, spoil, outcome):
    scorer, evidence, question, told = question_about(
        feature, SimulationScorer(), lambda n: [place % 3 for place in range(n)]
    )
    answer = Answer("h", spoil(told), "stop", 1, 1, 0, "m")
    (verdict,) = scorer.read(question, answer, evidence)
    assert verdict.outcome == outcome
    assert verdict.values == (tuple(map(float, told.values())) if outcome == "answered" else ())


@pytest.mark.parametrize(
    ("persona", "auroc"),
    [(ORACLE, 1.0), (personas.inverted(RULES), 0.0), (personas.always(True, RULES), 0.5)],
    ids=["oracle", "inverted", "same"],
)
def test_texts_near_an_explanation_as_vectors(feature, persona, auroc):
    judgement = feature(0, persona).judged(scorer_of(EmbeddingScorer()), ON.said)
    found = judgement.score.columns
    assert len(judgement.requests) == 1
    assert found["score"] == found["auroc"] == auroc
    assert found["balanced_accuracy"] is None
    assert found["ci_low"] == auroc
    assert all(v.answer is None and -1 <= v.probability <= 1 for v in judgement.verdicts)


@pytest.mark.parametrize(
    "vectors",
    [(), ((1.0,),), ((1.0, 0.0), (1.0,)), ((0.0, 0.0), *[(1.0, 0.0)] * 40)],
    ids=["none", "one", "unequal", "zero"],
)
def test_vectors_that_tell_nothing_are_unparsed(feature, vectors):
    found = columns(feature(0, lambda _: Reply(vectors=vectors)), EmbeddingScorer(), ON)
    assert (found["n_parsed"], found["score"]) == (0, None)
