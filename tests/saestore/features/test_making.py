import pickle
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st
from pydantic_core import to_json

from saestore.features.making import LazySequence, made, runs
from saestore.features.page import Example, TokenPiece


VALUES = {"text": "a b", "value": -1.5, "special": False, "kept": True}


def test_what_is_made_is_what_the_class_makes():
    (found,), wanted = made(TokenPiece, [dict(VALUES)]), TokenPiece(**VALUES)
    assert found == wanted
    assert hash(found) == hash(wanted)
    assert repr(found) == repr(wanted)
    assert to_json(found) == to_json(wanted)
    assert replace(found, value=2.0) == replace(wanted, value=2.0)
    assert pickle.loads(pickle.dumps(found)) == wanted
    assert type(found) is TokenPiece


def test_what_is_made_is_frozen_and_its_own():
    one, other = made(TokenPiece, [dict(VALUES), VALUES | {"text": "c"}])
    with pytest.raises(AttributeError):
        one.value = 3.0
    assert (one.text, other.text) == ("a b", "c")


def test_a_field_with_a_default_may_be_left_out():
    fields = {
        "context": 3, "rank": 0, "peak": 1.5, "peak_position": 2, "window_start": 0, "n_positions": 1,
        "source": "s", "document": 4, "document_id": "d", "tokens": (),
    }  # fmt: skip
    assert made(Example, [dict(fields)]) == [Example(**fields)]


@pytest.fixture
def asked():
    """What was asked to make items, one entry each time."""
    return []


@pytest.fixture
def lazy(asked):
    def make():
        asked.append("made")
        return iter(("a", "b", "c"))

    return LazySequence(3, make)


def test_nothing_is_made_for_who_counts(lazy, asked):
    assert len(lazy) == 3
    assert lazy
    assert lazy != ("a", "b")
    assert not LazySequence(0, lambda: asked.append("made"))
    assert asked == []


ABC = ("a", "b", "c")
LOOKS = {
    "item": lambda abc: abc[-1],
    "slice": lambda abc: abc[1:],
    "list": list,
    "repr": repr,
    "hash": hash,
    "in": lambda abc: "b" in abc,
    "pickled": lambda abc: pickle.loads(pickle.dumps(abc)),
    "equals": lambda abc: abc == ABC,
    "is equalled": [ABC].count,
    "equals another": lambda abc: abc == LazySequence(3, lambda: "abd"),
    "equals a list": lambda abc: abc == list(ABC),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_looking_gives_what_a_tuple_gives(lazy, look):
    assert look(lazy) == look(ABC)


def test_items_are_made_once(lazy, asked):
    assert list(lazy) == list(lazy)
    assert lazy[0] is lazy[0]
    assert asked == ["made"]


@given(st.lists(st.sampled_from("ab")), st.integers(0, 9), st.integers(0, 9))
def test_a_part_is_a_slice(items, start, more):
    start, stop = min(start, len(items)), min(start + more, len(items))
    part = LazySequence.part(lambda: items, start, stop)
    assert len(part) == len(list(part))
    assert list(part) == items[start:stop]


@given(st.lists(st.sampled_from("ab")))
def test_runs_are_as_long_as_they_can_be_and_leave_nothing_out(keys):
    found = list(runs(keys))
    assert "".join(key * (stop - start) for key, start, stop in found) == "".join(keys)
    assert all(one[0] != other[0] for one, other in pairwise(found))
    assert all(keys[start:stop] == [key] * (stop - start) for key, start, stop in found)
