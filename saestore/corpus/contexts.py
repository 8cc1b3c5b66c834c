"""Documents to contexts of token ids that remember where they came from.

The corpus is cut into blocks of `block_documents` documents. A block is tokenised, ordered and
packed by itself, so any process can make any block, and an interrupted run continues at a block.
Law: `list(blocks(start=n)) == list(blocks())[n:]`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, Int64, UInt8

from saestore.corpus.documents import Document, DocumentSource, Position
from saestore.corpus.packing import Piece, arrange
from saestore.corpus.tokens import Tokenizer
from saestore.errors import ConfigError
from saestore_schemas.activations import FLAG_IGNORED, FLAG_SPECIAL
from saestore_schemas.corpus import CorpusSettings


class Segment(NamedTuple):
    """A stretch of one document inside a context; BOS and separators belong to none.

    Attributes:
        start: First position in the context.
        length: Tokens.
        document: Document index in the whole corpus, in the order of its blocks.
        token_offset: Its first token's index in the document.
        char_offset: The code point of the document at which that token begins.
    """

    start: int
    length: int
    document: int
    token_offset: int
    char_offset: int


@dataclass(frozen=True)
class Context:
    """One token window, never padded: the last of a document or block may be short.

    Attributes:
        tokens: Token ids.
        flags: For each token `FLAG_SPECIAL`, `FLAG_IGNORED`, both or 0.
        segments: Where its tokens come from, in order.
    """

    tokens: Int32[np.ndarray, " position"]
    flags: UInt8[np.ndarray, " position"]
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class DocumentRecord:
    """What is remembered of a document.

    Attributes:
        document: Its index in the whole corpus, in the order of its blocks.
        document_id: Its id in its source.
        source: Which source it came from.
        n_tokens: Tokens of the whole document, none added.
        n_chars: Code points of the whole document.
        text: The whole text if `store_text` is set.
        metadata: Values of the corpus's metadata columns.
    """

    document: int
    document_id: str
    source: str
    n_tokens: int
    n_chars: int
    text: str | None
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class Block:
    """Documents packed together, and nothing else in their contexts.

    Attributes:
        index: Number of the block, from 0.
        documents: Its documents in stored order, empty ones included.
        contexts: Its contexts in stored order.
        lost_tokens: Tokens cut off by `truncate`; 0 in the other modes.
        position: Where in the corpus its first document begins, for `blocks` to come back to.
    """

    index: int
    documents: tuple[DocumentRecord, ...]
    contexts: tuple[Context, ...]
    lost_tokens: int
    position: Position = None


class _Tokens(NamedTuple):
    ids: Int32[np.ndarray, " position"]
    chars: Int64[np.ndarray, " position"]


class _Frame(NamedTuple):
    """What stands around the documents' own tokens."""

    context_size: int
    bos: int | None
    separator: int | None
    special: frozenset[int]
    ignored: frozenset[int]


def blocks(
    corpus: DocumentSource,
    settings: CorpusSettings,
    tokenizer: Tokenizer,
    *,
    prepend_bos: bool,
    ignore_tokens: Sequence[int] = (),
    start: int = 0,
    position: Position = None,
    wanted: Callable[[int], bool] = lambda _: True,
) -> Iterator[Block]:
    """Yield the corpus's blocks from number `start` on.

    Args:
        corpus: The documents.
        settings: How they are cut; `sources` and `limit_documents` are the corpus's business.
        tokenizer: Text to token ids.
        prepend_bos: Begin every context with BOS.
        ignore_tokens: Token ids to flag as ignored.
        start: First block, from 0.
        position: Where it begins, as a block said; absent, it is looked for.
        wanted: Which blocks to tokenise, by number; the others are yielded empty.

    Raises:
        ConfigError: BOS or a separator is wanted and the tokenizer has none, or a document cannot
            be read.
    """
    frame = _frame(settings, tokenizer, prepend_bos=prepend_bos, ignore_tokens=ignore_tokens)
    size = settings.block_documents
    documents = corpus.documents(start * size, position=position)
    index, here = start, position
    while held := list(islice(documents, size)):
        if wanted(index):
            block = _block(index, held, settings, tokenizer, frame)
            yield replace(block, position=here)
        else:
            yield Block(index, (), (), 0)
        here = documents.position()
        index += 1


