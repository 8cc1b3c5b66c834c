"""What a model answered is read as it was meant, and nothing is made of what it did not say."""

import json

import pytest
from hypothesis import given, settings, strategies as st

from saestore.interpret.answers import Object, number, said, values
from saestore.interpret.explainers import answer as explained
from saestore.interpret.request import Answer
from saestore.interpret.scorers import reading


def answer(text, finish="stop"):
    return Answer("hash", text, finish, 1, 1, 0, "model")


def plain(value):
    if isinstance(value, Object):
        return {key: plain(each) for key, each in value.pairs}
    return [plain(each) for each in value] if isinstance(value, list) else value


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=40)
@given(st.one_of(st.lists(json_values), st.dictionaries(st.text(), json_values)), st.booleans())
def test_what_json_says_is_read_as_json_reads_it(value, ascii_only):
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert [plain(found) for found in values(f"Well: ```json\n{text}\n```")] == [value]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{'a': 'it is', \"b\": [1, 2,],}", {"a": "it is", "b": [1, 2]}),
        ("{a: True, b: None, c: yes}", {"a": True, "b": None, "c": "yes"}),
        (r'{"a": "\{<s>\} \u00e9 \ud83d\ude00 \ud83d"}', {"a": "\\{<s>\\} é 😀 \ufffd"}),
        ('{"a": "two\nlines"}', {"a": "two\nlines"}),
    ],
)
def test_what_nearly_is_json_is_read_too(text, value):
    assert [plain(found) for found in values(text)] == [value]


@pytest.mark.parametrize(
    "text", ["", "{", '{"a": 1', '{"a" 1}', "[1 2]", '{"a": }', "[" * 50 + "]" * 50, "{]", '{"a']
)
def test_what_is_not_closed_is_no_value(text):  # fmt: skip
    assert "a" not in [key for found in values(text) for key in plain(found)]


def test_the_deepest_of_answers_is_no_error():
    assert list(values("[" * 500)) == []


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<think>{1}</think>{2}", "{2}"),
        ("{1}</think>\n{2}", "{2}"),
        ("a<think>never ends {1}", "a"),
        ("<thinking>x</thinking> y", "y"),
        ("plain", "plain"),
    ],
)
def test_what_was_thought_aloud_is_no_answer(text, left):
    assert said(text) == left


@pytest.mark.parametrize(("value", "told"), [("7", 7.0), (True, None), ("nan", None), ("", None)])
def test_numbers(value, told):
    assert number(value) == told
    assert number(float("inf")) is None


FULL = '{"explanation": "cats", "consistency": 4, "complexity": 1}'


@pytest.mark.parametrize(
    ("text", "finish", "outcome", "explanation", "ratings"),
    [
        (FULL, "stop", "answered", "cats", (4, 1)),
        (f"Here it is:\n```json\n{FULL}\n```\nBye.", "stop", "answered", "cats", (4, 1)),
        (f"<think>{{hm}}</think>{FULL}", "stop", "answered", "cats", (4, 1)),
        ("{'Explanation': 'cats', 'consistency': '4',}", "stop", "answered", "cats", (4, None)),
        ('{"explanation": "x1", "consistency": 9, "complexity": 2.5}', "stop", "answered", "x1", (None, None)),
        ('{"result": {"explanation": " cats "}}', "stop", "answered", "cats", (None, None)),
        ("**Explanation:** cats\nConsistency: 3\ncomplexity = 2", "stop", "answered", "cats", (3, 2)),
        ("[EXPLANATION]: cats\nconsistency: 4.5", "stop", "answered", "cats", (None, None)),
        (f"{FULL} and then it", "length", "answered", "cats", (4, 1)),
        ('{"explanation": "cats and', "length", "truncated", None, (None, None)),
        ("Explanation: cats and", "length", "truncated", None, (None, None)),
        ("<think>what could", "length", "truncated", None, (None, None)),
        ('{"explanation": "…", "consistency": 1}', "stop", "unparsed", None, (None, None)),
        ('{"explanation": 7}', "stop", "unparsed", None, (None, None)),
        ('{"explanation": "cats and', "stop", "unparsed", None, (None, None)),
        ("I see cats.", "stop", "unparsed", None, (None, None)),
        ("", "stop", "unparsed", None, (None, None)),
        ("I cannot.", "refusal", "refused", None, (None, None)),
        ("", "content_filter", "refused", None, (None, None)),
    ],
)  # fmt: skip
def test_explanations(text, finish, outcome, explanation, ratings):
    found = explained.read(answer(text, finish))
    assert (found.outcome, found.text) == (outcome, explanation)
    assert (found.consistency, found.complexity) == ratings


