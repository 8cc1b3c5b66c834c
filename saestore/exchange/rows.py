"""From the rows of a source to the rows of a store: flags, padding, segments, documents.

Arrays in, arrays out. A context whose rows are all padding is left out; every other context names a
document: the one its source knows, else one of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, Shaped, UInt8

from saestore.exchange.source import About, Piece, Rows
from saestore_schemas.activations import FLAG_IGNORED, FLAG_SPECIAL


@dataclass(frozen=True)
class Rule:
    """What is done to the rows of a source.

    Attributes:
        drop_padding: Leave out the masked rows at the end of contexts.
        masked: Flag of the masked rows that stay.
        special: Token ids flagged special.
        ignored: Token ids flagged ignored.
    """

    drop_padding: bool
    masked: int
    special: Int64[np.ndarray, " _"]
    ignored: Int64[np.ndarray, " _"]


@dataclass(frozen=True)
class Stored:
    """Rows as they will be stored, activations still in the source's type.

    Attributes:
        hooks: Activations of each hookpoint.
        tokens: Token ids; 0 where the source has none.
        flags: Flags.
        lengths: Rows of each context.
        which: Number of each context in the piece that it comes from.
        padding: Rows left out.
        empty: Contexts left out.
        captured: What each row has beside its activations.
    """

    hooks: Mapping[str, Shaped[np.ndarray, "row d"]]
    tokens: Int32[np.ndarray, " row"]
    flags: UInt8[np.ndarray, " row"]
    lengths: Int64[np.ndarray, " context"]
    which: Int64[np.ndarray, " context"]
    padding: int
    empty: int
    captured: Mapping[str, Float32[np.ndarray, " row"]] = field(default_factory=dict)


def stored(rows: Rows, rule: Rule) -> Stored:
    """Return the rows to store."""
    count = int(rows.lengths.sum())
    tokens = np.zeros(count, np.int32) if rows.tokens is None else rows.tokens.astype(np.int32)
    flags = np.zeros(count, np.uint8) if rows.flags is None else rows.flags.astype(np.uint8)
    if rows.tokens is not None:
        flags[np.isin(tokens, rule.special)] |= FLAG_SPECIAL
        flags[np.isin(tokens, rule.ignored)] |= FLAG_IGNORED
    if rows.mask is not None:
        # A masked token known to be special is that, and not also ignored.
        unsaid = ~rows.mask & ((flags & FLAG_SPECIAL) == 0)
        flags[unsaid] |= rule.masked
    lengths = rows.lengths
    which = np.arange(len(lengths))
    if rule.drop_padding and rows.mask is not None:
        keep = ~padding(rows.mask, rows.attention, lengths)
        if not keep.all():
            kept = np.add.reduceat(keep.astype(np.int64), np.cumsum(lengths) - lengths)
            which = np.flatnonzero(kept)
            lengths = kept[which]
            hooks = {name: values[keep] for name, values in rows.hooks.items()}
            rows_left, empty = int(keep.sum()), len(kept) - len(which)
            captured = {name: values[keep] for name, values in rows.captured.items()}
            return Stored(
                hooks, tokens[keep], flags[keep], lengths, which, count - rows_left, empty, captured
            )
    return Stored(rows.hooks, tokens, flags, lengths, which, 0, 0, rows.captured)


def padding(
    mask: Bool[np.ndarray, " row"],
    attention: Bool[np.ndarray, " row"] | None,
    lengths: Int64[np.ndarray, " context"],
) -> Bool[np.ndarray, " row"]:
    """Return which rows are padding.

    Where a context's attention mask differs from its mask, the attention mask knows. Where it does
    not, or is absent, padding is what is masked after the last row that is not; a context without
    such a row is all padding.

    Args:
        mask: Rows that are used.
        attention: Rows that the model attended to.
        lengths: Rows of each context, 1 or more.
    """
    first = np.cumsum(lengths) - lengths
    place = np.arange(len(mask)) - np.repeat(first, lengths)
    used = np.maximum.reduceat(np.where(mask, place + 1, 0), first)
    found: Bool[np.ndarray, " row"] = place >= np.repeat(used, lengths)
    if attention is not None:
        differs = np.logical_or.reduceat(attention != mask, first)
        found = np.where(np.repeat(differs, lengths), ~attention, found)
    return found


class Documents:
    """Which document each context belongs to, and what is recorded of it.

    A context of a source that knows no documents is a document of its own; the rows of a flat
    source belong to one document for each part.
    """

    def __init__(self, about: About) -> None:
        self._about = about
        self._known = None if about.documents is None else about.documents.num_rows
        self._extra = dict.fromkeys(about.metadata.names)

    def of(
        self, piece: Piece, rows: Rows, kept: Stored, done: int
    ) -> tuple[Int64[np.ndarray, "segment 6"], list[dict[str, Any]]]:
        """Return the segments of a piece, and the documents that begin with it.

        Args:
            piece: Which.
            rows: What was read.
            kept: What of it is stored.
            done: Documents recorded before it.
        """
        if self._known is not None and rows.segments is not None:
            segments = self._given(rows.segments, kept)
            last = int(segments[:, 3].max()) + 1 if len(segments) else done
            return segments, self._table(done, max(last, done))
        if self._about.flat:
            return self._flat(piece, kept, done)
        first = (kept.flags[np.cumsum(kept.lengths) - kept.lengths] & FLAG_SPECIAL) != 0
        skip = first.astype(np.int64)
        index = np.arange(len(kept.lengths))
        none = np.zeros_like(index)
        columns = [index, skip, kept.lengths - skip, done + index, none, none]
        documents = []
        for number, (where, length) in enumerate(
            zip(kept.which, kept.lengths - skip, strict=True), done
        ):
            sample = rows.samples[where] if rows.samples is not None else {}
            documents.append(self._document(number, str(number), int(length)) | dict(sample))
        return np.stack(columns, axis=1), documents

    def rest(self, done: int) -> list[dict[str, Any]]:
        """Return the documents of the source's own table that no context names."""
        return [] if self._known is None else self._table(done, self._known)

    def _flat(
        self, piece: Piece, kept: Stored, done: int
    ) -> tuple[Int64[np.ndarray, "segment 6"], list[dict[str, Any]]]:
        part = self._about.parts[piece.part]
        size = part.longest
        index = np.arange(len(kept.lengths))
        none = np.zeros_like(index)
        offset = piece.start * size + np.cumsum(kept.lengths) - kept.lengths
        columns = [index, none, kept.lengths, np.full_like(index, piece.part), offset, none]
        segments = np.stack(columns, axis=1)
        if done > piece.part:
            return segments, []
        rows = part.rows or part.contexts
        return segments, [self._document(piece.part, part.name, rows)]

    def _document(self, number: int, name: str, tokens: int) -> dict[str, Any]:
        return self._extra | {
            "document": number,
            "document_id": name,
            "source": self._about.origin,
            "n_tokens": tokens,
            "n_chars": 0,
            "text": None,
        }

    def _table(self, start: int, stop: int) -> list[dict[str, Any]]:
        if self._about.documents is None:
            return []
        rows: Sequence[dict[str, Any]] = self._about.documents.slice(
            start, stop - start
        ).to_pylist()
        return list(rows)

    def _given(
        self, segments: Int64[np.ndarray, "segment 6"], kept: Stored
    ) -> Int64[np.ndarray, "segment 6"]:
        """Return the source's own segments; padding is never dropped where there are any."""
        if len(kept.which) and not np.array_equal(kept.which, np.arange(len(kept.which))):
            raise RuntimeError("contexts with segments were left out")
        return segments
