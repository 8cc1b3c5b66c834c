"""Which forward pass holds which contexts, and where a token budget ends: plain arithmetic.

A forward batch never crosses a block of documents, so a block's batches are a function of the block
alone. That is what makes a resumed run equal an uninterrupted one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32, Int64, UInt8

from saestore.corpus import Block, Context


@dataclass(frozen=True)
class Batch:
    """One forward pass and the rows of it that are stored.

    Attributes:
        index: Number of the batch in its block.
        contexts: Contexts of the forward pass, whole.
        lengths: Rows stored of each of the leading contexts; contexts beyond are not stored. Only a
            token budget makes this less than everything.
    """

    index: int
    contexts: tuple[Context, ...]
    lengths: Int64[np.ndarray, " context"]

    @property
    def rows(self) -> int:
        """Rows stored."""
        return int(self.lengths.sum())

    def padded(self) -> Int64[np.ndarray, "batch position"]:
        """Return the token ids, each context repeated at its end up to the longest.

        A causal model's earlier positions never see what stands after them.
        """
        longest = max(len(context.tokens) for context in self.contexts)
        out = np.zeros((len(self.contexts), longest), np.int64)
        for row, context in zip(out, self.contexts, strict=True):
            row[: len(context.tokens)] = context.tokens
            row[len(context.tokens) :] = context.tokens[-1]
        return out

    def stored(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """Return the stored part of one array per context, concatenated."""
        pairs = zip(values, self.lengths, strict=False)
        return np.concatenate([value[:length] for value, length in pairs])

    def tokens(self) -> Int32[np.ndarray, " row"]:
        """Return the stored token ids."""
        return self.stored([context.tokens for context in self.contexts])

    def flags(self) -> UInt8[np.ndarray, " row"]:
        """Return the stored flags."""
        return self.stored([context.flags for context in self.contexts])

    def segments(self) -> Int64[np.ndarray, "segment 6"]:
        """Return the stored segments: context in the batch, then the corpus's five fields."""
        rows = [
            (index, s.start, min(s.length, int(length) - s.start), s.document, s.token_offset,
             s.char_offset)
            for index, (context, length) in enumerate(
                zip(self.contexts, self.lengths, strict=False)
            )
            for s in context.segments
            if s.start < length
        ]  # fmt: skip
        return np.array(rows, np.int64).reshape(-1, 6)


def batches(block: Block, *, forward_contexts: int, room: int | None) -> Iterator[Batch]:
    """Yield a block's forward batches in order, until a budget is full.

    Args:
        block: The block.
        forward_contexts: Contexts of one forward pass.
        room: Rows that may still be stored when the block begins; None without a budget.
    """
    for index, start in enumerate(range(0, len(block.contexts), forward_contexts)):
        contexts = block.contexts[start : start + forward_contexts]
        lengths = np.array([len(context.tokens) for context in contexts], np.int64)
        if room is not None:
            before = np.cumsum(lengths) - lengths
            lengths = np.clip(room - before, 0, lengths)
            lengths = lengths[lengths > 0]
            room -= int(lengths.sum())
        if not len(lengths):
            return
        yield Batch(index, contexts, lengths)


def stored_documents(block: Block, held: Sequence[Batch]) -> int:
    """Return how many of the block's leading documents to record: up to the last with a row."""
    if held and sum(b.rows for b in held) == sum(len(c.tokens) for c in block.contexts):
        return len(block.documents)
    last = max((int(b.segments()[:, 3].max()) for b in held if len(b.segments())), default=-1)
    return sum(record.document <= last for record in block.documents)
