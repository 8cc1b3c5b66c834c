"""Which forward pass holds which contexts, and where a token budget ends: plain arithmetic.

A forward batch never crosses a block of documents, so a block's batches are a function of the block
alone. That is what makes a resumed run equal an uninterrupted one, and the parts of several processes
equal the store of one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64, UInt8

from saestore.activations import Cursor
from saestore.corpus import Block, Context, DocumentRecord, Position
from saestore.lake.parts import Part
from saestore_schemas.generate import GenerateSettings


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
        """Return the stored segments: context in the batch, then the corpus's five fields.

        A context that a budget cut down to its BOS keeps its first segment, of no length: every
        context names a document.
        """
        rows = [
            (index, s.start, min(s.length, max(int(length) - s.start, 0)), s.document,
             s.token_offset, s.char_offset)
            for index, (context, length) in enumerate(
                zip(self.contexts, self.lengths, strict=False)
            )
            for number, s in enumerate(context.segments)
            if s.start < length or number == 0
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


def stored_documents(block: Block, held: Sequence[Batch]) -> tuple[DocumentRecord, ...]:
    """Return the documents to record with a block: up to the last with a row, or all of them.

    Document `n` of the corpus is line `n` of the table, so documents without text are recorded too;
    only what lies behind the end of a token budget is not.
    """
    if sum(b.rows for b in held) == sum(len(c.tokens) for c in block.contexts):
        return block.documents
    last = max(int(b.segments()[:, 3].max()) for b in held)
    return tuple(record for record in block.documents if record.document <= last)


@dataclass(frozen=True)
class Step:
    """One forward batch in its place.

    Attributes:
        at: Its place in the corpus; `skip` of its rows are stored already.
        batch: What it holds.
        documents: Documents recorded with it.
        lost: Tokens cut off by `truncate` so far, its block included.
        rows_before: Rows of the whole corpus in the blocks before its own.
        position: Where in the corpus its block begins.
    """

    at: Cursor
    batch: Batch
    documents: tuple[DocumentRecord, ...]
    lost: int
    rows_before: int
    position: Position

    def resume(self) -> dict[str, Any]:
        """Return, as JSON, what `Resume` must know beside the place."""
        return {
            "lost": self.lost,
            "rows_before": self.rows_before,
            "position": self.position,
        }


@dataclass(frozen=True)
class Resume:
    """Where an interrupted run continues.

    Attributes:
        at: Place of the first row without a commit.
        lost: Tokens cut off so far, the block of that place included.
        rows_before: Rows of the whole corpus in the blocks before the one of that place.
        position: Where in the corpus that block begins.
    """

    at: Cursor
    lost: int
    rows_before: int
    position: Position = None


class Steps:
    """The forward batches still to be computed, in order.

    Attributes:
        waiting: Documents read and not yet given out with a batch.
        lost: Tokens cut off by `truncate` so far.
        blocks: Blocks of the corpus up to the end of the budget, once all steps were given out.
    """

    def __init__(
        self,
        blocks: Iterator[Block],
        settings: GenerateSettings,
        *,
        resume: Resume | None,
        part: Part | None = None,
    ) -> None:
        """Read nothing yet.

        Args:
            blocks: Blocks from the one to resume in.
            settings: The run's settings.
            resume: Where an interrupted run continues.
            part: Which blocks to compute: every `count`-th; None, all of them. The budget is
                counted over all blocks all the same.
        """
        self._blocks = blocks
        self._forward_contexts = settings.forward_contexts
        self._budget = settings.tokens
        self._part = part
        self._resume = resume.at if resume else None
        self._rows = resume.rows_before if resume else 0
        self.lost = resume.lost if resume else 0
        self.blocks = 0
        self.waiting: tuple[DocumentRecord, ...] = ()

    def __iter__(self) -> Iterator[Step]:
        """Yield every step once."""
        while self._budget is None or self._rows < self._budget:
            block = next(self._blocks, None)
            if block is None:
                return
            self.blocks = block.index + 1
            room = None if self._budget is None else self._budget - self._rows
            held = list(batches(block, forward_contexts=self._forward_contexts, room=room))
            if self._part is None or self._part.has(block.index):
                yield from self._of_block(block, held)
            self._rows += sum(batch.rows for batch in held)

    def _of_block(self, block: Block, held: Sequence[Batch]) -> Iterator[Step]:
        resume = self._resume if self._resume and block.index == self._resume.block else None
        if resume is None:
            self.lost += block.lost_tokens
            self.waiting += stored_documents(block, held)
        for batch in held:
            at = Cursor(block.index, batch.index)
            if resume is not None and batch.index < resume.batch:
                continue
            if resume is not None and batch.index == resume.batch:
                at = resume
            documents, self.waiting = self.waiting, ()
            yield Step(at, batch, documents, self.lost, self._rows, block.position)
