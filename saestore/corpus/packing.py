"""How token sequences fill contexts: numbers in, numbers out.

`pack` lets consecutive documents share contexts. A separator goes between two documents that meet
in a context; one that would open a context is left out, because the cut already separates. The
price of never crossing a block is one short context per block.
`split` starts every document in a context of its own and continues it in further ones.
`truncate` keeps a document's first context; the tokens lost are the caller's to count.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple


class Piece(NamedTuple):
    """A stretch of one document inside a context.

    Attributes:
        start: First position in the context.
        length: Tokens.
        document: Index into the lengths that were packed.
        offset: First token in the document.
    """

    start: int
    length: int
    document: int
    offset: int


Layout = list[list[Piece]]
"""Contexts, each a list of pieces. Positions that no piece covers are BOS or separators."""


def arrange(
    lengths: Sequence[int],
    mode: Literal["pack", "split", "truncate"],
    *,
    context_size: int,
    lead: int,
    separator: int,
) -> Layout:
    """Return where every token goes.

    Args:
        lengths: Tokens of each document; empty documents take no room.
        mode: See the module's first lines.
        context_size: Positions in a full context.
        lead: Positions kept free at the start of each context (1 for BOS, else 0).
        separator: Positions between documents in `pack` (1 or 0).
    """
    if mode == "pack":
        return _pack(lengths, context_size=context_size, lead=lead, separator=separator)
    room = context_size - lead
    layout: Layout = []
    for document, length in enumerate(lengths):
        kept = min(length, room) if mode == "truncate" else length
        layout.extend(
            [Piece(lead, min(room, kept - offset), document, offset)]
            for offset in range(0, kept, room)
        )
    return layout


def _pack(lengths: Sequence[int], *, context_size: int, lead: int, separator: int) -> Layout:
    layout: Layout = []
    end = context_size  # a full context: the first token opens a new one
    for document, length in enumerate(lengths):
        if not length:
            continue
        if end < context_size:
            end += separator
        offset = 0
        while offset < length:
            if end >= context_size:
                layout.append([])
                end = lead
            taken = min(context_size - end, length - offset)
            layout[-1].append(Piece(end, taken, document, offset))
            offset += taken
            end += taken
    return layout
