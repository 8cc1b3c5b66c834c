import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st

from saestore.analyze.block import FeatureBlock
from saestore.analyze.collectors import histograms


EDGES = histograms.LOG_EDGES.astype(np.float32)
NEAR_EDGES = [*EDGES, *np.nextafter(EDGES, np.float32(0)), *np.nextafter(EDGES, np.float32(np.inf))]
STRENGTHS = st.floats(0, width=32, exclude_min=True, allow_infinity=False) | st.sampled_from(
    [float(each) for each in NEAR_EDGES]
)
RUNS = st.lists(st.lists(STRENGTHS, max_size=8), min_size=1, max_size=4)


def block_of(runs):
    values = np.array([value for run in runs for value in run], np.float32)
    offsets = np.concatenate([[0], np.cumsum([len(run) for run in runs])]).astype(np.int64)
    nowhere = np.zeros(len(values), np.uint32)
    return FeatureBlock(0, offsets, nowhere, nowhere.astype(np.uint16), values)


@settings(deadline=None)
@given(RUNS)
@example([[float(each) for each in NEAR_EDGES]])
def test_quarter_octaves_are_those_of_their_edges(runs):
    found = histograms.log_counts(block_of(runs))
    for run, counts in zip(runs, found, strict=True):
        exact = np.array(run, np.float32).astype(np.float64)
        places = np.searchsorted(histograms.LOG_EDGES, exact, side="right") - 1
        assert counts.tolist() == np.bincount(np.maximum(places, 0), minlength=160).tolist()


@settings(deadline=None)
@given(RUNS)
def test_equal_bins_are_those_of_the_definition(runs):
    block = block_of(runs)
    found = histograms.equal_counts(block.strength, block.offsets, block.maxima)
    for run, counts in zip(runs, found, strict=True):
        exact = np.array(run, np.float32).astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            places = np.minimum((exact / exact.max(initial=0) * 50).astype(np.int64), 49)
        assert counts.tolist() == np.bincount(places, minlength=50).tolist()


def test_an_example_by_hand():
    found = histograms.equal_counts(
        np.array([1.0, 0.5, 0.25, 0.01], np.float32),
        np.array([0, 4, 4]),
        np.array([1, 0], np.float32),
    )
    assert {int(place): int(found[0, place]) for place in np.flatnonzero(found[0])} == {
        0: 1, 12: 1, 25: 1, 49: 1,
    }  # fmt: skip
    assert not found[1].any()
    assert pytest.approx(2.0**-24) == histograms.LOG_EDGES[0]
