import pytest
from hypothesis import given, strategies as st

from saestore.fingerprint import canonical, differences, fingerprint
from saestore_schemas.lm import LmSettings


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(st.text(), json_values))
def test_key_order_does_not_matter_and_nothing_differs_from_itself(value):
    backwards = dict(reversed(value.items()))
    assert fingerprint(value) == fingerprint(backwards)
    assert differences(value, backwards) == []


@given(json_values, json_values)
def test_different_values_have_different_fingerprints(a, b):
    assert (fingerprint(a) == fingerprint(b)) == (canonical(a) == canonical(b))


def test_models_and_their_json_are_the_same():
    settings = LmSettings(model="gpt2")
    assert fingerprint(settings) == fingerprint(settings.model_dump(mode="json"))
    assert fingerprint("a", "b") != fingerprint("ab")


def test_differences_name_dotted_paths():
    old = {"a": {"b": 1, "c": [1, 2]}, "gone": None}
    new = {"a": {"b": 2, "c": [1, 3]}, "came": {}}
    assert differences(old, new) == [
        "a.b: 1 → 2", "a.c[1]: 2 → 3", "came: (absent) → {}", "gone: null → (absent)",
    ]  # fmt: skip


def test_an_empty_side_differs_in_what_the_other_has_alone():
    assert differences({}, {"a": {"b": 1}}) == ["a.b: (absent) → 1"]
    assert differences({"a": 1}, {}) == ["a: 1 → (absent)"]
    assert differences({}, {}) == []


def test_nan_has_no_canonical_form():
    with pytest.raises(ValueError, match="Out of range"):
        canonical({"x": float("nan")})
