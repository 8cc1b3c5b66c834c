import itertools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from saestore.analyze import sort
from saestore.analyze.sort import Firings, Sorter, ranges, stable_order
from saestore.testing.analyses import plant
from saestore.testing.collectors import planted_firings


def pieces(firings, cuts):
    bounds = [0, *sorted(c % (len(firings) + 1) for c in cuts), len(firings)]
    for a, b in itertools.pairwise(bounds):
        columns = ("feature", "context", "position", "value")
        yield Firings(*(getattr(firings, name)[a:b] for name in columns))


@settings(deadline=None)
@given(
    st.integers(0, 3),
    st.lists(st.integers(0, 900), max_size=5),
    st.integers(1, 900),
)
def test_memory_and_batches_never_show(tmp_path_factory, seed, cuts, room):
    planted = plant(seed=seed)
    firings = planted_firings(planted)
    sorter = Sorter(tmp_path_factory.mktemp("runs"), features=9, memory_mib=16)
    sorter._room = room
    for piece in pieces(firings, cuts):
        sorter.add(piece)
    blocks = list(sorter.blocks())
    order = np.lexsort((firings.position, firings.context, firings.feature))
    assert [b.first for b in blocks] == np.cumsum([0, *(b.n for b in blocks)])[:-1].tolist()
    assert sum(b.n for b in blocks) == 9
    for name in ("context", "position", "value"):
        found = np.concatenate([getattr(b, name) for b in blocks])
        assert (found == getattr(firings, name)[order]).all()
    counts = np.concatenate([b.counts for b in blocks])
    assert (counts == np.bincount(firings.feature, minlength=9)).all()


def test_what_does_not_fit_is_spilled(tmp_path):
    sorter = Sorter(tmp_path / "runs", features=9, memory_mib=16)
    sorter._room = 100
    firings = planted_firings(plant())
    for piece in pieces(firings, range(0, len(firings), 60)):
        sorter.add(piece)
    assert sorter.spilled == len(list((tmp_path / "runs").iterdir())) > 3
    assert sorter.n_firings == len(firings)


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 20))
def test_ranges_cover_all_features_within_bounds(counts, most):
    counts = np.array(counts, np.int64)
    found = list(ranges(counts, most=most))
    assert [i for a, b in found for i in range(a, b)] == list(range(len(counts)))
    assert all(counts[a:b].sum() <= most or b == a + 1 for a, b in found)


def test_silent_features_do_not_make_endless_blocks():
    widths = [b - a for a, b in ranges(np.zeros(40_000, np.int64), most=10)]
    assert max(widths) <= 1 << 14


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), max_size=50))
def test_the_fast_order_is_stable(keys):
    keys = np.array(keys, np.uint32)
    assert stable_order(keys).tolist() == np.argsort(keys, kind="stable").tolist()


@pytest.mark.parametrize("column", ["feature", "row"])
def test_a_run_has_only_its_columns(column, tmp_path):
    run = sort._Run(np.array([0, 0], np.int64), tmp_path / "run")
    with pytest.raises(KeyError):
        run.read(column, 0, 0)
