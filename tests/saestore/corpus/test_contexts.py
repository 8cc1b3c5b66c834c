from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st

from saestore.corpus import Document, Reading, blocks
from saestore.errors import ConfigError
from saestore_schemas.activations import FLAG_IGNORED, FLAG_SPECIAL
from saestore_schemas.corpus import CorpusSettings, StdlibSource


BOS, EOS = 256, 257


@dataclass
class ByteTokenizer:
    """One token per byte: several tokens share a character, as in real vocabularies."""

    bos_id: int | None = BOS
    eos_id: int | None = EOS

    @property
    def special_ids(self):
        return frozenset({BOS, EOS})

    def encode(self, text):
        pieces = [each.encode() for each in text]
        ids = np.frombuffer(b"".join(pieces), np.uint8).astype(np.int32)
        starts = np.repeat(np.arange(len(text)), [len(each) for each in pieces]).astype(np.int64)
        return ids, starts


class Listed:
    """Documents from a list."""

    metadata = pa.schema([("n", pa.int64())])
    fingerprint = "0" * 64

    def __init__(self, texts):
        self.held = [
            Document(id=f"d{n}", source="list", text=text, metadata={"n": n})
            for n, text in enumerate(texts)
        ]

    def documents(self, start=0, *, position=None):
        at = [start if position is None else position]

        def given():
            while at[0] < len(self.held):
                at[0] += 1
                yield self.held[at[0] - 1]

        return Reading(given(), lambda: at[0])


texts = st.lists(st.text(max_size=12) | st.just("") | st.text(min_size=30, max_size=60), max_size=9)
shapes = st.fixed_dictionaries(
    {
        "context_size": st.integers(2, 20),
        "packing": st.sampled_from(["pack", "split", "truncate"]),
        "block_documents": st.integers(1, 4),
        "shuffle_seed": st.none() | st.integers(0, 3),
        "store_text": st.booleans(),
    }
)


def corpus_settings(shape, **more):
    return CorpusSettings(sources=(StdlibSource(),), **shape, **more)


def made(texts, shape, *, prepend_bos=True, start=0, **more):
    return list(
        blocks(
            Listed(texts), corpus_settings(shape), ByteTokenizer(), prepend_bos=prepend_bos,
            start=start, **more,
        )
    )  # fmt: skip


def same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert (a.index, a.documents, a.lost_tokens) == (b.index, b.documents, b.lost_tokens)
        assert len(a.contexts) == len(b.contexts)
        for c, d in zip(a.contexts, b.contexts, strict=True):
            np.testing.assert_array_equal(c.tokens, d.tokens)
            np.testing.assert_array_equal(c.flags, d.flags)
            assert c.segments == d.segments


@given(texts, shapes, st.booleans())
def test_every_token_of_every_document_appears_exactly_once(texts, shape, prepend_bos):
    found = made(texts, shape, prepend_bos=prepend_bos)
    records = {each.document: each for block in found for each in block.documents}
    assert sorted(records) == list(range(len(texts)))
    seen = {number: [] for number in records}
    for block in found:
        for context in block.contexts:
            for segment in context.segments:
                span = range(segment.start, segment.start + segment.length)
                assert len(seen[segment.document]) == segment.token_offset
                seen[segment.document].extend(int(context.tokens[p]) for p in span)
    lost = 0
    for number, record in records.items():
        whole = list(texts[record.metadata["n"]].encode())
        assert record.document_id == f"d{record.metadata['n']}"
        assert record.n_tokens == len(whole)
        assert record.n_chars == len(texts[record.metadata["n"]])
        assert whole[: len(seen[number])] == seen[number]
        lost += len(whole) - len(seen[number])
    assert sum(block.lost_tokens for block in found) == lost
    if shape["packing"] != "truncate":
        assert lost == 0


@given(texts, shapes, st.booleans())
def test_offsets_lead_back_to_the_text(texts, shape, prepend_bos):
    for block in made(texts, shape, prepend_bos=prepend_bos):
        held = {each.document: texts[each.metadata["n"]] for each in block.documents}
        for context in block.contexts:
            for segment in context.segments:
                text = held[segment.document]
                span = slice(segment.start, segment.start + segment.length)
                piece = bytes(context.tokens[span].astype(np.uint8))
                before = len(text[: segment.char_offset].encode())
                inside = segment.token_offset - before  # bytes into the first character
                assert 0 <= inside < len(text[segment.char_offset].encode())
                rest = text[segment.char_offset :].encode()[inside:]
                assert rest.startswith(piece)


