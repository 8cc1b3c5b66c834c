"""Contexts cut into tokens by whole arrays are those that Python's slices give."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, strategies as st

from saestore.features import Analysis, arrow
from saestore.features.cuts import Cuts, Windows
from saestore.features.page import TokenPiece
from saestore.features.pieces import Vocabulary
from saestore.features.stretches import Stretches
from saestore_schemas import tables


VOCABULARY = Vocabulary(
    np.array([0, 3, 7]),
    ["<bos>", " a", "b"],
    np.array([True, False, False]),
    np.array([2, 3, 4]),
)

# characters of 1 to 4 bytes; tokens without any complete a character of the one before
PIECES = st.text("ab\nßé\u0301日🙂", max_size=3)


@st.composite
def contexts(draw):
    """A line of `contexts`, and the pieces it was made of."""
    pieces = draw(st.lists(PIECES, max_size=6))
    n = len(pieces)
    starts = [0, *sorted(draw(st.sets(st.integers(1, max(1, n - 1)), max_size=2)))]
    line = {
        "source": draw(st.sampled_from(["", "web", "Büch er"])),
        "n_positions": n,
        "token_ids": draw(st.lists(st.sampled_from([0, 3, 7, 9]), min_size=n, max_size=n)),
        "ignored": sorted(draw(st.sets(st.integers(0, max(0, n - 1)), max_size=n))) if n else [],
        "segments": [
            {"document": draw(st.integers(0, 99)), "document_id": f"d{at}", "start": start}
            for at, start in enumerate(starts)
        ],
        "text": "".join(pieces),
        "char_offsets": np.cumsum([0, *map(len, pieces)]).tolist(),
    }
    return line, pieces


def table_of(lines):
    schema = tables.CONTEXTS.schema()
    missing = {"length": 0, "document_offset": 0}
    columns = {name: [line[name] for line in lines] for name in lines[0]}
    columns["segments"] = [[{**missing, **each} for each in line["segments"]] for line in lines]
    columns["context"] = list(range(len(lines)))
    return pa.table({n: arrow.column(c, schema.field(n).type) for n, c in columns.items()})


def cut_by_hand(line, pieces):
    return [
        TokenPiece(text, 0.0, token == 0, at not in line["ignored"])
        for at, (text, token) in enumerate(zip(pieces, line["token_ids"], strict=True))
    ]


def home_by_hand(line, position):
    before = [each for each in line["segments"] if each["start"] <= position]
    return (before or line["segments"])[-1 if before else 0]


@given(st.lists(st.lists(contexts(), min_size=1, max_size=4), min_size=1, max_size=3), st.data())
def test_tokens_and_documents_are_those_of_slices(batches, data):
    cuts, slots = Cuts(VOCABULARY), []
    for batch in batches:
        slots += cuts.add(table_of([line for line, _ in batch])).tolist()
    every = [each for batch in batches for each in batch]
    assert slots == [*range(len(every))]
    chosen = data.draw(st.lists(st.sampled_from(slots), max_size=6))
    spans = [data.draw(window_of(every[slot][0]["n_positions"])) for slot in chosen]
    peaks, starts, lengths = np.array(spans, np.int64).reshape(-1, 3).T
    shown = cuts.shown(Windows(np.array(chosen, np.int64), peaks, starts, lengths))
    for at, (slot, (peak, start, length)) in enumerate(zip(chosen, spans, strict=True)):
        line, pieces = every[slot]
        first = shown.firsts[at]
        wanted = cut_by_hand(line, pieces)[start : start + length]
        assert shown.tokens()[first : first + length].tolist() == wanted
        home = home_by_hand(line, peak)
        assert (shown.documents[at], shown.document_ids[at]) == (
            home["document"],
            home["document_id"],
        )
        assert (shown.n_positions[at], shown.sources[at]) == (len(pieces), line["source"])
        assert all(cuts.token(slot, n) == piece for n, piece in enumerate(pieces))
        assert cuts.token(slot, len(pieces)) == ""


def window_of(n):
    """Peak, start and length of a window of a context of n tokens."""
    starts = st.integers(0, n)
    return starts.flatmap(
        lambda start: st.tuples(st.integers(0, max(0, n - 1)), st.just(start), st.integers(0, n - start))
    )  # fmt: skip


@pytest.mark.parametrize(("room", "near"), [(0, False), (0, True), (40, True), (1 << 20, False)])
def test_whatever_room_there_is_the_same_is_shown_to_any_thread(planted_lake, room, near):
    analysis = Analysis.open(planted_lake, "planted/relu/default")
    table = analysis.rows("examples", range(11)).combine_chunks()
    names = ("context", "peak_position", "window_start", "window_length")
    lines = arrow.columns(names, map(table.column, names))
    wanted = analysis.stored.stretches.shown(lines)
    held = Stretches(analysis.stored.readers["contexts"], analysis.vocabulary, room=room, near=near)

    def ask(seed):
        some = np.random.default_rng(seed).permutation(table.num_rows)[:5].tolist()
        found = held.shown({name: column[some] for name, column in lines.items()})
        return all(
            np.array_equal(
                found.tokens()[first : first + length], wanted.tokens()[begin : begin + length]
            )
            and found.document_ids[n] == wanted.document_ids[at]
            for n, at in enumerate(some)
            for first, begin, length in [
                (found.firsts[n], wanted.firsts[at], int(lines["window_length"][at]))
            ]
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(20)))
