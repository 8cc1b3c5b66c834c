"""The contexts of an analysis as places are drawn from them: to which part each belongs, and in what order."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int64, UInt8, UInt32

from saestore.features import Analysis
from saestore.interpret.draw import Part


PARTS: tuple[Part, ...] = ("explain",) * 6 + ("score",) * 3 + ("reserve",)
"""The part of a context by its `shuffle_rank` mod 10."""

_POOL = 20_000
"""Contexts that are searched for a token: so many drawn at random hold any token that is not rare."""

_TOKENS = (
    "SELECT context, token_ids, ignored FROM contexts WHERE shuffle_rank < $pool ORDER BY context"
)


@dataclass(frozen=True)
class Contexts:
    """All contexts of an analysis.

    Attributes:
        analysis: The analysis.
    """

    analysis: Analysis

    @cached_property
    def rank(self) -> UInt32[np.ndarray, " context"]:
        """Each context's place in the analysis's random order."""
        return _column(self.analysis, "shuffle_rank").astype(np.uint32)

    @cached_property
    def length(self) -> Int64[np.ndarray, " context"]:
        """Tokens in each."""
        return _column(self.analysis, "n_positions").astype(np.int64)

    @cached_property
    def part(self) -> UInt8[np.ndarray, " context"]:
        """The part of each, as its place in `PARTS`'s different names."""
        names = list(dict.fromkeys(PARTS))
        of_rank = np.array([names.index(each) for each in PARTS], dtype=np.uint8)
        found: UInt8[np.ndarray, " context"] = of_rank[self.rank % len(PARTS)]
        return found

    def code(self, part: Part) -> int:
        """Return how `part` is written in `self.part`."""
        return list(dict.fromkeys(PARTS)).index(part)

    def part_of(self, context: int) -> Part:
        """Return what a context may be used for."""
        return PARTS[int(self.rank[context]) % len(PARTS)]

    @cached_property
    def orders(self) -> dict[Part, Int64[np.ndarray, " context"]]:
        """The contexts of each part in the random order; without those of which no row was analysed."""
        before = _column(self.analysis, "kept_before").astype(np.int64)
        kept = np.diff(before, append=self.analysis.manifest.counts["rows"])
        everything = np.argsort(self.rank, kind="stable")
        everything = everything[kept[everything] > 0]
        return {
            part: everything[self.part[everything] == self.code(part)]
            for part in dict.fromkeys(PARTS)
        }

    @cached_property
    def tokens(self) -> "Tokens":
        """Where tokens stand, in a pool of contexts drawn at random."""
        answer = self.analysis.sql(_TOKENS, {"pool": _POOL})
        return Tokens.of(answer)


@dataclass(frozen=True)
class Tokens:
    """Where each token stands on kept positions of some contexts, sorted by token, context, position."""

    token: UInt32[np.ndarray, " row"]
    context: UInt32[np.ndarray, " row"]
    position: UInt32[np.ndarray, " row"]

    @classmethod
    def of(cls, lines: pa.Table) -> "Tokens":
        """Return that of lines of `contexts`, in their order."""
        tokens, lengths = _flat(lines, "token_ids")
        context = np.repeat(_numpy(lines["context"]).astype(np.uint32), lengths)
        starts = np.cumsum(lengths) - lengths
        position = (np.arange(len(tokens)) - np.repeat(starts, lengths)).astype(np.uint32)
        ignored, n_ignored = _flat(lines, "ignored")
        kept = np.ones(len(tokens), dtype=np.bool_)
        kept[np.repeat(starts, n_ignored) + ignored] = False
        order = np.flatnonzero(kept)
        order = order[np.argsort(tokens[order], kind="stable")]
        return cls(tokens[order].astype(np.uint32), context[order], position[order])

    def first(
        self, token: int
    ) -> tuple[Int64[np.ndarray, " context"], Int64[np.ndarray, " context"]]:
        """Return the contexts that hold a token, ascending, and its first position in each."""
        low, high = np.searchsorted(self.token, [token, token + 1])
        context, first = np.unique(self.context[low:high], return_index=True)
        return context.astype(np.int64), self.position[low:high][first].astype(np.int64)


def _column(analysis: Analysis, name: str) -> np.ndarray:
    return _numpy(analysis.columns("contexts", [name])[name])


def _flat(lines: pa.Table, name: str) -> tuple[np.ndarray, Int64[np.ndarray, " context"]]:
    """Return the items of a column of lists, and how many each has."""
    lists: Any = lines[name].combine_chunks()
    lengths = np.diff(np.from_dlpack(lists.offsets).astype(np.int64))
    values: np.ndarray = np.from_dlpack(lists.flatten())
    return values, lengths


def _numpy(column: "pa.ChunkedArray[Any]") -> np.ndarray:
    # to_numpy of a chunked array would import pandas
    found: np.ndarray = np.from_dlpack(column.combine_chunks())
    return found
