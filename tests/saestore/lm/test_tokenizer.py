import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, strategies as st
from tokenizers import Tokenizer, decoders, models as token_models, normalizers
from transformers import PreTrainedTokenizerFast

from saestore.errors import ConfigError, UnsupportedError
from saestore.lm import LmTokenizer, vocabulary_of
from saestore.testing.corpora import PARAGRAPHS
from saestore.testing.models import SPECIAL, tiny_tokenizer
from saestore_schemas import tables


NAMED = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
BYTE_LEVEL = LmTokenizer(tiny_tokenizer())


def sentencepiece():
    """A tokenizer spelled like Llama 2's: U+2581 for spaces, bytes where nothing else fits."""
    words = ["\u2581the", "\u2581", "t", "h", "e", "th", "the", "\n"]
    names = [*NAMED.values(), *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    tokenizer = Tokenizer(
        token_models.BPE(
            vocab={name: number for number, name in enumerate(names)},
            merges=[("t", "h"), ("th", "e"), ("\u2581", "the")],
            byte_fallback=True, fuse_unk=True, unk_token=NAMED["unk_token"],
        )
    )  # fmt: skip
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return LmTokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer, **NAMED))


SENTENCEPIECE = sentencepiece()


def spelled(tokenizer, text):
    ids, starts = tokenizer.encode(text)
    return [vocabulary_of(tokenizer)["bytes"][int(i)].as_py() for i in ids], starts


@pytest.fixture(scope="module")
def spellings():
    return {id(t): vocabulary_of(t)["bytes"].to_pylist() for t in (BYTE_LEVEL, SENTENCEPIECE)}


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, SENTENCEPIECE], ids=["bytes", "sentencepiece"])
@pytest.mark.parametrize("text", [*PARAGRAPHS, "", " the the\nthe  é", "\x00\x7f\u00ad\ufeff"])
def test_the_bytes_of_the_tokens_are_the_bytes_of_the_text(tokenizer, text, spellings):
    ids, _ = tokenizer.encode(text)
    assert b"".join(spellings[id(tokenizer)][i] for i in ids) == text.encode()


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, SENTENCEPIECE], ids=["bytes", "sentencepiece"])
@given(text=st.text(max_size=40).filter(lambda text: not any(s in text for s in SPECIAL.values())))
def test_every_token_begins_where_it_says(tokenizer, text, spellings):
    ids, starts = tokenizer.encode(text)
    ends = np.cumsum([len(spellings[id(tokenizer)][i]) for i in ids])
    assert (np.diff(starts) >= 0).all()
    offset = 0
    for start, end in zip(starts, ends, strict=True):
        before = len(text[:start].encode())
        assert before <= offset < before + len(text[start].encode())
        offset = int(end)
    assert offset == len(text.encode())


def test_nothing_is_added_and_nothing_cut_off(tiny_gpt2):
    vendor = tiny_tokenizer()
    vendor.backend_tokenizer.enable_truncation(5)
    vendor.backend_tokenizer.enable_padding(length=50)
    ids, _ = LmTokenizer(vendor).encode(PARAGRAPHS[0])
    assert len(ids) > 5
    assert not set(ids.tolist()) & BYTE_LEVEL.special_ids


def test_special_tokens_are_known():
    assert (BYTE_LEVEL.bos_id, BYTE_LEVEL.eos_id) == (1, 2)
    assert BYTE_LEVEL.special_ids == {0, 1, 2}
    other = LmTokenizer(tiny_tokenizer(), bos_id=7)
    assert (other.bos_id, other.special_ids) == (7, {0, 1, 2, 7})


def test_a_bos_beyond_the_vocabulary_is_refused():
    with pytest.raises(ConfigError, match=r"lm\.bos_token_id: found 5000"):
        LmTokenizer(tiny_tokenizer(), bos_id=5000)


def test_a_tokenizer_without_offsets_is_refused():
    class Slow:
        backend_tokenizer = None

    with pytest.raises(UnsupportedError, match="Slow") as caught:
        LmTokenizer(Slow())
    assert caught.value.hint


def test_the_vocabulary_is_the_table():
    table = vocabulary_of(BYTE_LEVEL, size=397)
    assert table.schema == tables.VOCABULARY.schema()
    assert table["token_id"].to_pylist() == list(range(397))
    assert table["n_rows"].null_count == 397
    special = [n for n, each in enumerate(table["special"].to_pylist()) if each]
    assert special == [0, 1, 2, *range(389, 397)]
    assert table["token"][1].as_py() == "<bos>"
    assert table["bytes"][1].as_py() == b"<bos>"
    assert (table["token"][396].as_py(), table["bytes"][396].as_py()) == ("<unused 396>", b"")
    assert isinstance(table, pa.Table)


def test_half_a_character_is_shown_as_replaced():
    table = vocabulary_of(SENTENCEPIECE)
    at = SENTENCEPIECE.vendor.convert_tokens_to_ids("<0xE6>")
    assert (table["bytes"][at].as_py(), table["token"][at].as_py()) == (b"\xe6", "\ufffd")
    assert spelled(SENTENCEPIECE, " the")[0] == [b" the"]
