"""P1 is what the specification says: directions, rates, tree, sizes, and streams of their own."""

import numpy as np
import pytest

from saestore.testing.known_data import (
    CHILDREN,
    FEATURES,
    ROOTS,
    KnownData,
    spread_directions,
    stream,
)


@pytest.fixture(scope="module")
def data():
    return KnownData.p1()


def test_directions_are_pushed_apart(data):
    assert np.linalg.norm(data.directions, axis=1) == pytest.approx(1, rel=1e-12)
    cosines = np.abs(data.directions @ data.directions.T)
    np.fill_diagonal(cosines, 0)
    assert cosines.max(axis=1).mean() == pytest.approx(0.328, abs=0.005)
    assert not np.allclose(data.directions, spread_directions(1))


def test_rates_fall_as_a_power_and_no_cap_is_reached(data):
    ordered = np.sort(data.rates)[::-1]
    assert ordered.sum() == pytest.approx(10, rel=1e-12)
    assert ordered[0] == pytest.approx(0.327, abs=5e-4)
    assert ordered[-1] == pytest.approx(0.0204, abs=5e-5)
    np.testing.assert_allclose(ordered / ordered[0], np.arange(1, FEATURES + 1) ** -0.5)


def test_the_most_frequent_have_the_next_ones_as_children(data):
    rank = np.argsort(np.argsort(-data.rates))
    children = np.flatnonzero(data.parents >= 0)
    assert sorted(rank[children]) == list(range(ROOTS, ROOTS * (1 + CHILDREN)))
    assert (rank[data.parents[children]] == (rank[children] - ROOTS) // CHILDREN).all()
    np.testing.assert_allclose(data.means, 5 - rank / FEATURES)


def test_rows_have_the_moments_of_the_specification(data):
    x, on = data.rows(20_000, stream(1, "evaluation"))
    assert x.dtype == np.float32
    assert np.linalg.norm(x, axis=1).mean() == pytest.approx(14.4, abs=0.25)
    assert x.var(axis=0).sum() == pytest.approx(206, abs=4)
    assert on.sum(axis=1).mean() == pytest.approx(9.99, abs=0.1)
    error = np.sqrt(data.rates * (1 - data.rates) / len(x))
    zeros = np.exp(-(data.means**2) / (2 * data.deviations**2)) / 2  # a bound on sizes cut at 0
    assert (np.abs(on.mean(axis=0) - data.rates) <= 4.5 * error + zeros * data.rates).all()
    children = data.parents >= 0
    assert not (on[:, children] & ~on[:, data.parents[children]]).any(axis=None) or (
        # a parent whose size was cut at 0 is on for its child and seen by nobody
        (on[:, children] & ~on[:, data.parents[children]]).mean() < 1e-4
    )


def test_each_purpose_has_a_stream_of_its_own():
    draws = {name: stream(0, name).standard_normal(4).tobytes() for name in ("directions", "init")}
    assert len(set(draws.values())) == 2
    assert stream(0, "init").random() != stream(1, "init").random()
    assert stream(3, "train").random() == stream(3, "train").random()