def test_an_explanation_comes_with_what_was_thought():
    found = explained.read(answer('{"reasoning": "all are cats", "explanation": "cats"}'))
    assert found.reasoning == "all are cats"
    assert list(explained.form(reasoning=True).schema["properties"]) == explained.form(
        reasoning=True
    ).schema["required"] == ["reasoning", "explanation", "consistency", "complexity"]  # fmt: skip
    assert "reasoning" not in explained.form(reasoning=False).schema["properties"]


NOTHING = [None, None, None]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"1": 0.5, "2": 1, "3": 0}', [0.5, 1, 0]),
        ('{"3": 0, "1": 0.5, "2": 1}', [0.5, 1, 0]),
        ('{"text 1": true, "[2]": "no", "#3": false}', [True, "no", False]),
        ('{"text_1": 0.5, "Text_2": 1, "answer3": 0}', [0.5, 1, 0]),
        ('{"answers": {"1": 0.5, "2": 1, "3": 0}}', [0.5, 1, 0]),
        ('[{"text": 2, "probability": 1}, {"text": 1, "answer": 0.5}, {"id": 3, "p": 0}]', [0.5, 1, 0]),
        ('{"1": {"reason": "r", "probability": 0.5}, "2": 1, "3": 0}', [0.5, 1, 0]),
        ('{"1": 0.5}\n{"2": 1}\n{"3": 0}', [0.5, 1, 0]),
        ("1: 0.5\n2: 1\n3: 0", ["0.5", "1", "0"]),
        ("[1] yes\n[2] no\n[3] no", ["yes", "no", "no"]),
        ("1. yes.\n2. no\nText 3 - nothing", ["yes", "no", None]),
        ("Sure.\n[0.5, 1, 0]", [0.5, 1, 0]),
        ("[\n 0.5,\n 1,\n 0\n]", [0.5, 1, 0]),
        ('{"answers": [0.5, 1, 0]}', [0.5, 1, 0]),
        # what is missing is unparsed, and no more
        ('{"1": 0.5, "3": 0}', [0.5, None, 0]),
        ("1: yes\n3: no", ["yes", None, "no"]),
        # what is told twice counts once, if it is the same
        ('{"1": 0.5, "1": 0.5, "2": 1, "2": 0, "3": 0}', [0.5, None, 0]),
        ('{"1": 0.5, "2": 1, "3": 0} or {"1": 0.5, "2": 0.9, "3": 0}', [0.5, None, 0]),
        # nobody knows which is which
        ('{"1": 0.5, "2": 1, "3": 0, "4": 1}', NOTHING),
        ('{"0": 0.5, "1": 1, "2": 0}', NOTHING),
        ("[0.5, 1]", NOTHING),
        ("[0.5, 1, 0, 1]", NOTHING),
        ("[0.5, 1, 0] or [0, 1, 0]", NOTHING),
        # no answer
        ('{"1": 0.5, "2": 1, "3": 0', NOTHING),
        ("All of them, I think.", NOTHING),
        ("", NOTHING),
    ],
)  # fmt: skip
def test_answers_about_numbered_texts(text, told):
    assert reading.entries(answer(text), 3) == told


@pytest.mark.parametrize("text", ["1: 0.5\n2: 1\n3: 0", "[0.5, 1, 0]", '{"1": 0.5, "2": 1, "3": 0'])
def test_of_a_cut_answer_only_a_closed_object_counts(text):
    assert reading.entries(answer(text, "length"), 3) == NOTHING
    assert reading.entries(answer('{"1": 0.5, "2": 1, "3": 0} so', "length"), 3) == [0.5, 1, 0]


@pytest.mark.parametrize(
    ("value", "binary", "likely"),
    [
        (True, True, 1.0), (False, False, 0.0), ("Yes", True, 1.0), (" no ", False, 0.0),
        (1.0, True, 1.0), (0.0, False, 0.0), (0.3, None, 0.3), ("0.25", None, 0.25), ("30%", None, 0.3),
        (85.0, None, None), (-0.1, None, None), ("120 %", None, None), (None, None, None),
        ("maybe", None, None), (float("nan"), None, None), ([], None, None),
    ],
)  # fmt: skip
def test_yes_no_and_how_likely(value, binary, likely):
    assert reading.yes_or_no(value) is binary
    assert reading.probability(value) == likely


def test_a_form_asks_for_each_number_exactly_once():
    form = reading.form("detection", 2, "boolean")
    assert form.schema == {
        "type": "object",
        "properties": {"1": {"type": "boolean"}, "2": {"type": "boolean"}},
        "required": ["1", "2"],
        "additionalProperties": False,
    }
