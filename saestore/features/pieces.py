"""Contexts as pieces of text: tokens with a feature's values, cut to a window."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int64, Integer

from saestore.features.page import Example, Read, TokenPiece


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of an analysis.

    Attributes:
        ids: Token ids, ascending.
        tokens: Display form of each.
        special: Whether it is a control token.
    """

    ids: Int64[np.ndarray, " vocab"]
    tokens: Sequence[str]
    special: Bool[np.ndarray, " vocab"]

    @classmethod
    def of(cls, table: pa.Table) -> "Vocabulary":
        """Return that of a vocabulary table."""
        return cls(
            np.array(table["token_id"].to_pylist(), dtype=np.int64),
            [str(token) for token in table["token"].to_pylist()],
            np.array(table["special"].to_pylist(), dtype=np.bool_),
        )

    def token(self, token_id: int) -> str:
        """Return how a token is shown."""
        at = self._places.get(token_id)
        return f"#{token_id}" if at is None else self.tokens[at]

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
class Stretch:
    """The part of a context that an example shows, as if nothing fired in it.

    Attributes:
        n_positions: Tokens in the whole context.
        source: Corpus source of the context's first document.
        document: Index of the document at the peak in the store.
        document_id: Its id.
        tokens: The tokens shown.
    """

    n_positions: int
    source: str
    document: int
    document_id: str
    tokens: Sequence[TokenPiece]


def example(line: Mapping[str, Any], stretch: Stretch, reads: tuple[Read, ...] = ()) -> Example:
    """Return one example.

    Args:
        line: Its line of `examples`.
        stretch: What it shows of its context.
        reads: What its peak is the sum of, of features that attend.
    """
    start = line["window_start"]
    tokens = list(stretch.tokens)
    for at, value in zip(line["positions"], line["values"], strict=True):
        silent = tokens[at - start]
        tokens[at - start] = TokenPiece(silent.text, value, silent.special, silent.kept)
    return Example(
        context=line["context"],
        rank=line["rank"],
        peak=line["peak"],
        peak_position=line["peak_position"],
        window_start=start,
        n_positions=stretch.n_positions,
        source=stretch.source,
        document=stretch.document,
        document_id=stretch.document_id,
        tokens=tuple(tokens),
        reads=reads,
    )


def stretch(line: Mapping[str, Any], context: Mapping[str, Any], vocabulary: Vocabulary) -> Stretch:
    """Return what an example shows of its context.

    Args:
        line: Its line of `examples`.
        context: The line of `contexts` it is about.
        vocabulary: The tokens.
    """
    start, stop = line["window_start"], line["window_start"] + line["window_length"]
    text, ids = context["text"], context["token_ids"][start:stop]
    edges = pairwise(context["char_offsets"][start : stop + 1])
    # a page shows some thousand tokens, nearly all ordinary: little is done for each
    tokens = ordinary([text[first:last] for first, last in edges])
    ignored = {at - start for at in context["ignored"] if start <= at < stop}
    control = vocabulary.control
    odd = ignored
    if not control.isdisjoint(ids):
        odd = ignored.union(at for at, token in enumerate(ids) if token in control)
    for at in odd:
        tokens[at] = silent(tokens[at].text, ids[at] in control, at not in ignored)
    home = segment(context["segments"], line["peak_position"])
    return Stretch(
        n_positions=context["n_positions"],
        source=context["source"],
        document=home["document"],
        document_id=home["document_id"],
        tokens=tokens,
    )


_KNOWN = 1 << 16
"""Different tokens remembered: few are different."""


@lru_cache(maxsize=_KNOWN)
def silent(text: str, special: bool, kept: bool) -> TokenPiece:  # noqa: FBT001 - as keys of a cache
    """Return a token where nothing fires."""
    return TokenPiece(text=text, value=0.0, special=special, kept=kept)


class _Ordinary(dict[str, TokenPiece]):
    """Tokens by their text that are neither special nor ignored, where nothing fires."""

    def __missing__(self, text: str) -> TokenPiece:
        if len(self) >= _KNOWN:
            self.clear()
        piece = self[text] = silent(text, False, True)  # noqa: FBT003 - as keys of a cache
        return piece


_ORDINARY = _Ordinary()


def ordinary(texts: Iterable[str]) -> list[TokenPiece]:
    """Return tokens that are neither special nor ignored, where nothing fires."""
    return [*map(_ORDINARY.__getitem__, texts)]


def segment(segments: Sequence[Mapping[str, Any]], position: int) -> Mapping[str, Any]:
    """Return the segment at a position; between segments (at a BOS) the one before or the first."""
    before = [each for each in segments if each["start"] <= position]
    return before[-1] if before else segments[0]
