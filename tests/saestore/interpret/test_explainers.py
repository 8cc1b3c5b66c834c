"""What explainers pick and show, and what personas that read it make of it."""

from dataclasses import replace

import pytest
import torch

from saestore import analyze
from saestore.errors import UnsupportedError
from saestore.features import Analysis
from saestore.interpret.draw import Draw
from saestore.interpret.explainers import REGISTRY, Explainer, explainer_of
from saestore.interpret.places import Material
from saestore.lake import Lake
from saestore.testing import personas
from saestore.testing.analyses import plant, planted_analysis, write_dictionary
from saestore.testing.dictionaries import random_dictionary
from saestore.testing.judging import Session
from saestore.testing.llm import says
from saestore.testing.rules import RULES, rules_analysis
from saestore.testing.shown import marked_of, text_of
from saestore.testing.stores import synthetic_store
from saestore_schemas.analyze import AnalyzeSettings, TopSubsample
from saestore_schemas.dictionary import TopK
from saestore_schemas.families import LorsaSettings
from saestore_schemas.interpret import (
    ContrastiveExplainer,
    LogitsExplainer,
    QuantileExplainer,
    TopExplainer,
    ZPatternExplainer,
)


ORACLE = personas.oracle(RULES)
PLAIN = [TopExplainer(), QuantileExplainer(), LogitsExplainer(), ContrastiveExplainer()]


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    return Lake.at(tmp_path_factory.mktemp("explained"))


@pytest.fixture(scope="module")
def feature(lake):
    material = Material(Analysis.open(lake, rules_analysis(lake).name), seed=1)
    draws = list(material.draws(range(len(RULES))))
    return lambda number, persona=ORACLE: Session(material, draws[number], persona)


@pytest.fixture(scope="module")
def attending(tmp_path_factory):
    """Features of a dictionary that attends."""
    lake = Lake.at(tmp_path_factory.mktemp("attending"))
    reads, writes, d = "blocks.1.ln1.hook_normalized", "blocks.1.hook_attn_out", 7
    synthetic_store(lake, "store", rows=460, width=d, hookpoints=(reads, writes), context_size=23)
    settings = LorsaSettings(
        family="lorsa", hookpoint_in=reads, hookpoint_out=writes, d_sae=6,
        activation=TopK(k=3), attention={"n_qk": 3, "d_qk": 6, "rope": {"base": 100.0}},
    )  # fmt: skip
    lorsa = random_dictionary(settings, dict.fromkeys((reads, writes), d), dtype=torch.float32)
    write_dictionary(lake, "s/lorsa", lorsa, settings)
    chosen = AnalyzeSettings(
        dictionary="s/lorsa", activations="store", logits=None,
        subsamples={"top": TopSubsample(n=12)}, memory_mib=16,
    )  # fmt: skip
    analyze.run(chosen, lake, device="cpu")
    material = Material(Analysis.open(lake, "s/lorsa"), seed=1)
    return [Session(material, draw, says("")) for draw in material.draws(range(6))]


def user_lines(session, explainer):
    return explainer.prompt(session.evidence(explainer))[1].content.split("\n")


def shown(lines):
    return [line.split("] ", 1)[1] for line in lines if line.startswith("[")]


def test_every_kind_has_an_explainer_that_its_settings_make():
    for settings in (*PLAIN, ZPatternExplainer()):
        explainer = explainer_of(settings)
        assert isinstance(explainer, Explainer)
        assert (explainer.version, explainer.window) == (f"{settings.kind}-1", 32)
        thinking = explainer_of(settings.model_copy(update={"reasoning": True}))
        assert "reasoning" in thinking.instructions
        assert thinking.instructions != explainer.instructions
        assert "reasoning" in thinking.form.schema["required"]
        assert "reasoning" not in explainer.form.schema["required"]
    assert set(REGISTRY) == {"top", "quantile", "logits", "contrastive", "zpattern"}


@pytest.mark.parametrize("settings", PLAIN, ids=lambda settings: settings.kind)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_who_knows_the_rules_finds_the_one_that_is_shown(feature, settings, number):
    found = feature(number).explained(explainer_of(settings))
    assert (found.outcome, found.text) == ("answered", RULES[number].said)
    assert (found.consistency, found.complexity) == (5, 1)


@pytest.mark.parametrize("settings", PLAIN, ids=lambda settings: settings.kind)
def test_what_is_shown_is_of_the_part_to_be_explained_and_all_of_it(feature, settings):
    session, explainer = feature(0), explainer_of(settings)
    evidence = session.evidence(explainer)
    picks = [snippet.pick for snippet in evidence.snippets]
    assert {session.draw.part_of(pick.context) for pick in picks} == {"explain"}
    assert len({pick.context for pick in picks}) == len(picks)
    lines = shown(user_lines(session, explainer))
    order = sorted(evidence.snippets, key=lambda snippet: snippet.pick.negative is not None)
    assert [text_of(line) for line in lines] == [
        "".join(token.text for token in snippet.example.tokens) for snippet in order
    ]
    assert [bool(marked_of(line)) for line in lines] == [s.pick.negative is None for s in order]


