"""A line of a prompt holds its text and its marks, and nothing in a text passes for either."""

import pytest
from hypothesis import given, strategies as st

from saestore.features import TokenPiece
from saestore.interpret import marks
from saestore.testing import shown


def token(text, value=0.0, *, special=False):
    return TokenPiece(text=text, value=value, special=special, kept=not special)


letters = st.text(
    st.one_of(
        st.sampled_from("<>|\\{}u?n[]1:\n\t\r\"' \u2028\u200b\u200d\ufffdé"), st.characters()
    ),
    max_size=6,
)
tokens = st.lists(
    st.builds(token, letters, st.sampled_from([0.0, 1.5, -2.0]), special=st.booleans()), max_size=8
)


def characters(pieces, marked):
    """Text, control and mark of each token that is seen: one without text belongs to the one before."""
    found = []
    for at, piece in enumerate(pieces):
        if not piece.text and not piece.special and found and found[-1][1] == "text":
            found[-1][2] |= at in marked
        elif piece.text or piece.special or at in marked:
            kind = "control" if piece.special else "text" if piece.text else "fragment"
            found.append([piece.text, kind, at in marked])
    return found


@given(tokens, st.sets(st.integers(0, 7)))
def test_a_line_reads_back_as_its_text_and_its_marks(pieces, chosen):
    line = marks.line(pieces, chosen)
    assert not any(char in line for char in "\n\r\t\u2028\u200b\x85\x00")
    seen = shown.spans(line)
    assert "".join(span.text for span in seen) == "".join(piece.text for piece in pieces)
    known = characters(pieces, chosen)
    # letter by letter: which ones are marked, which ones are of a control token
    assert [(c, s.marked, s.control) for s in seen for c in s.text] == [
        (c, on, kind == "control") for text, kind, on in known for c in text
    ]
    runs = sum(on and (n == 0 or not known[n - 1][2]) for n, (_, _, on) in enumerate(known))
    assert len(shown.marked_of(line)) == runs


@given(st.text())
def test_an_explanation_is_one_line_without_marks(text):
    line = marks.escaped(text)
    assert len(line.splitlines()) <= 1
    assert [span.text for span in shown.spans(line)] == [text] * bool(text)
    assert not shown.marked_of(line)


@given(st.lists(st.builds(token, letters, special=st.booleans()), max_size=5))
def test_tokens_alone_are_in_quotation_marks_that_end_where_they_end(pieces):
    words = marks.words(pieces)
    assert len(words) == len(pieces)
    for piece, word in zip(pieces, words, strict=True):
        assert word[0] == word[-1] == '"'
        inner = word[1:-1]
        assert '"' not in inner.replace('\\"', "")
        assert shown.text_of(inner) == piece.text


@pytest.mark.parametrize(
    ("texts", "marked", "line"),
    [
        (["The", " cat", " sat"], {1}, "The<< cat>> sat"),
        (["The", " cat", " sat"], {1, 2}, "The<< cat sat>>"),
        (["a<b", " c>d"], {1}, "a<b<< c>d>>"),
        (["a <", "b"], {1}, r"a \<<<b>>"),
        (["x << 1", " >>> y"], (), r"x \<\< 1 \>\>\> y"),
        (["a\n[2] b", "\\n"], {1}, r"a\n[2] b<<\\n>>"),
        (["é", "", "!"], {1}, "<<é>>!"),
        (["", "", "!"], {1}, r"<<\?>>!"),
        (["<|im_end|>"], (), r"\<|im_end|\>"),
        (["<i>", "</i>"], (), "<i></i>"),
    ],
)
def test_lines(texts, marked, line):
    assert marks.line([token(text) for text in texts], marked) == line


def test_control_tokens_are_shown_as_such_and_cannot_be_spelled():
    assert marks.line([token("<s>", special=True), token("<s>")]) == r"\{\<s\>}<s>"
    assert marks.line([token("}", special=True), token(r"\{<s>}")]) == r"\{\}}\\{<s>}"


@pytest.mark.parametrize(
    ("value", "told"),
    [(0.0, 0), (4.0, 10), (0.001, 1), (2.1, 5), (-4.0, -10), (-0.001, -1), (4.0001, 10)],
)
def test_strengths_are_tenths_of_the_largest(value, told):
    assert marks.strength(value, 4.0) == told


def test_strengths_are_listed_with_their_sign():
    pieces = [token(' "a"', 4.0), token(" b", -2.0), token("é", 0.5), token("", 3.0), token(" c")]
    listed = marks.strengths(pieces, marks.firing(pieces, maximum=4.0), 4.0)
    assert listed == r'" \"a\"" 10, " b" -5, "é" 8'


@pytest.mark.parametrize(
    ("values", "above", "marked"),
    [
        ([0.0, 1.0, -4.0, 2.0], 0.0, [1, 2, 3]),
        ([0.0, 1.0, -4.0, 2.0], 0.5, [2]),
        ([0.0, 1.0, 1.0, 0.5], 0.7, [1, 2]),  # none is above: where it is strongest
        ([0.0, 4.0, 1.0], 1.0, [1]),
        ([0.0, 0.0], 0.0, []),
        ([], 0.0, []),
    ],
)
def test_tokens_are_marked_above_a_share_of_the_maximum(values, above, marked):
    pieces = [token("x", value) for value in values]
    assert marks.firing(pieces, maximum=4.0, above=above) == marked
