"""The text of contexts, from the vocabulary's bytes alone: no tokenizer is needed.

The bytes of a context's tokens are joined and decoded as UTF-8. A character belongs to the token
that holds its first byte; tokens that only complete it have width 0, so the tokens' pieces always
concatenate to the text. What is not UTF-8 becomes U+FFFD, as `bytes.decode(errors="replace")` does.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Int32, Int64, UInt8, UInt32

from saestore.errors import DamagedArtefactError


_CONTINUATION = 0x80
"""Of a UTF-8 byte: the two top bits are 10 exactly when it continues a character."""


@dataclass(frozen=True)
class TokenBytes:
    """The bytes of every token, end to end.

    Attributes:
        data: All bytes.
        start: First byte of each token id.
        length: Bytes of each token id; -1 for ids the vocabulary does not have.
    """

    data: UInt8[np.ndarray, " byte"]
    start: Int64[np.ndarray, " vocab"]
    length: Int64[np.ndarray, " vocab"]

    @classmethod
    def of(cls, vocabulary: pa.Table) -> "TokenBytes":
        """Return the bytes of a vocabulary table."""
        ids = vocabulary["token_id"].to_numpy().astype(np.int64)
        column = vocabulary["bytes"].combine_chunks()
        values = [value or b"" for value in column.to_pylist()]
        sizes = np.array([len(value) for value in values], dtype=np.int64)
        room = int(ids.max(initial=-1)) + 1
        start, length = np.zeros(room, np.int64), np.full(room, -1, np.int64)
        start[ids] = np.cumsum(sizes) - sizes
        length[ids] = sizes
        return cls(np.frombuffer(b"".join(values), dtype=np.uint8), start, length)


def assemble(
    tokens: Int32[np.ndarray, " row"], lengths: Int64[np.ndarray, " context"], of: TokenBytes
) -> tuple[list[str], UInt32[np.ndarray, " _"]]:
    """Return the text of each context and where its tokens' pieces begin.

    Args:
        tokens: The tokens of all contexts, end to end.
        lengths: Tokens in each context.
        of: The vocabulary.

    Returns:
        The texts; and for each context its tokens + 1 code-point offsets, end to end: token i is
        `text[o[i]:o[i + 1]]`.

    Raises:
        DamagedArtefactError: A token is not in the vocabulary.
    """
    sizes = _sizes(tokens, of)
    ends = np.concatenate([[0], np.cumsum(sizes)])
    where = np.arange(ends[-1]) + np.repeat(of.start[tokens] - ends[:-1], sizes)
    data = of.data[where]
    begins = (data & 0xC0) != _CONTINUATION
    raw = data.tobytes()
    texts = []
    rows = np.concatenate([[0], np.cumsum(lengths)])
    bounds = ends[rows]
    for low, high in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        try:
            texts.append(raw[low:high].decode())
        except UnicodeDecodeError:
            texts.append(raw[low:high].decode(errors="replace"))
            begins[low:high] = _begins(raw[low:high])
    characters = np.concatenate([[0], np.cumsum(begins)])
    # One offset more than tokens in each context: its end is the next one's beginning.
    index = np.arange(len(tokens) + len(lengths)) - np.repeat(np.arange(len(lengths)), lengths + 1)
    base = np.repeat(characters[bounds[:-1]], lengths + 1)
    return texts, (characters[ends[index]] - base).astype(np.uint32)


def _sizes(tokens: Int32[np.ndarray, " row"], of: TokenBytes) -> Int64[np.ndarray, " row"]:
    highest = int(tokens.max(initial=-1))
    if highest < len(of.length):
        sizes: np.ndarray = of.length[tokens]
        if not (sizes < 0).any():
            return sizes
        highest = int(tokens[sizes < 0][0])
    raise DamagedArtefactError(
        name="vocabulary", damage=(f"token {highest} occurs in the text and is not listed",)
    )


def _begins(raw: bytes) -> np.ndarray:
    """Return which bytes begin a character once what is not UTF-8 is replaced."""
    data = np.frombuffer(raw, dtype=np.uint8)
    begins: np.ndarray = (data & 0xC0) != _CONTINUATION
    at = 0
    while at < len(raw):
        try:
            raw[at:].decode()
        except UnicodeDecodeError as error:
            begins[at + error.start : at + error.end] = False
            begins[at + error.start] = True
            at += error.end
        else:
            break
    return begins
