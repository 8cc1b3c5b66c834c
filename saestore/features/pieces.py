"""Contexts as pieces of text: tokens with a feature's values, cut to a window."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any, ClassVar, TypeAlias

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int64, Integer, Shaped

from saestore.features import arrow
from saestore.features.making import made
from saestore.features.page import Example, Read, TokenPiece


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of an analysis.

    Attributes:
        ids: Token ids, ascending.
        tokens: Display form of each.
        special: Whether it is a control token.
        rows: How many kept rows hold it.
    """

    COLUMNS: ClassVar = ("token_id", "token", "special", "n_rows")
    """What `of` needs of the table `vocabulary`."""

    ids: Int64[np.ndarray, " vocab"]
    tokens: Sequence[str]
    special: Bool[np.ndarray, " vocab"]
    rows: Int64[np.ndarray, " vocab"]

    @classmethod
    def of(cls, table: pa.Table) -> "Vocabulary":
        """Return that of a vocabulary table."""
        return cls(
            np.array(table["token_id"].to_pylist(), dtype=np.int64),
            [str(token) for token in table["token"].to_pylist()],
            np.array(table["special"].to_pylist(), dtype=np.bool_),
            np.array([n or 0 for n in table["n_rows"].to_pylist()], dtype=np.int64),
        )

    def token(self, token_id: int) -> str:
        """Return how a token is shown."""
        (text,) = self.texts(np.array([token_id]))
        return text

    def texts(self, token_ids: Integer[np.ndarray, " _"]) -> list[str]:
        """Return how some tokens are shown."""
        tokens, n = self.tokens, len(self.tokens)
        asked = zip(token_ids.tolist(), self._places(token_ids).tolist(), strict=True)
        return [tokens[at] if at < n else f"#{token}" for token, at in asked]

    def n_rows(self, token_ids: Integer[np.ndarray, " _"]) -> Int64[np.ndarray, " _"]:
        """Return how many kept rows hold each of some tokens."""
        found: Int64[np.ndarray, " _"] = self._rows[self._places(token_ids)]
        return found

    def _places(self, token_ids: Integer[np.ndarray, " _"]) -> Int64[np.ndarray, " _"]:
        """Return where tokens stand; behind the last what is none."""
        at = self._by_id
        found: Int64[np.ndarray, " _"] = at[np.minimum(token_ids, len(at) - 1)]
        return found

    @cached_property
    def _by_id(self) -> Int64[np.ndarray, " _"]:
        """Where the token of each id stands, behind the last where there is none."""
        found = np.full(int(self.ids[-1]) + 2 if len(self.ids) else 1, len(self.ids))
        found[self.ids] = np.arange(len(self.ids))
        return found

    @cached_property
    def _rows(self) -> Int64[np.ndarray, " _"]:
        return np.append(self.rows, 0)

    @cached_property
    def control(self) -> frozenset[int]:
        """Ids of the special tokens: few, so one token is looked up at once."""
        return frozenset(self.ids[self.special].tolist())

    def specials(
        self, token_ids: Sequence[int] | Integer[np.ndarray, " _"]
    ) -> Bool[np.ndarray, " _"]:
        """Return which of some tokens are special."""
        places = np.searchsorted(self.ids, np.asarray(token_ids, dtype=np.int64))
        found: Bool[np.ndarray, " _"] = self.special[np.minimum(places, len(self.ids) - 1)]
        return found


def window(peak: int, positions: int, width: int | None) -> tuple[int, int]:
    """Return start and length of the tokens around a peak, as `examples` cuts them.

    Args:
        peak: Position of the peak.
        positions: Tokens of the context.
        width: Tokens wanted; None, the whole context.
    """
    length = positions if width is None else min(width, positions)
    return max(0, min(peak - length // 2, positions - length)), length


@dataclass(frozen=True)
class Shown:
    """What lines of `examples` show of their contexts, as if nothing fired there; one entry of each.

    Attributes:
        tokens: Returns the tokens of all lines, those of a line together.
        firsts: Where among them those of each line begin.
        n_positions: Tokens in the whole context.
        sources: Corpus source of the context's first document.
        documents: Index of the document at the peak in the store.
        document_ids: Its id.
    """

    tokens: Callable[[], Shaped[np.ndarray, " position"]]
    firsts: Sequence[int]
    n_positions: Sequence[int]
    sources: Sequence[str]
    documents: Sequence[int]
    document_ids: Sequence[str]

    def contexts(self) -> Iterator[tuple[int, str, int, str]]:
        """Yield of each line what its context is: tokens, source, document, its id."""
        facts = (self.n_positions, self.sources, self.documents, self.document_ids)
        return zip(*facts, strict=True)


Columns: TypeAlias = Mapping[str, Any]
"""Lines of a table by columns, as `arrow.columns` has them."""
Reads: TypeAlias = Mapping[tuple[int, int], tuple[Read, ...]]
"""Of features that attend, what values are the sums of, by context and position."""

_NO_READS: Reads = MappingProxyType({})


def examples(lines: Columns, shown: Shown, reads: Reads = _NO_READS) -> list[Example]:
    """Return the examples of some lines of `examples`.

    Args:
        lines: The lines.
        shown: What they show of their contexts.
        reads: What their peaks are the sums of.
    """
    positions, values = lines["positions"], lines["values"]
    begins = np.array(shown.firsts, np.int64) - lines["window_start"]
    at = np.repeat(begins, np.diff(positions.ends)) + positions.values
    whole = shown.tokens().tolist()
    silent = [whole[place] for place in at.tolist()]
    fired = made(
        TokenPiece,
        [
            {"text": token.text, "value": value, "special": token.special, "kept": token.kept}
            for token, value in zip(silent, values.values.tolist(), strict=True)
        ],
    )
    for place, token in zip(at.tolist(), fired, strict=True):
        whole[place] = token
    tokens = tuple(whole)
    facts = (lines[name].tolist() for name in _FACTS)
    return made(
        Example,
        [
            {
                "context": context, "rank": rank, "peak": peak, "peak_position": peak_position,
                "window_start": start, "n_positions": n_positions, "source": source,
                "document": document, "document_id": document_id,
                "tokens": tokens[first : first + length],
                "reads": reads.get((context, peak_position), ()),
            }
            for context, rank, peak, peak_position, start, length, first, (
                n_positions, source, document, document_id,
            ) in zip(*facts, shown.firsts, shown.contexts(), strict=True)
        ],
    )  # fmt: skip


_FACTS = ("context", "rank", "peak", "peak_position", "window_start", "window_length")
"""Columns of `examples` that examples need beside positions and values."""


def by_columns(lines: Sequence[Mapping[str, Any]]) -> Columns:
    """Return what `examples` needs of some lines."""
    return {
        **{name: np.array([line[name] for line in lines]) for name in _FACTS},
        **{
            name: arrow.Ragged.of([line[name] for line in lines])
            for name in ("positions", "values")
        },
    }


_KNOWN = 1 << 16
"""Different tokens remembered: few are different."""


@lru_cache(maxsize=_KNOWN)
def silent(text: str, special: bool, kept: bool) -> TokenPiece:  # noqa: FBT001 - as keys of a cache
    """Return a token where nothing fires."""
    return TokenPiece(text=text, value=0.0, special=special, kept=kept)
