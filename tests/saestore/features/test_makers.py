import pickle
from dataclasses import replace

import pytest
from pydantic_core import to_json

from saestore.features.makers import maker
from saestore.features.page import Example, TokenPiece


VALUES = {"text": "a b", "value": -1.5, "special": False, "kept": True}


def test_what_it_makes_is_what_the_class_makes():
    made, wanted = maker(TokenPiece)(**VALUES), TokenPiece(**VALUES)
    assert made == wanted
    assert hash(made) == hash(wanted)
    assert repr(made) == repr(wanted)
    assert to_json(made) == to_json(wanted)
    assert replace(made, value=2.0) == replace(wanted, value=2.0)
    assert pickle.loads(pickle.dumps(made)) == wanted
    assert type(made) is TokenPiece


def test_what_it_makes_is_frozen_and_its_own():
    make = maker(TokenPiece)
    made, other = make(**VALUES), make(**VALUES | {"text": "c"})
    with pytest.raises(AttributeError):
        made.value = 3.0
    assert (made.text, other.text) == ("a b", "c")


def test_a_field_with_a_default_may_be_left_out():
    given = {
        "context": 3, "rank": 0, "peak": 1.5, "peak_position": 2, "window_start": 0, "n_positions": 1,
        "source": "s", "document": 4, "document_id": "d", "tokens": (),
    }  # fmt: skip
    assert maker(Example)(**given) == Example(**given)