def test_a_feature_that_never_fires_has_nothing_to_be_shown(feature):
    for settings in (*PLAIN, ZPatternExplainer()):
        assert list(explainer_of(settings).choose(feature(4).draw)) == []


def test_quantiles_are_shown_strongest_first(feature):
    explainer = explainer_of(QuantileExplainer(examples=12, quantiles=4))
    picks = explainer.choose(feature(0).draw)
    assert [pick.stratum for pick in picks] == sorted(
        (pick.stratum for pick in picks), reverse=True
    )
    headings = [line for line in user_lines(feature(0), explainer) if line.startswith("Level")]
    assert headings == [
        "Level 4 of 4, the strongest:", "Level 3 of 4:", "Level 2 of 4:", "Level 1 of 4, the faintest:",
    ]  # fmt: skip


def test_negatives_are_near_ones_then_such_with_the_token_then_any(feature):
    class Few(Draw):
        """Of each kind of negative, so many contexts, one of them of two kinds."""

        page = feature(0).page

        def top(self, n, part):
            return feature(0).draw.top(n, part)

        def hard(self, n, kind, part):
            some = {"near": range(3), "same_token": range(2, 5), "silent": range(100, 200)}[kind]
            return [
                replace(feature(0).draw.silent(1, part)[0], context=c, negative=kind) for c in some
            ][:n]

    picks = explainer_of(ContrastiveExplainer(examples=1, negatives=7)).choose(Few())
    assert [(pick.negative, pick.context) for pick in picks[1:]] == [
        *(("near", c) for c in (0, 1, 2)),
        *(("same_token", c) for c in (3, 4)),
        *(("silent", c) for c in (100, 101)),
    ]
    few = explainer_of(ContrastiveExplainer(examples=1, negatives=2)).choose(Few())
    assert [pick.negative for pick in few[1:]] == ["near", "near"]


def test_without_logits_it_says_that_they_are_not_known(feature):
    lines = user_lines(feature(0), explainer_of(LogitsExplainer(tokens=3)))
    assert "Which tokens it promotes is not known." in lines
    (after,) = [line for line in lines if line.startswith("Tokens that come right after")]
    assert after.count("%") == 3


def test_values_below_zero_are_marked_and_said_so(tmp_path):
    lake = Lake.at(tmp_path)
    ref, known = planted_analysis(lake, planted=plant(seed=3, contexts=120, signed=True))
    material = Material(Analysis.open(lake, ref.name), seed=1)
    (draw,) = material.draws([8])
    assert (known.values[:, 8] < 0).any()
    explainer = explainer_of(TopExplainer())
    session = Session(material, draw, ORACLE)
    lines = user_lines(session, explainer)
    for snippet, line, told in zip(
        session.evidence(explainer).snippets, shown(lines), lines[3::2], strict=True
    ):
        values = [token.value for token in snippet.example.tokens if token.value]
        assert (min(values) < 0) == ('" -' in told)
        assert marked_of(line)


def test_keys_and_queries_of_what_attends(attending):
    explainer = explainer_of(ZPatternExplainer(examples=5, reads=2))
    seen = 0
    for session in attending:
        evidence = session.evidence(explainer)
        examples = {e.context: e for e in session.page.examples("top")}
        peaks = [examples[s.pick.context].peak for s in evidence.snippets]
        assert peaks == sorted(peaks, reverse=True)
        arrows = [line for line in user_lines(session, explainer) if " => " in line]
        assert len(arrows) == len(evidence.snippets) <= 5
        for snippet, arrow in zip(evidence.snippets, arrows, strict=True):
            assert session.draw.part_of(snippet.pick.context) == "explain"
            example = examples[snippet.pick.context]
            first = next(read for read in example.reads if read.position is not None)
            total = sum(read.value for read in example.reads)
            assert total == pytest.approx(example.peak, rel=1e-5)
            assert f"{first.value / total:.0%}" in arrow
            assert arrow.endswith(f'=> "{example.peak_token}"'.replace("<bos>", r"\{\<bos\>}"))
            seen += 1
    assert seen > 10


def test_without_a_table_of_what_is_read_there_are_no_keys(feature):
    with pytest.raises(UnsupportedError, match="zpattern") as caught:
        explainer_of(ZPatternExplainer()).choose(feature(0).draw)
    assert "lorsa" in caught.value.expected
    assert "quantile" in caught.value.hint