def _frame(
    settings: CorpusSettings,
    tokenizer: Tokenizer,
    *,
    prepend_bos: bool,
    ignore_tokens: Sequence[int],
) -> _Frame:
    if prepend_bos and tokenizer.bos_id is None:
        raise ConfigError(
            field="lm.prepend_bos",
            found=True,
            expected="false, because this model's tokenizer has no BOS token",
            hint="set lm.prepend_bos = false, or name a token with lm.bos_token_id",
        )
    named = {"eos": tokenizer.eos_id, "bos": tokenizer.bos_id, "none": None}
    wanted = settings.separator or "eos"
    separator = named[wanted] if settings.packing == "pack" else None
    if separator is None and settings.packing == "pack" and wanted != "none":
        raise ConfigError(
            field="corpus.separator",
            found=wanted,
            expected=f"a token that the tokenizer has; it has no {wanted.upper()}",
            hint=f"set corpus.separator = 'none', or name a token with lm.{wanted}_token_id",
        )
    return _Frame(
        settings.context_size,
        tokenizer.bos_id if prepend_bos else None,
        separator,
        tokenizer.special_ids,
        frozenset(ignore_tokens),
    )


def _block(
    index: int,
    documents: list[Document],
    settings: CorpusSettings,
    tokenizer: Tokenizer,
    frame: _Frame,
) -> Block:
    if settings.shuffle_seed is not None:
        draw = np.random.default_rng((settings.shuffle_seed, index))
        documents = [documents[i] for i in draw.permutation(len(documents))]
    tokens = [_Tokens(*tokenizer.encode(document.text)) for document in documents]
    first = index * settings.block_documents
    layout = arrange(
        [len(each.ids) for each in tokens],
        settings.packing,
        context_size=frame.context_size,
        lead=int(frame.bos is not None),
        separator=int(frame.separator is not None),
    )
    kept = sum(piece.length for pieces in layout for piece in pieces)
    return Block(
        index=index,
        documents=tuple(
            DocumentRecord(
                document=first + number,
                document_id=document.id,
                source=document.source,
                n_tokens=len(tokens[number].ids),
                n_chars=len(document.text),
                text=document.text if settings.store_text else None,
                metadata=document.metadata,
            )
            for number, document in enumerate(documents)
        ),
        contexts=tuple(_context(pieces, tokens, frame, first) for pieces in layout),
        lost_tokens=sum(len(each.ids) for each in tokens) - kept,
    )


def _context(pieces: list[Piece], tokens: list[_Tokens], frame: _Frame, first: int) -> Context:
    length = pieces[-1].start + pieces[-1].length
    # Positions that no piece covers are BOS (the first) or separators (the others).
    ids = np.full(length, 0 if frame.separator is None else frame.separator, dtype=np.int32)
    if frame.bos is not None:
        ids[0] = frame.bos
    for piece in pieces:
        source = tokens[piece.document].ids[piece.offset : piece.offset + piece.length]
        ids[piece.start : piece.start + piece.length] = source
    flags = np.zeros(length, dtype=np.uint8)
    flags[np.isin(ids, list(frame.special))] |= FLAG_SPECIAL
    flags[np.isin(ids, list(frame.ignored))] |= FLAG_IGNORED
    flags[_added(pieces, length)] |= FLAG_SPECIAL
    segments = tuple(
        Segment(
            piece.start,
            piece.length,
            first + piece.document,
            piece.offset,
            int(tokens[piece.document].chars[piece.offset]),
        )
        for piece in pieces
    )
    return Context(ids, flags, segments)


def _added(pieces: list[Piece], length: int) -> np.ndarray:
    """Return which positions hold a token of no document, whatever the tokenizer calls it."""
    added = np.ones(length, dtype=np.bool_)
    for piece in pieces:
        added[piece.start : piece.start + piece.length] = False
    return added
