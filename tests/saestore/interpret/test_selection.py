"""Which features: listed, asked for, or drawn evenly by density."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from saestore.errors import ConfigError, FeatureNotFoundError, QueryError
from saestore.interpret.selection import evenly, select
from saestore_schemas.interpret import ListSelection, SampleSelection, SqlSelection


@given(
    count=st.integers(0, 60),
    n=st.integers(1, 70),
    strata=st.integers(1, 12),
    key=st.integers(0, 2**64 - 1),
)
def test_a_draw_takes_evenly_from_all_strata(count, n, strata, key):
    ranked = np.random.default_rng(count).permutation(1000)[:count]
    drawn = evenly(ranked, n, strata, key=key)
    assert len(drawn) == len(set(drawn.tolist())) == min(n, count)
    assert set(drawn.tolist()) <= set(ranked.tolist())
    places = [ranked.tolist().index(each) for each in drawn]
    taken = np.bincount([p * strata // count for p in places], minlength=strata) if count else []
    sizes = np.bincount(np.arange(count) * strata // max(count, 1), minlength=strata)
    for own, size in zip(taken, sizes, strict=False):
        assert own >= min(size, n // strata)


def test_a_larger_draw_changes_no_place_of_the_order():
    ranked = np.arange(100)
    few, many = (set(evenly(ranked, n, 10, key=7).tolist()) for n in (20, 50))
    assert few < many
    assert few != set(evenly(ranked, 20, 10, key=8).tolist())


def test_features_are_listed_asked_for_or_drawn(analysis):
    def chosen(selection, seed=0):
        return select(analysis, selection, seed=seed)

    assert chosen(ListSelection(features=(4, 2, 4))) == [2, 4]
    assert chosen(SqlSelection(where="n_firings = 1")) == [3]
    assert chosen(SqlSelection(where="density > 0 OR feature = 0", n=3)) == [0, 1, 2]
    most = "SELECT feature FROM features ORDER BY density DESC, feature"
    assert chosen(SqlSelection(where=most, n=1)) == [1]
    alive = chosen(SampleSelection(n=100))
    assert alive == list(range(1, 11))
    assert chosen(SampleSelection(n=5, strata=5)) == chosen(SampleSelection(n=5, strata=5))
    assert len({tuple(chosen(SampleSelection(n=3, strata=3), seed=s)) for s in range(9)}) > 1


@pytest.mark.parametrize(
    ("selection", "error", "says"),
    [
        (ListSelection(features=(11,)), FeatureNotFoundError, "11"),
        (SqlSelection(where="densty > 0"), QueryError, "densty"),
        (SqlSelection(where="SELECT density FROM features"), ConfigError, "density"),
        (SqlSelection(where="SELECT 99 AS feature"), FeatureNotFoundError, "99"),
        (SqlSelection(where="false"), ConfigError, "no feature"),
        (SqlSelection(where="1=1); DROP VIEW features; --"), QueryError, "(?i)syntax|one|read"),
    ],
)
def test_what_cannot_be_chosen_is_said(analysis, selection, error, says):
    with pytest.raises(error, match=says):
        select(analysis, selection, seed=0)
