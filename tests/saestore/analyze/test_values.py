import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from saestore.analyze.values import stored
from saestore.errors import OverflowRowError


positive = st.floats(2.0**-140, 65504.0, width=32, exclude_min=False)


@settings(deadline=None)
@given(st.lists(positive, max_size=20))
def test_float32_is_stored_as_it_is(values):
    array = np.array(values, np.float32)
    assert stored(array, "float32") is array


@settings(deadline=None)
@given(st.lists(positive, max_size=20))
def test_float16_loses_no_firing_and_little_precision(values):
    array = np.array(values, np.float32)
    found = stored(array, "float16")
    assert (found > 0).all()
    assert (found.astype(np.float16).astype(np.float32) == found).all()
    normal = array >= 2.0**-14
    error = np.abs(found[normal] - array[normal]) / array[normal]
    assert (error <= 2.0**-11).all()


def test_what_would_become_zero_becomes_the_smallest():
    assert stored(np.array([1e-30, 2.0**-25], np.float32), "float16").tolist() == [2.0**-24] * 2


def test_overflow_names_the_wider_type():
    assert stored(np.array([65504], np.float32), "float16") == 65504
    with pytest.raises(OverflowRowError) as caught:
        stored(np.array([1, 65505], np.float32), "float16")
    assert "float32" in caught.value.hint


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(value):
    with pytest.raises(OverflowRowError, match="NaN or infinite"):
        stored(np.array([value], np.float32), "float32")


def test_signs_are_kept():
    given = np.array([-1e-30, 3.0, -2.5, -65504], np.float32)
    assert stored(given, "float16").tolist() == [-(2.0**-24), 3.0, -2.5, -65504]
    with pytest.raises(OverflowRowError, match="65505"):
        stored(np.array([-65505], np.float32), "float16")
