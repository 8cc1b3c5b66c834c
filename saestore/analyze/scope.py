"""What is analysed: which contexts of the store, which of their rows, in which random order."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, Shaped, UInt32

from saestore.analyze import segments
from saestore.analyze.order import shuffle_ranks
from saestore.analyze.segment_loops import first_of_runs


_CONTEXTS = 4096
"""Contexts surveyed at a time."""
_ROWS = 1 << 22
"""Rows looked at at a time."""


@dataclass(frozen=True)
class Scope:
    """The rows analysed, and what every collector may ask about them.

    Tokens and flags of all rows may be memory-mapped; what is held per context is small.

    Attributes:
        n_rows: Kept rows.
        context_size: Positions a context can have.
        seed: Seed of the random subsamples.
        start: First row of each context, in the store too: contexts follow one another from row 0.
        length: Rows of each context.
        kept_before: Kept rows in all earlier contexts.
        first_kept: First kept position; -1 if the context keeps none.
        shuffle_rank: Rank of the context in the random order.
        tokens: Token of every row.
        kept: Whether the row is analysed.
        joined: Whether the row before is of the same context and the same document.
        norm_scale: By what the language model's final norm divides every row; None, nobody captured it.
    """

    n_rows: int
    context_size: int
    seed: int
    start: Int64[np.ndarray, " context"]
    length: Int64[np.ndarray, " context"]
    kept_before: Int64[np.ndarray, " context"]
    first_kept: Int32[np.ndarray, " context"]
    shuffle_rank: UInt32[np.ndarray, " context"]
    tokens: Int32[np.ndarray, " row"]
    kept: Bool[np.ndarray, " row"]
    joined: Bool[np.ndarray, " row"]
    norm_scale: Float32[np.ndarray, " row"] | None = None

    @property
    def n_contexts(self) -> int:
        """How many contexts, C."""
        return len(self.start)

    @classmethod
    def of(
        cls,
        length: Int64[np.ndarray, " context"],
        tokens: Int32[np.ndarray, " row"],
        kept: Bool[np.ndarray, " row"],
        joined: Bool[np.ndarray, " row"],
        *,
        context_size: int,
        seed: int,
        norm_scale: Float32[np.ndarray, " row"] | None = None,
    ) -> "Scope":
        """Return the scope of rows given context by context."""
        ends = np.concatenate([[0], np.cumsum(length)])
        counts, first = np.zeros(len(length), np.int64), np.zeros(len(length), np.int32)
        for low in range(0, len(length), _CONTEXTS):
            high = min(low + _CONTEXTS, len(length))
            part = np.asarray(kept[ends[low] : ends[high]])
            bounds = ends[low : high + 1] - ends[low]
            counts[low:high] = segments.totals(part, bounds)
            at = first_of_runs(np.ones(high - low, dtype=bool), part, bounds)
            first[low:high] = np.where(at < len(part), at - bounds[:-1], -1)
        return cls(
            n_rows=int(counts.sum()),
            context_size=context_size,
            seed=seed,
            start=ends[:-1],
            length=length,
            kept_before=np.cumsum(counts) - counts,
            first_kept=first,
            shuffle_rank=shuffle_ranks(len(length), seed=seed),
            tokens=tokens,
            kept=kept,
            joined=joined,
            norm_scale=norm_scale,
        )

    @cached_property
    def rows_of_token(self) -> Int64[np.ndarray, " vocab"]:
        """Kept rows that hold each token; as long as the largest token is."""
        largest = max((int(part.max()) for part in self._parts(self.tokens)), default=-1)
        counts = np.zeros(largest + 1, np.int64)
        parts = zip(self._parts(self.tokens), self._parts(self.kept), strict=True)
        for tokens, kept in parts:
            counts += np.bincount(tokens[kept], minlength=len(counts))
        return counts

    @staticmethod
    def _parts(rows: Shaped[np.ndarray, " row"]) -> Iterator[Shaped[np.ndarray, " row"]]:
        for low in range(0, len(rows), _ROWS):
            yield np.asarray(rows[low : low + _ROWS])

    @property
    def kept_in(self) -> Int64[np.ndarray, " context"]:
        """Kept rows of each context."""
        return np.diff(self.kept_before, append=self.n_rows)

    def kept_rows_before(
        self, context: Int64[np.ndarray, " feature"], position: Int64[np.ndarray, " feature"]
    ) -> Int64[np.ndarray, " feature"]:
        """Return how many kept rows come before each (context, position)."""
        start = self.start[context]
        rows, offsets = segments.ragged(start, start + position)
        before: np.ndarray = segments.totals(np.asarray(self.kept[rows]), offsets)
        before += self.kept_before[context]
        return before
