"""Rows land where they should, whatever their width and wherever their memory begins."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from saestore.activations.memory import as_bytes, pages, put_rows


@settings(max_examples=60)
@given(
    st.sampled_from([np.uint8, np.float16, np.int32, np.float64]),
    st.integers(1, 70),
    st.integers(0, 40),
    st.booleans(),
    st.integers(0, 99),
)
def test_rows_are_put_as_numpy_puts_them(kind, width, rows, page, seed):
    random = np.random.default_rng(seed)
    given_rows = random.integers(0, 200, (rows, width)).astype(kind)
    places = random.permutation(50)[:rows]
    target = pages((50, width), np.dtype(kind))
    if not page:  # begins somewhere in the middle of a cache line
        target = np.zeros(50 * width + 3, kind)[3:].reshape(50, width)
    expected = np.zeros((50, width), kind)
    expected[places] = given_rows
    put_rows(as_bytes(target), places, as_bytes(given_rows))
    assert np.array_equal(target, expected)


def test_rows_of_one_number():
    target = pages((6,), np.dtype(np.int32))
    put_rows(as_bytes(target), np.array([4, 0]), as_bytes(np.array([7, 8], np.int32)))
    assert target.tolist() == [8, 0, 0, 0, 7, 0]


@pytest.mark.parametrize("rows", [0, 1, 3_000_000])
def test_memory_begins_at_a_page_and_is_zero(rows):
    memory = pages((rows, 2), np.dtype(np.float16))
    assert memory.shape == (rows, 2)
    assert rows == 0 or memory.ctypes.data % 4096 == 0
    assert not memory.any()
