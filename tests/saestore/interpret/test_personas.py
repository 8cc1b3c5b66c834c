"""The whole verb against language models that answer by rule: the scores that must come out."""

import math

import pytest

from saestore.features import Analysis
from saestore.interpret import run
from saestore.lake import Lake
from saestore.testing import personas
from saestore.testing.llm import dropped_then, llm_server, refused_then, slow
from saestore.testing.rules import AFTER, NEVER, ON, RULES, SOURCE, rules_analysis
from saestore_schemas.interpret import InterpretSettings


JUDGED = ("detection", "fuzzing")
ASKED = 12


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    lake = Lake.at(tmp_path_factory.mktemp("personas"))
    rules_analysis(lake)
    return lake


@pytest.fixture
def interpreted(lake, request):
    """A function from a persona to what a run with it finds; each has a name of its own."""
    made = []

    def interpret(persona, **changes):
        name = f"{request.node.name.translate(str.maketrans('[]', '--'))[:80]}-{len(made)}"
        asked = {"positives": ASKED, "negatives": ASKED}
        with llm_server(persona) as server:
            settings = InterpretSettings.model_validate(
                {
                    "name": name,
                    "features": "planted/relu",
                    "select": {"kind": "list", "features": [0, 1, 2, 4]},
                    "endpoint": {
                        "model": "test-model",
                        "base_url": server.url,
                        "attempts": 6,
                    },
                    "explainers": {"top": {"kind": "top", "examples": 8}},
                    "scorers": {kind: {"kind": kind, **asked} for kind in JUDGED},
                    **changes,
                }
            )
            made.append(run(settings, lake))
        return made[-1]

    return interpret


def lines(made, *kinds):
    return [line for line in made.scores.to_pylist() if line["kind"] in (kinds or JUDGED)]


def test_an_oracle_explains_and_judges_without_a_mistake(interpreted):
    made = interpreted(personas.oracle(RULES))
    said = {line["feature"]: line["text"] for line in made.explanations.to_pylist()}
    assert said == {0: ON.said, 1: AFTER.said, 2: SOURCE.said, 4: None}
    outcomes = {line["feature"]: line["outcome"] for line in made.explanations.to_pylist()}
    assert outcomes == {0: "answered", 1: "answered", 2: "answered", 4: "no_examples"}
    for line in lines(made):
        if (
            line["n"] > line["tp"] + line["fn"] > 0
        ):  # a source has no other tokens to be fuzzed with
            assert (line["balanced_accuracy"], line["auroc"]) == (1.0, 1.0)
            assert (line["n_parsed"], line["fp"], line["fn"]) == (line["n"], 0, 0)
            assert (line["ci_low"], line["ci_high"]) == (1.0, 1.0)
        assert line["by_decile"] == [pytest.approx(1.0)] * 10 or None in line["by_decile"]
    assert [line["balanced_accuracy"] for line in lines(made, "detection")] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("persona", "accuracy", "auroc"),
    [
        (personas.always(True, RULES), 0.5, 0.5),
        (personas.always(False, RULES), 0.5, 0.5),
        (personas.inverted(RULES), 0.0, 0.0),
    ],
    ids=["yes", "no", "inverted"],
)
def test_who_knows_nothing_and_who_knows_the_opposite(interpreted, persona, accuracy, auroc):
    made = interpreted(persona)
    defined = [line for line in lines(made) if line["score"] is not None]
    assert len(defined) >= 5
    for line in defined:
        assert (line["balanced_accuracy"], line["auroc"]) == (accuracy, auroc)


def test_who_errs_sometimes_is_right_as_often_as_can_be(interpreted):
    p = 0.25
    made = interpreted(
        personas.noisy(p, RULES),
        scorers={"detection": {"kind": "detection", "positives": 30, "negatives": 30}},
        select={"kind": "list", "features": [0, 1, 2]},
    )
    found = lines(made, "detection")
    n = sum(line["n"] for line in found)
    right = sum(line["tp"] + line["tn"] for line in found)
    margin = 4 * math.sqrt(n * p * (1 - p))
    assert n >= 150
    assert abs(right - n * (1 - p)) < margin
    assert all(line["ci_low"] < line["balanced_accuracy"] < line["ci_high"] for line in found)


@pytest.mark.parametrize(
    "persona",
    [
        personas.malformed(RULES),
        personas.truncated(RULES),
        personas.wrong_length(RULES),
        personas.wrong_length(RULES, more=-1),
    ],
    ids=["malformed", "truncated", "longer", "shorter"],
)
def test_what_cannot_be_read_is_no_answer(interpreted, persona):
    made = interpreted(persona)
    for line in lines(made):
        assert line["n_parsed"] == line["tp"] + line["fp"] + line["tn"] + line["fn"] == 0
        assert line["balanced_accuracy"] is line["score"] is line["auroc"] is None
        assert line["n"] == 0 or line["balanced_accuracy_all"] in {0.0, None}
        assert line["why_null"]
    assert set(made.answers["outcome"].to_pylist()) == {"unparsed"}
    assert made.answers["answer"].null_count == made.answers.num_rows > 50


def test_trouble_on_the_way_changes_no_result(interpreted):
    calm = interpreted(personas.oracle(RULES))
    troubled = [
        interpreted(refused_then(personas.oracle(RULES), 2, retry_after="0.01")),
        interpreted(dropped_then(personas.oracle(RULES), 1)),
        interpreted(slow(personas.oracle(RULES), 0.05)),
    ]
    for made in troubled:
        assert made.scores == calm.scores
        assert made.explanations == calm.explanations
        assert made.answers == calm.answers
    assert [int(made.manifest.facts["retries"] > 0) for made in troubled] == [1, 1, 0]


def test_simulations(interpreted):
    wanted = {
        "scorers": {"simulation": {"kind": "simulation", "positives": 6, "negatives": 3}},
        "select": {"kind": "list", "features": [0, 1, 2]},
    }
    exact = lines(interpreted(personas.oracle(RULES), **wanted), "simulation")
    assert [line["correlation"] for line in exact] == [pytest.approx(1.0)] * 3
    assert [line["score"] for line in exact] == [line["correlation"] for line in exact]
    flat = lines(interpreted(personas.constant(4, RULES), **wanted), "simulation")
    assert [line["correlation"] for line in flat] == [None] * 3
    assert all("constant" in line["why_null"] or "same" in line["why_null"] for line in flat)


def test_several_explainers_and_scorers_stand_side_by_side(interpreted, lake):
    made = interpreted(
        personas.oracle(RULES),
        explainers={kind: {"kind": kind} for kind in ("top", "quantile", "logits", "contrastive")},
        select={"kind": "list", "features": [0, 1]},
    )
    assert made.explanations.num_rows == 8
    assert made.scores.num_rows == 16
    assert {line["score"] for line in made.scores.to_pylist()} == {1.0}
    page = Analysis.open(lake, "planted/relu").feature(0)
    own = [each for each in page.explanations if each.run == made.ref.name.rpartition("/")[2]]
    assert {each.explainer for each in own} == {"top", "quantile", "logits", "contrastive"}
    assert all(each.text == ON.said and each.score == 1.0 for each in own)
    assert NEVER.said not in made.explanations["text"].to_pylist()
