import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st

from saestore.analyze.text import TokenBytes, assemble
from saestore.errors import DamagedArtefactError


def table(pieces):
    return pa.table({"token_id": pa.array(range(len(pieces)), pa.uint32()), "bytes": pieces})


def shown(contexts, pieces):
    """Return each context's text and its tokens' pieces."""
    tokens = np.array([t for c in contexts for t in c], np.int32)
    lengths = np.array([len(c) for c in contexts], np.int64)
    texts, offsets = assemble(tokens, lengths, TokenBytes.of(table(pieces)))
    found, at = [], 0
    for text, length in zip(texts, lengths, strict=True):
        o = offsets[at : at + length + 1]
        found.append((text, [text[a:b] for a, b in itertools.pairwise(o)]))
        assert (o[0], o[-1]) == (0, len(text))
        at += length + 1
    assert at == len(offsets)
    return found


def test_a_character_belongs_to_the_token_with_its_first_byte():
    euro = "€".encode()
    pieces = [b"a", euro[:1], euro[1:2], euro[2:] + b"b"]
    assert shown([[0, 1, 2, 3]], pieces) == [("a€b", ["a", "€", "", "b"])]


def test_what_is_not_utf8_is_replaced_inside_its_own_token():
    euro = "€".encode()
    pieces = [euro[:1], euro[1:], b"x", b"\xff"]
    ((text, parts),) = shown([[1, 2, 3, 0]], pieces)
    assert text == b"".join(pieces[t] for t in [1, 2, 3, 0]).decode(errors="replace")
    assert parts == ["��", "x", "�", "�"]


def test_a_context_does_not_borrow_bytes_from_its_neighbour():
    euro = "€".encode()
    texts = [text for text, _ in shown([[0], [1], []], [euro[:1], euro[1:]])]
    assert texts == ["�", "��", ""]


splits = st.text(max_size=12).flatmap(
    lambda text: st.lists(st.integers(0, len(text.encode())), max_size=6).map(
        lambda cuts: (text, sorted({0, *cuts, len(text.encode())}))
    )
)


@settings(deadline=None)
@given(st.lists(splits, max_size=4))
def test_pieces_of_any_split_text_join_to_it(texts):
    pieces, contexts = [b""], []
    for text, cuts in texts:
        raw = text.encode()
        parts = [raw[a:b] for a, b in itertools.pairwise(cuts)]
        contexts.append(list(range(len(pieces), len(pieces) + len(parts))))
        pieces += parts
    for (text, _), (found, parts) in zip(texts, shown(contexts, pieces), strict=True):
        assert found == text
        assert "".join(parts) == text


@settings(deadline=None)
@given(st.lists(st.lists(st.binary(max_size=4), max_size=6), max_size=4))
def test_any_bytes_decode_as_python_replaces_them(contexts):
    pieces = [part for context in contexts for part in context]
    ids = iter(range(len(pieces)))
    tokens = [[next(ids) for _ in context] for context in contexts]
    for context, (found, parts) in zip(contexts, shown(tokens, [*pieces, b""]), strict=True):
        assert found == b"".join(context).decode(errors="replace")
        assert "".join(parts) == found


@pytest.mark.parametrize("token", [2, 7])
def test_a_token_the_vocabulary_lacks_is_damage(token):
    sparse = pa.table({"token_id": pa.array([0, 3], pa.uint32()), "bytes": [b"a", b"b"]})
    with pytest.raises(DamagedArtefactError, match=f"token {token}"):
        assemble(np.array([0, token], np.int32), np.array([2]), TokenBytes.of(sparse))
