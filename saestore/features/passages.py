"""Stretches of text with everything that fires in them, and what can be asked of them.

Contexts of a lake and texts that were only just encoded answer alike: both are lines of `contexts` and
`firings`. Order is always the tables': values descending, then context, then position; of features,
values descending, then feature.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32, Int64, Integer

from saestore.features import arrow
from saestore.features.cuts import Cuts, Windows
from saestore.features.lines import Line
from saestore.features.page import Example
from saestore.features.pieces import Vocabulary, by_columns, examples, window


Ties = Literal["smaller", "larger"]
"""Which of features with equal values comes first: the one with the smaller id, or the larger."""

_FIRING: list[Any] = [
    pa.field("value", pa.float32()),
    pa.field("context", pa.uint32()),
    pa.field("position", pa.uint16()),
    pa.field("token", pa.string()),
]

STRONGEST = pa.schema(
    [
        pa.field("text", pa.uint32()),
        pa.field("feature", pa.uint32()),
        *_FIRING,
        pa.field("n", pa.uint32()),
    ]
)
"""Columns of the features of texts: text, feature, its largest value, the first place of it, and how
many tokens it fires on."""
AT_TOKENS = pa.schema([pa.field("text", pa.uint32()), pa.field("feature", pa.uint32()), *_FIRING])
"""Columns of the features of tokens."""


@dataclass(frozen=True)
class Passages:
    """Contexts of one or several texts, and every firing in them.

    Attributes:
        contexts: Their lines of `contexts`, in order.
        firings: Their firings: feature, context, position, value; in the order of contexts.
        vocabulary: The tokens.
        names: What each text is called.
        text_of: The text of each context; those of one text follow one another.
        stored: Whether they are contexts of the lake: then `context` is their number there, else
            their place in their text.
    """

    contexts: pa.Table
    firings: pa.Table
    vocabulary: Vocabulary
    names: tuple[str, ...]
    text_of: Int64[np.ndarray, " context"]
    stored: bool

    @cached_property
    def _numbers(self) -> Int64[np.ndarray, " context"]:
        return _numpy(self.contexts, "context").astype(np.int64)

    @cached_property
    def _shown(self) -> Int64[np.ndarray, " context"]:
        """What each context is called in answers."""
        if self.stored:
            return self._numbers
        first = np.searchsorted(self.text_of, self.text_of)
        place: Int64[np.ndarray, " context"] = np.arange(len(self.text_of)) - first
        return place

    @cached_property
    def _at(self) -> Int64[np.ndarray, " firing"]:
        """The line of `contexts` of each firing."""
        found: Int64[np.ndarray, " firing"] = np.searchsorted(
            self._numbers, _numpy(self.firings, "context")
        )
        return found

    @cached_property
    def _feature(self) -> Int64[np.ndarray, " firing"]:
        return _numpy(self.firings, "feature").astype(np.int64)

    @cached_property
    def _value(self) -> Float32[np.ndarray, " firing"]:
        return _numpy(self.firings, "value").astype(np.float32)

    @cached_property
    def _strength(self) -> Float32[np.ndarray, " firing"]:
        found: Float32[np.ndarray, " firing"] = np.abs(self._value)
        return found

    @cached_property
    def _position(self) -> Int64[np.ndarray, " firing"]:
        return _numpy(self.firings, "position").astype(np.int64)

    def of(self, features: Sequence[int]) -> "Passages":
        """Return the same texts with some features' firings alone."""
        wanted = np.isin(self._feature, np.asarray(features, dtype=np.int64))
        firings = self.firings.take(np.flatnonzero(wanted))
        return Passages(
            self.contexts, firings, self.vocabulary, self.names, self.text_of, self.stored
        )

    def strongest(self, k: int | None, *, ties: Ties = "smaller") -> pa.Table:
        """Return each text's strongest features (`STRONGEST`); those that are silent are left out.

        Args:
            k: At most so many of a text; None, all.
            ties: Which of equal ones comes first.
        """
        text, (first, counts) = self.text_of[self._at], self._peaks()
        feature, value = self._feature[first], self._strength[first]
        order = np.lexsort((feature if ties == "smaller" else -feature, -value, text[first]))
        order = order[_leading(text[first][order], k)]
        return self._lines(STRONGEST, first[order], n=counts[order])

    def leading(self, k: int) -> list[int]:
        """Return the features that are strongest in any of the texts, at most k of them."""
        table = self.strongest(None)
        feature, value = (_numpy(table, c) for c in ("feature", "value"))
        ordered = feature[np.lexsort((feature, -np.abs(value)))].tolist()
        return list(dict.fromkeys(ordered))[:k]

    def at_tokens(self, k: int | None) -> pa.Table:
        """Return each token's strongest features (`AT_TOKENS`), token by token.

        Args:
            k: At most so many of a token; None, all.
        """
        order = np.lexsort((self._feature, -self._strength, self._position, self._at))
        token = self._at[order] << 16 | self._position[order]
        return self._lines(AT_TOKENS, order[_leading(token, k)])

    def examples(
        self, feature: int, k: int | None, *, width: int | None, ranked: bool = True
    ) -> list[Example]:
        """Return the texts of a feature, one example each, cut to a window around its peak.

        Args:
            feature: Which.
            k: At most so many; None, all.
            width: Tokens of the window; None, the whole context.
            ranked: Strongest first, without those where it is silent; else every context in order.
        """
        return self.of([feature]).windows(k, width=width, ranked=ranked)

    def windows(self, k: int | None, *, width: int | None, ranked: bool) -> list[Example]:
        """Return one example of each text and feature; see `examples`."""
        if ranked:
            peaks, _ = self._peaks()
            order = np.lexsort((self.text_of[self._at[peaks]], -self._strength[peaks]))
            chosen = [(int(self._at[p]), int(p)) for p in peaks[order][:k]]
        else:
            chosen = [(line, self._peak_in(line)) for line in range(len(self.text_of))[:k]]
        lines = by_columns([self._line(*each, rank, width) for rank, each in enumerate(chosen)])
        at = ([line for line, _ in chosen], *(lines[name] for name in _WINDOW))
        windows = Windows(*(np.asarray(each, np.int64) for each in at))
        return examples(lines, self._cuts.shown(windows))

    def _peaks(self) -> tuple[Int64[np.ndarray, " pair"], Int64[np.ndarray, " pair"]]:
        """Return of each text and feature the first largest firing, and how many there are."""
        text = self.text_of[self._at]
        order = np.lexsort((self._position, self._at, -self._strength, self._feature, text))
        begins = _changes(text[order], self._feature[order])
        starts = np.flatnonzero(begins)
        return order[starts], np.diff(np.append(starts, len(order)))

    def _peak_in(self, line: int) -> int:
        """Return the first largest firing in a context; -1 where nothing fires."""
        here = np.flatnonzero(self._at == line)
        if not len(here):
            return -1
        return int(here[np.lexsort((self._position[here], -self._strength[here]))[0]])

    @cached_property
    def _cuts(self) -> Cuts:
        found = Cuts(self.vocabulary)
        found.add(self.contexts)
        return found

    @cached_property
    def _lengths(self) -> Int64[np.ndarray, " context"]:
        return _numpy(self.contexts, "n_positions").astype(np.int64)

    def _line(self, line: int, peak: int, rank: int, width: int | None) -> Line:
        """Return one line as `examples` has them."""
        position = int(self._position[peak]) if peak >= 0 else 0
        start, length = window(position, int(self._lengths[line]), width)
        fired = np.flatnonzero(self._at == line)
        at = self._position[fired]
        inside = fired[(at >= start) & (at < start + length)]
        return {
            "context": int(self._shown[line]),
            "rank": rank,
            "peak": float(self._strength[peak]) if peak >= 0 else 0.0,
            "peak_position": position,
            "window_start": start,
            "window_length": length,
            "positions": self._position[inside].tolist(),
            "values": self._value[inside].tolist(),
        }

    def _lines(
        self,
        schema: pa.Schema,
        firings: Int64[np.ndarray, " firing"],
        **more: Int64[np.ndarray, " firing"],
    ) -> pa.Table:
        """Return a line of each of some firings."""
        line, position = self._at[firings], self._position[firings]
        tokens = self.vocabulary.texts(self._token_ids(line, position))
        return arrow.rows(
            schema,
            {
                "text": self.text_of[line].astype(np.uint32),
                "feature": self._feature[firings].astype(np.uint32),
                "value": self._value[firings],
                "context": self._shown[line].astype(np.uint32),
                "position": position.astype(np.uint16),
                "token": tokens,
                **{name: each.astype(np.uint32) for name, each in more.items()},
            },
        )

    def _token_ids(
        self, line: Int64[np.ndarray, " firing"], position: Int64[np.ndarray, " firing"]
    ) -> Integer[np.ndarray, " firing"]:
        """Return the token at each of some positions."""
        lists: Any = self.contexts["token_ids"].combine_chunks()
        starts, flat = np.from_dlpack(lists.offsets), np.from_dlpack(lists.values)
        found: Integer[np.ndarray, " firing"] = flat[starts[line].astype(np.int64) + position]
        return found


_WINDOW = ("peak_position", "window_start", "window_length")


def _changes(*keys: Int64[np.ndarray, " firing"]) -> Bool[np.ndarray, " firing"]:
    """Return where any of some sorted keys has another value than before."""
    begins = np.zeros(len(keys[0]), dtype=np.bool_)
    begins[:1] = True
    for key in keys:
        begins[1:] |= key[1:] != key[:-1]
    return begins


def _leading(key: Int64[np.ndarray, " firing"], k: int | None) -> Bool[np.ndarray, " firing"]:
    """Return which are among the first k with the same key; equal keys stand together."""
    starts = np.flatnonzero(_changes(key))
    place = np.arange(len(key)) - np.repeat(starts, np.diff(np.append(starts, len(key))))
    kept: Bool[np.ndarray, " firing"] = place < (len(key) if k is None else k)
    return kept


def _numpy(table: pa.Table, column: str) -> np.ndarray:
    return arrow.plain(table[column])
