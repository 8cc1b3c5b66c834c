"""Places against the dense array: parts that never meet, strata, and negatives that are silent."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from saestore.interpret.places import Material


PARTS = ("explain", "score", "reserve")
FEATURES = st.integers(0, 10)


@pytest.fixture(scope="session")
def peaks(known):
    """Of each feature and context: the largest strength and its first position; None where it is silent."""
    starts = np.cumsum(known.lengths) - known.lengths
    found = {}
    for feature in range(known.values.shape[1]):
        for context, (start, length) in enumerate(zip(starts, known.lengths, strict=True)):
            here = np.abs(known.values[start : start + length, feature])
            if here.max() > 0:
                found[feature, context] = (float(here.max()), int(here.argmax()))
    return found


def all_of(draw, part, n):
    return [
        *draw.top(n, part),
        *draw.strata(n, 10, part),
        *draw.negatives(n, ("near", "same_token"), part),
        *draw.silent(n, part),
    ]


@given(feature=FEATURES, n=st.integers(1, 400), m=st.integers(1, 400))
@settings(deadline=None)
def test_what_is_explained_and_what_is_scored_never_meet(draws, feature, n, m):
    draw = draws[feature]
    explain, score, reserve = (
        {pick.context for pick in all_of(draw, part, size)}
        for part, size in zip(PARTS, (n, m, n), strict=True)
    )
    assert not explain & score
    assert not reserve & (explain | score)
    assert all(draw.part_of(context) == "explain" for context in explain)
    assert all(draw.part_of(context) == "score" for context in score)


def test_parts_are_six_three_and_one_tenth_of_all_contexts(draws, known):
    parts = [draws[1].part_of(context) for context in range(len(known.lengths))]
    assert [parts.count(part) for part in PARTS] == [180, 90, 30]


@given(feature=FEATURES, n=st.integers(1, 60), part=st.sampled_from(PARTS))
@settings(deadline=None)
def test_the_strongest_come_first_at_their_first_peak(draws, peaks, feature, n, part):
    draw = draws[feature]
    expected = sorted(
        (-peak, context, position)
        for (f, context), (peak, position) in peaks.items()
        if f == feature and draw.part_of(context) == part
    )[:n]
    assert [(p.context, p.position) for p in draw.top(n, part)] == [e[1:] for e in expected]


@given(feature=FEATURES, n=st.integers(1, 60), q=st.integers(1, 12), part=st.sampled_from(PARTS))
@settings(deadline=None)
def test_strata_have_equal_numbers_and_give_equal_numbers(draws, peaks, feature, n, q, part):
    draw = draws[feature]
    ranked = [
        context
        for _, context in sorted(
            (peak, context)
            for (f, context), (peak, _) in peaks.items()
            if f == feature and draw.part_of(context) == part
        )
    ]
    drawn = draw.strata(n, q, part)
    assert all(p.stratum == ranked.index(p.context) * q // len(ranked) for p in drawn)
    assert all(p.position == peaks[feature, p.context][1] for p in drawn)
    assert len({p.context for p in drawn}) == len(drawn)
    for stratum in range(q):
        there = sum(i * q // len(ranked) == stratum for i in range(len(ranked)))
        wanted = n // q + (stratum >= q - n % q)
        assert sum(p.stratum == stratum for p in drawn) == min(there, wanted)


@given(feature=FEATURES, n=st.integers(0, 120), part=st.sampled_from(PARTS))
@settings(deadline=None)
def test_negatives_are_silent_and_say_why_they_are_there(draws, known, peaks, feature, n, part):
    draw = draws[feature]
    found = draw.negatives(n, ("near", "same_token"), part)
    starts = np.cumsum(known.lengths) - known.lengths
    silent = [
        context
        for context in range(len(known.lengths))
        if draw.part_of(context) == part and (feature, context) not in peaks
        if known.kept[starts[context] : starts[context] + known.lengths[context]].any()
    ]
    assert len(found) == min(n, len(silent))
    assert len({p.context for p in found}) == len(found)
    assert {p.context for p in found} <= set(silent)
    assert sum(p.negative != "silent" for p in found) <= n // 2
    like_it = {c.feature for c in draw.page.coactive} | {c.feature for c in draw.page.neighbours}
    for pick in found:
        assert 0 <= pick.position < known.lengths[pick.context]
        row = starts[pick.context] + pick.position
        if pick.negative == "same_token":
            assert known.tokens[row] == draw.page.statistics["top_token_id"]
            assert known.kept[row]
        if pick.negative == "near":
            assert any(known.values[row, other] > 0 for other in like_it)


def test_all_hard_kinds_are_found_where_they_are(draws):
    kinds = {
        kind: sum(len(draw.hard(3, kind, "score")) for draw in draws.values())
        for kind in ("near", "same_token")
    }
    assert min(kinds.values()) > 9  # a few of most features


def test_a_draw_does_not_depend_on_other_draws(analysis, draws):
    alone = next(Material(analysis, seed=5).draws([6]))
    assert all_of(alone, "score", 9) == all_of(draws[6], "score", 9)
    again = next(Material(analysis, seed=6).draws([6]))
    assert all_of(again, "score", 9) != all_of(draws[6], "score", 9)


def test_a_feature_that_never_fires_has_only_negatives(draws):
    assert draws[0].top(5, "explain") == draws[0].strata(5, 10, "score") == []
    assert len(draws[0].negatives(6, ("near", "same_token"), "score")) == 6


def test_places_are_shown_with_the_values_that_stand_there(analysis, draws, known):
    material = Material(analysis, seed=5)
    starts = np.cumsum(known.lengths) - known.lengths
    wanted = [(draw, all_of(draw, "score", 20), 5) for draw in draws.values()]
    for evidence, (draw, picks, width) in zip(material.shown(wanted), wanted, strict=True):
        assert evidence.page.feature == draw.page.feature
        assert [s.pick for s in evidence.snippets] == picks
        for snippet in evidence.snippets:
            example, context = snippet.example, snippet.pick.context
            assert example.window_start <= snippet.pick.position
            assert len(example.tokens) == min(width, known.lengths[context])
            first = starts[context] + example.window_start
            rows = slice(first, first + len(example.tokens))
            values = known.values[rows, draw.page.feature]
            assert [t.value for t in example.tokens] == values.tolist()
            assert [t.kept for t in example.tokens] == known.kept[rows].tolist()
            assert example.peak_position == snippet.pick.position
