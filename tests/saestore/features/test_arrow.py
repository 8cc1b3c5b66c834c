from itertools import pairwise

import numpy as np
import pyarrow as pa
from hypothesis import given, strategies as st

from saestore.features import arrow


KINDS = {
    pa.int8(): st.integers(-128, 127),
    pa.uint64(): st.integers(0, (1 << 64) - 1),
    pa.float32(): st.floats(width=32, allow_nan=False),
    pa.float64(): st.floats(allow_nan=False),
    pa.bool_(): st.booleans(),
    pa.string(): st.text(max_size=3),
    pa.list_(pa.uint16()): st.lists(st.integers(0, 65_535), max_size=3),
    pa.list_(pa.string()): st.lists(st.text(max_size=2), max_size=2),
}


@st.composite
def arrays(draw):
    """An array of any kind, with nulls or not, whole or cut out of another."""
    kind = draw(st.sampled_from(list(KINDS)))
    values = KINDS[kind] | st.none() if draw(st.booleans()) else KINDS[kind]
    array = pa.array(draw(st.lists(values, max_size=6)), kind)
    start = draw(st.integers(0, len(array)))
    return array[start : start + draw(st.integers(0, 6))]


def values_of(column):
    if isinstance(column, arrow.Ragged):
        ends = column.ends.tolist()
        return [column.values[a:b].tolist() for a, b in pairwise(ends)]
    return column.tolist() if isinstance(column, np.ndarray) else column


@given(arrays(), st.integers(0, 6))
def test_columns_say_what_arrow_says(array, cut):
    wanted = array.to_pylist()
    chunked = pa.chunked_array([array[:cut], array[cut:]], array.type)
    found = arrow.columns(["whole", "chunked"], [array, chunked])
    assert {name: values_of(column) for name, column in found.items()} == {
        "whole": wanted,
        "chunked": wanted,
    }


def test_numbers_without_nulls_are_arrays():
    arrays = [pa.array([1, 2]), pa.array([1, None]), pa.array([[1], [2, 3]]), pa.array(["a", "b"])]
    found = arrow.columns(["numbers", "nulls", "lists", "texts"], arrays)
    kinds = {name: type(column) for name, column in found.items()}
    assert kinds == {"numbers": np.ndarray, "nulls": list, "lists": arrow.Ragged, "texts": list}


@given(st.lists(st.lists(st.integers(0, 9), max_size=3), max_size=4))
def test_ragged_has_the_lists_it_is_made_of(lists):
    assert values_of(arrow.Ragged.of(lists)) == lists
