from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from saestore.corpus.packing import arrange


lengths = st.lists(st.integers(0, 40), max_size=12)
frames = st.tuples(st.integers(2, 17), st.integers(0, 1), st.integers(0, 1))


def pieces(layout):
    return [piece for context in layout for piece in context]


def covered(layout):
    return [
        (piece.document, piece.offset + step)
        for piece in pieces(layout)
        for step in range(piece.length)
    ]


@given(lengths, frames, st.sampled_from(["pack", "split"]))
def test_every_token_goes_to_one_place_in_order(lengths, frame, mode):
    context_size, lead, separator = frame
    layout = arrange(lengths, mode, context_size=context_size, lead=lead, separator=separator)
    assert covered(layout) == [(d, t) for d, n in enumerate(lengths) for t in range(n)]


@given(lengths, frames)
def test_truncation_keeps_a_documents_first_context(lengths, frame):
    context_size, lead, separator = frame
    layout = arrange(lengths, "truncate", context_size=context_size, lead=lead, separator=separator)
    room = context_size - lead
    assert covered(layout) == [(d, t) for d, n in enumerate(lengths) for t in range(min(n, room))]
    assert len(layout) == sum(n > 0 for n in lengths)


@given(lengths, frames, st.sampled_from(["pack", "split", "truncate"]))
def test_pieces_fit_and_do_not_overlap(lengths, frame, mode):
    context_size, lead, separator = frame
    layout = arrange(lengths, mode, context_size=context_size, lead=lead, separator=separator)
    for context in layout:
        assert context[0].start == lead
        gap = separator if mode == "pack" else 0
        for before, after in pairwise(context):
            assert after.start == before.start + before.length + gap
            assert after.document > before.document
        assert context[-1].start + context[-1].length <= context_size
        assert all(piece.length > 0 for piece in context)


@given(lengths, frames)
def test_packed_contexts_are_full_but_for_a_separator_and_the_last(lengths, frame):
    context_size, lead, separator = frame
    layout = arrange(lengths, "pack", context_size=context_size, lead=lead, separator=separator)
    for context in layout[:-1]:
        assert context[-1].start + context[-1].length >= context_size - separator


@given(lengths, frames)
def test_split_gives_every_document_contexts_of_its_own(lengths, frame):
    context_size, lead, separator = frame
    layout = arrange(lengths, "split", context_size=context_size, lead=lead, separator=separator)
    assert all(len(context) == 1 for context in layout)


@pytest.mark.parametrize("mode", ["pack", "split", "truncate"])
def test_no_documents_make_no_contexts(mode):
    for nothing in ([], [0, 0]):
        assert arrange(nothing, mode, context_size=8, lead=1, separator=1) == []
