"""Contexts as pieces of text: tokens with a feature's values, cut to a window."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Any, ClassVar, TypeAlias

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int64, Integer, Shaped

from saestore.features.makers import maker
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
    rows: Sequence[int]

    @classmethod
    def of(cls, table: pa.Table) -> "Vocabulary":
        """Return that of a vocabulary table."""
        return cls(
            np.array(table["token_id"].to_pylist(), dtype=np.int64),
            [str(token) for token in table["token"].to_pylist()],
            np.array(table["special"].to_pylist(), dtype=np.bool_),
            [int(n or 0) for n in table["n_rows"].to_pylist()],
        )

    def token(self, token_id: int) -> str:
        """Return how a token is shown."""
        at = self._places.get(token_id)
        return f"#{token_id}" if at is None else self.tokens[at]

    def n_rows(self, token_id: int) -> int:
        """Return how many kept rows hold a token."""
        at = self._places.get(token_id)
        return 0 if at is None else self.rows[at]

    @cached_property
    def _places(self) -> Mapping[int, int]:
        """Where each token stands: a page asks for hundreds, one by one."""
        return {token: at for at, token in enumerate(self.ids.tolist())}

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
        tokens: The tokens of all lines, those of a line together; who asked for them may change the array.
        firsts: Where among them those of each line begin.
        n_positions: Tokens in the whole context.
        sources: Corpus source of the context's first document.
        documents: Index of the document at the peak in the store.
        document_ids: Its id.
    """

    tokens: Shaped[np.ndarray, " position"]
    firsts: Sequence[int]
    n_positions: Sequence[int]
    sources: Sequence[str]
    documents: Sequence[int]
    document_ids: Sequence[str]


Reads: TypeAlias = Mapping[tuple[int, int], tuple[Read, ...]]
"""Of features that attend, what values are the sums of, by context and position."""

_NO_READS: Reads = MappingProxyType({})
_token, _example = maker(TokenPiece), maker(Example)


def examples(
    lines: Sequence[Mapping[str, Any]], shown: Shown, reads: Reads = _NO_READS
) -> list[Example]:
    """Return the examples of some lines of `examples`.

    Args:
        lines: The lines.
        shown: What they show of their contexts.
        reads: What their peaks are the sums of.
    """
    tokens = shown.tokens
    for line, first in zip(lines, shown.firsts, strict=True):
        begin = first - line["window_start"]
        for at, value in zip(line["positions"], line["values"], strict=True):
            silent = tokens[begin + at]
            tokens[begin + at] = _token(
                text=silent.text, value=value, special=silent.special, kept=silent.kept
            )
    whole = tuple(tokens.tolist())
    facts = (shown.firsts, shown.n_positions, shown.sources, shown.documents, shown.document_ids)
    return [
        _example(
            context=line["context"],
            rank=line["rank"],
            peak=line["peak"],
            peak_position=line["peak_position"],
            window_start=line["window_start"],
            n_positions=n_positions,
            source=source,
            document=document,
            document_id=document_id,
            tokens=whole[first : first + line["window_length"]],
            reads=reads.get((line["context"], line["peak_position"]), ()),
        )
        for line, first, n_positions, source, document, document_id in zip(
            lines, *facts, strict=True
        )
    ]


_KNOWN = 1 << 16
"""Different tokens remembered: few are different."""


@lru_cache(maxsize=_KNOWN)
def silent(text: str, special: bool, kept: bool) -> TokenPiece:  # noqa: FBT001 - as keys of a cache
    """Return a token where nothing fires."""
    return TokenPiece(text=text, value=0.0, special=special, kept=kept)
