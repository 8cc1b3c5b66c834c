"""The exact bytes of every token.

A byte-level tokenizer spells each byte as one printable character; a sentencepiece tokenizer spells
a space as U+2581 and, where it falls back, a byte as `<0x0A>`. Decoding tokens one by one instead
would lose what is not UTF-8 by itself, such as half an emoji.

Source: the byte alphabet is GPT-2's (Radford et al. 2019, `encoder.py`).
"""

import json
import re
from typing import Any

import pyarrow as pa

from saestore.lm.tokenizer import LmTokenizer
from saestore_schemas import tables


_FALLBACK = re.compile(r"^<0x([0-9A-Fa-f]{2})>$")
_SPACE = "\u2581"


def vocabulary_of(tokenizer: LmTokenizer, *, size: int | None = None) -> pa.Table:
    """Return the vocabulary table, one line per token id.

    Args:
        tokenizer: The tokenizer.
        size: Lines wanted: a model may have more rows than its tokenizer has tokens. They stand
            for no bytes and count as special.
    """
    backend = tokenizer.vendor.backend_tokenizer
    added = {number: token.content for number, token in backend.get_added_tokens_decoder().items()}
    names = {number: name for name, number in backend.get_vocab(with_added_tokens=True).items()}
    kinds = _kinds(json.loads(backend.to_str()).get("decoder"))
    count = max(max(names, default=-1) + 1, size or 0)
    exact = []
    for number in range(count):
        if number in added:
            exact.append(added[number].encode())
        elif number in names:
            exact.append(_bytes(names[number], kinds))
        else:
            exact.append(b"")
    display = [
        each.decode(errors="replace") if number in names else f"<unused {number}>"
        for number, each in enumerate(exact)
    ]
    special = [number in tokenizer.special_ids or number not in names for number in range(count)]
    return pa.table(
        [
            pa.array(range(count), pa.uint32()),
            pa.array(display, pa.string()),
            pa.array(exact, pa.binary()),
            pa.array(special, pa.bool_()),
            pa.nulls(count, pa.uint64()),
        ],
        schema=tables.VOCABULARY.schema(),
    )


def _kinds(decoder: dict[str, Any] | None) -> frozenset[str]:
    """Return the types of the decoder's steps."""
    if decoder is None:
        return frozenset()
    inner = [_kinds(step) for step in decoder.get("decoders", ())]
    return frozenset({decoder["type"]}).union(*inner)


def _bytes(name: str, kinds: frozenset[str]) -> bytes:
    if "ByteLevel" in kinds:
        # A character outside the alphabet was put there by hand and stands for itself.
        return b"".join(
            bytes([ALPHABET[each]]) if each in ALPHABET else each.encode() for each in name
        )
    if "ByteFallback" in kinds and (byte := _FALLBACK.match(name)):
        return bytes([int(byte[1], 16)])
    if kinds & {"ByteFallback", "Metaspace", "Replace"}:
        return name.replace(_SPACE, " ").encode()
    return name.encode()


def _alphabet() -> dict[str, int]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    spelled = {chr(byte): byte for byte in printable}
    spelled.update({chr(256 + number): byte for number, byte in enumerate(others)})
    return spelled


ALPHABET = _alphabet()
"""Character of a byte-level token to the byte it stands for."""
