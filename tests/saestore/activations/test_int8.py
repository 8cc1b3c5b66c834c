"""Standardised int8: what it keeps, what it refuses, and that its deviations never change."""

import re

import numpy as np
import pytest
from hypothesis import example, given, settings, strategies as st

from saestore.activations import (
    ActivationStream,
    Spec,
    StoreWriter,
    codecs,
    deviations,
    verify,
)
from saestore.errors import ConfigError, OverflowRowError
from saestore.lake import layout
from saestore.testing.stores import HOOKPOINT, synthetic_rows, synthetic_store
from saestore_schemas.activations import StoreRecord, StoreSettings


ONES = np.ones(3, np.float32)


def quantised(rows, deviation=ONES):
    return codecs.quantise(rows, deviation, hookpoint="h", first_row=7)


@settings(max_examples=100)
@given(
    st.lists(
        st.lists(
            st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3
        ),
        max_size=5,
    ),
    st.lists(st.floats(2**-20, 2**20, width=32), min_size=3, max_size=3),
)
@example([[0, 1.2082720206966748e38, 2.8356861205756925e38]], [1, 2, 1073])  # rounds to infinity
@example([[0, 0, 1e38]], [1, 1, 2**-20])  # infinitely many deviations
@example([[0, 0, np.finfo(np.float32).max]], [2**20, 1, 1])  # near infinity, but exact
def test_an_error_is_at_most_half_a_step_of_its_row_and_dimension(rows, deviation):
    rows = np.array(rows, np.float32).reshape(-1, 3)
    deviation = np.array(deviation, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        wide = rows / deviation
        scale = np.abs(wide).max(axis=1, keepdims=True) / np.float32(127)
        scale[scale == 0] = 1
        back = np.rint(wide / scale).clip(-127, 127) * scale * deviation
    if not (np.isfinite(wide).all() and np.isfinite(back).all()):
        with pytest.raises(
            OverflowRowError, match=r"do not fit int8: first .* at row \d+, dimension \d"
        ):
            quantised(rows, deviation)
        return
    found = quantised(rows, deviation)
    assert np.array_equal(codecs.dequantise(found.stored, found.scales, deviation), back)
    step = found.scales[:, None].astype(np.float64) * deviation
    rounding = 127 * 2.0**-21  # of the four float32 operations there and back, in steps
    tiny = np.finfo(np.float32).tiny  # below, float32 itself has steps of its own
    inside = found.clipped == 0
    error = np.abs(back.astype(np.float64) - rows)
    assert (error <= step * (0.5 + rounding) + tiny)[inside].all()
    assert np.abs(found.stored).max(initial=0) <= 127


def test_a_value_that_int8_would_round_to_infinity_is_refused_with_its_place():
    rows = np.ones((20_000, 3), np.float32)
    rows[17_000] = [0, 1.2082720206966748e38, 2.8356861205756925e38]
    place = re.escape("first 2.83569e+38 at row 17007, dimension 2")
    with pytest.raises(OverflowRowError, match=place) as error:
        quantised(rows, np.array([1, 2, 1073], np.float32))
    assert "bfloat16" in error.value.hint


def test_a_row_of_zeros_and_a_dimension_that_never_varies():
    rows = np.zeros((2, 3), np.float32)
    rows[1] = [0, 4, -2]
    found = quantised(rows)
    assert found.scales.tolist() == [1, np.float32(4) / np.float32(127)]
    assert found.stored.tolist() == [[0, 0, 0], [0, 127, -64]]
    flags = np.zeros(2, np.uint8)
    measured = deviations.measure([({"h": rows}, flags)])
    assert measured["h"].tolist() == [1, 2, 1]


def test_clipped_are_values_of_rows_too_small_for_their_scale():
    rows = np.full((3, 3), np.float32(2e-43))  # 143 of the smallest float32; a scale of one of it
    rows[1] = 1
    found = quantised(rows)
    assert found.clipped.tolist() == [3, 0, 3]
    assert found.stored[0].tolist() == [127, 127, 127]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_with_its_place(value):
    rows = np.ones((300_000, 3), np.float32)
    rows[250_000, 1] = value
    with pytest.raises(OverflowRowError, match="at h, row 250007, dimension 1"):
        quantised(rows)
    with pytest.raises(OverflowRowError, match="at h, row 250000, dimension 1"):
        deviations.measure([({"h": rows}, np.zeros(len(rows), np.uint8))])


def test_deviations_are_those_of_the_kept_rows_however_they_come():
    rows = synthetic_rows(500, 5, seed=1)
    flags = (np.random.default_rng(0).random(500) < 0.3).astype(np.uint8)
    expected = rows[flags == 0].astype(np.float64).std(axis=0).astype(np.float32)
    pieces = [({"h": rows[a : a + 90]}, flags[a : a + 90]) for a in range(0, 500, 90)]
    assert np.array_equal(deviations.measure(pieces)["h"], expected)
    assert deviations.measure([({"h": rows}, np.ones(500, np.uint8))]) is None


def test_streams_and_statistics_see_the_values_that_are_stored(lake):
    store = synthetic_store(lake, rows=700, width=9, dtype="int8")
    rows = store.read(HOOKPOINT, 0, 700)
    kept = store.flags() == 0
    stream = ActivationStream(store, [HOOKPOINT], batch_rows=int(kept.sum()), seed=0)
    batch = next(stream)[HOOKPOINT].numpy()
    order = [np.lexsort(values.T) for values in (batch, rows[kept])]
    assert np.array_equal(batch[order[0]], rows[kept][order[1]])
    moments = store.moments(HOOKPOINT)
    np.testing.assert_allclose(moments.mean, rows[kept].astype(np.float64).mean(0), rtol=1e-12)
    assert np.array_equal(moments.max, rows[kept].max(0))
    assert store.manifest.counts["clipped"] == 0
    assert store.manifest.arrays[f"hooks/{HOOKPOINT}.scale"].shape == (700,)
    assert list(store.hookpoints) == [HOOKPOINT]
    assert verify.damage(lake, "synthetic") == []


def test_a_store_is_continued_with_the_deviations_it_was_begun_with(lake):
    artefact = lake.artefact(synthetic_store(lake, rows=4).ref).child("other")
    record = StoreRecord(dtype="int8", store=StoreSettings(), lm=None, context_size=8)
    spec = Spec({"h": 3}, record)
    with pytest.raises(ConfigError, match="no standard deviations were given"):
        StoreWriter(artefact, spec)
    with pytest.raises(ConfigError, match="of other hookpoints or widths"):
        StoreWriter(artefact, spec, deviations={"h": np.ones(4, np.float32)})
    third = np.array([1, 1 / 3, 3e-39], np.float32)
    StoreWriter(artefact, spec, deviations={"h": third})
    assert np.array_equal(deviations.load(artefact)["h"], third)
    with StoreWriter(artefact, spec) as again:
        assert again.resume is None
    with pytest.raises(ConfigError, match="not those this store was begun with"):
        StoreWriter(artefact, spec, deviations={"h": ONES})
    assert artefact.exists(layout.DEVIATIONS_SO_FAR)