@given(texts, shapes, st.integers(0, 6))
def test_starting_at_a_block_gives_exactly_the_rest(texts, shape, start):
    everything = made(texts, shape)
    same(made(texts, shape, start=start), everything[start:])
    for block in everything[start : start + 1]:
        same(made(texts, shape, start=start, position=block.position), everything[start:])


@given(texts, shapes)
def test_a_block_depends_on_its_own_documents_only(texts, shape):
    size = shape["block_documents"]
    alone = made(texts[:size], shape)
    same(alone, made(texts, shape)[: len(alone)])


@given(texts, shapes, st.booleans())
def test_bos_and_separators_are_special_and_belong_to_no_document(texts, shape, prepend_bos):
    for block in made(texts, shape, prepend_bos=prepend_bos, ignore_tokens=(ord("a"),)):
        for context in block.contexts:
            inside = np.zeros(len(context.tokens), dtype=bool)
            for segment in context.segments:
                inside[segment.start : segment.start + segment.length] = True
            np.testing.assert_array_equal(context.flags & FLAG_SPECIAL > 0, ~inside)
            np.testing.assert_array_equal(
                context.flags & FLAG_IGNORED > 0, context.tokens == ord("a")
            )
            assert prepend_bos == (context.tokens[0] == BOS)
            others = context.tokens[~inside][int(prepend_bos) :]
            assert set(others.tolist()) <= {EOS}
            assert len(others) == (len(context.segments) - 1 if shape["packing"] == "pack" else 0)
            assert 1 < len(context.tokens) + (not prepend_bos) <= shape["context_size"] + 1
            assert len(context.tokens) <= shape["context_size"]


@given(texts, shapes)
def test_text_is_kept_when_asked_for(texts, shape):
    for block in made(texts, shape):
        for record in block.documents:
            kept = texts[record.metadata["n"]] if shape["store_text"] else None
            assert record.text == kept


@settings(max_examples=20)
@given(st.integers(0, 100))
def test_a_seed_permutes_inside_blocks(seed):
    texts = [chr(ord("a") + n) for n in range(20)]
    shape = {"context_size": 8, "block_documents": 5, "shuffle_seed": seed}
    for block in made(texts, shape):
        numbers = [each.metadata["n"] for each in block.documents]
        assert sorted(numbers) == list(range(5 * block.index, 5 * block.index + 5))
        assert [each.document for each in block.documents] == sorted(numbers)


def test_different_blocks_draw_different_orders():
    shape = {"context_size": 8, "block_documents": 50, "shuffle_seed": 0}
    orders = [
        [each.metadata["n"] % 50 for each in block.documents] for block in made(["x"] * 150, shape)
    ]
    assert orders[0] != orders[1] != orders[2]


def test_special_ids_inside_a_text_are_flagged():
    class Naming(ByteTokenizer):
        def encode(self, text):
            ids, starts = super().encode(text)
            return np.where(ids == ord("#"), np.int32(EOS), ids), starts

    (block,) = blocks(
        Listed(["a#b"]), corpus_settings({"context_size": 8}), Naming(), prepend_bos=False
    )
    assert block.contexts[0].flags.tolist() == [0, FLAG_SPECIAL, 0]


def test_bos_that_the_tokenizer_lacks_names_the_setting():
    bare = ByteTokenizer(bos_id=None)
    with pytest.raises(ConfigError, match=r"lm\.prepend_bos") as caught:
        next(blocks(Listed(["a"]), corpus_settings({}), bare, prepend_bos=True))
    assert "lm.bos_token_id" in caught.value.hint


def test_a_separator_that_the_tokenizer_lacks_names_the_setting():
    bare = ByteTokenizer(eos_id=None)
    with pytest.raises(ConfigError, match=r"corpus\.separator: found 'eos'") as caught:
        next(blocks(Listed(["a"]), corpus_settings({}), bare, prepend_bos=True))
    assert "none" in caught.value.hint
    for shape in ({"packing": "split"}, {"separator": "none"}):
        assert list(blocks(Listed(["a"]), corpus_settings(shape), bare, prepend_bos=True))
