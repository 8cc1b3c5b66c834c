"""The places of one feature, drawn from all of its firings."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Any, final

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32, Int64, UInt64
from typing_extensions import override

from saestore.features import Analysis, FeaturePage
from saestore.features.analysis import FIRINGS
from saestore.features.pieces import by_columns, examples, window
from saestore.interpret.contexts import Contexts
from saestore.interpret.draw import Draw, Part
from saestore.interpret.evidence import Evidence, Negative, Pick, Snippet
from saestore.mixing import MASK, mixed, splitmix64


_NEAR = 10
"""Features like it that `near` looks at, of each list: those that fire with it, those with a decoder like
its own."""


@dataclass(frozen=True)
class Firings:
    """Every firing of one feature, by context and position.

    Attributes:
        context: Of each.
        position: Of each.
        value: Of each, with its sign.
    """

    context: Int64[np.ndarray, " firing"]
    position: Int64[np.ndarray, " firing"]
    value: Float32[np.ndarray, " firing"]

    @classmethod
    def of(cls, lines: pa.Table) -> "Firings":
        """Return those of one feature's lines of the table of firings."""
        context, position, value = (
            np.from_dlpack(lines[name].combine_chunks())
            for name in ("context", "position", "value")
        )
        return cls(context.astype(np.int64), position.astype(np.int64), value.astype(np.float32))

    @cached_property
    def starts(self) -> Int64[np.ndarray, " context"]:
        """The first firing of each context."""
        found: Int64[np.ndarray, " context"] = np.flatnonzero(np.diff(self.context, prepend=-1))
        return found

    @cached_property
    def contexts(self) -> Int64[np.ndarray, " context"]:
        """The contexts in which it fires, ascending."""
        found: Int64[np.ndarray, " context"] = self.context[self.starts]
        return found

    @cached_property
    def peak(self) -> Float32[np.ndarray, " context"]:
        """Its largest strength in each."""
        strength = np.abs(self.value)
        found: Float32[np.ndarray, " context"] = (
            np.maximum.reduceat(strength, self.starts) if len(strength) else strength
        )
        return found

    @cached_property
    def peak_position(self) -> Int64[np.ndarray, " context"]:
        """The first position with that strength."""
        peaks = np.repeat(self.peak, np.diff(np.append(self.starts, len(self.context))))
        there = np.flatnonzero(np.abs(self.value) == peaks)
        _, first = np.unique(self.context[there], return_index=True)
        return self.position[there[first]]

    def inside(self, context: int, start: int, length: int) -> tuple[list[int], list[float]]:
        """Return positions and values in a stretch of a context."""
        low, high = np.searchsorted(self.context, [context, context + 1])
        at = self.position[low:high]
        kept = (at >= start) & (at < start + length)
        return at[kept].tolist(), self.value[low:high][kept].tolist()


@final
class FeatureDraw(Draw):
    """Draws the places of one feature."""

    def __init__(
        self, contexts: Contexts, page: FeaturePage, firings: Firings, *, seed: int
    ) -> None:
        """Prepare to draw.

        Args:
            contexts: All contexts of the analysis.
            page: The feature's page.
            firings: Its firings.
            seed: The run's.
        """
        self.firings = firings
        self._contexts = contexts
        self._page = page
        self._key = mixed(seed, page.feature)
        self._near: dict[int, Firings] = {}

    @property
    @override
    def page(self) -> FeaturePage:
        return self._page

    @override
    def part_of(self, context: int) -> Part:
        return self._contexts.part_of(context)

    @override
    def top(self, n: int, part: Part) -> list[Pick]:
        here = self._of_part(part)
        firings = self.firings
        order = np.lexsort((firings.contexts[here], -firings.peak[here].astype(np.float64)))
        return self._peaks(here[order[:n]])

    @override
    def strata(self, n: int, strata: int, part: Part) -> list[Pick]:
        here = self._of_part(part)
        firings = self.firings
        ranked = here[np.lexsort((firings.contexts[here], firings.peak[here]))]
        stratum = np.arange(len(ranked)) * strata // max(len(ranked), 1)
        order = np.argsort(self._hash(firings.contexts[ranked]), kind="stable")
        found = []
        for each in range(strata):
            wanted = n // strata + (each >= strata - n % strata)
            members = order[stratum[order] == each][:wanted]
            found += self._peaks(ranked[members], stratum=each)
        return found

    @override
    def silent(self, n: int, part: Part) -> list[Pick]:
        return self._silent(n, part, set())

    @override
    def hard(self, n: int, kind: Negative, part: Part) -> list[Pick]:
        return self._hard(n, kind, part, set())

    @override
    def negatives(self, n: int, hard: tuple[Negative, ...], part: Part) -> list[Pick]:
        used: set[int] = set()
        found: list[Pick] = []
        half = n // 2
        for place, kind in enumerate(hard):
            wanted = half // len(hard) + (place < half % len(hard))
            found += self._hard(wanted, kind, part, used)
            used.update(pick.context for pick in found)
        return found + self._silent(n - len(found), part, used)

    def _of_part(self, part: Part) -> Int64[np.ndarray, " context"]:
        """Return which of its contexts belong to a part, as places in `Firings.contexts`."""
        parts = self._contexts.part[self.firings.contexts]
        found: Int64[np.ndarray, " context"] = np.flatnonzero(parts == self._contexts.code(part))
        return found

    def _peaks(
        self, places: Int64[np.ndarray, " context"], *, stratum: int | None = None
    ) -> list[Pick]:
        firings = self.firings
        return [
            Pick(context, position, stratum)
            for context, position in zip(
                firings.contexts[places].tolist(),
                firings.peak_position[places].tolist(),
                strict=True,
            )
        ]

    def _hash(self, contexts: Int64[np.ndarray, " context"]) -> UInt64[np.ndarray, " context"]:
        return splitmix64(contexts.astype(np.uint64) ^ np.uint64(self._key & MASK))

    def _fires_in(self, contexts: Int64[np.ndarray, " context"]) -> Bool[np.ndarray, " context"]:
        return np.isin(contexts, self.firings.contexts)

    def _silent(self, n: int, part: Part, used: set[int]) -> list[Pick]:
        order = self._contexts.orders[part]
        found: list[Pick] = []
        for some in _turned(order, start=self._key % max(len(order), 1)):
            if len(found) >= n:
                break
            for context in some[~self._fires_in(some)].tolist():
                if context not in used and len(found) < n:
                    where = mixed(self._key, context) % int(self._contexts.length[context])
                    found.append(Pick(context, where, negative="silent"))
        return found

    def _hard(self, n: int, kind: Negative, part: Part, used: set[int]) -> list[Pick]:
        if kind == "silent":
            return self._silent(n, part, used)
        found: dict[int, Pick] = {}
        for contexts, positions in self._near_places() if kind == "near" else self._top_token():
            if len(found) >= n:
                break
            parts = self._contexts.part[contexts]
            free = np.flatnonzero((parts == self._contexts.code(part)) & ~self._fires_in(contexts))
            for place in free[np.argsort(self._hash(contexts[free]), kind="stable")].tolist():
                context = int(contexts[place])
                if context not in used and context not in found and len(found) < n:
                    found[context] = Pick(context, int(positions[place]), negative=kind)
        return list(found.values())

    def _near_places(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the contexts of each feature like it, nearest first, and where that one is strongest."""
        for other in self._like_it:
            if other not in self._near:
                lines = self._contexts.analysis.rows(FIRINGS, [other])
                self._near[other] = Firings.of(lines)
            yield self._near[other].contexts, self._near[other].peak_position

    @cached_property
    def _like_it(self) -> Sequence[int]:
        fire_with = [each.feature for each in self._page.coactive][:_NEAR]
        alike = [each.feature for each in self._page.neighbours if each.method == "dec_cos"][:_NEAR]
        mingled = [f for pair in zip_longest(fire_with, alike) for f in pair if f is not None]
        return list(dict.fromkeys(mingled))

    def _top_token(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        token = self._page.statistics["top_token_id"]
        if token is not None:
            yield self._contexts.tokens.first(int(token))


def _turned(
    order: Int64[np.ndarray, " context"], *, start: int
) -> Iterator[Int64[np.ndarray, " context"]]:
    """Yield an order from a place on and once around, some at a time."""
    some = 256
    for first in range(0, len(order), some):
        places = (start + np.arange(first, min(first + some, len(order)))) % len(order)
        yield order[places]


@final
class Material:
    """Reads what is needed to draw and show places of features."""

    def __init__(self, analysis: Analysis, *, seed: int) -> None:
        """Prepare to read.

        Args:
            analysis: The analysis; it must keep its firings.
            seed: The run's.

        Raises:
            UnsupportedError: It keeps none.
        """
        analysis.need_firings("interpretation")
        self._analysis = analysis
        self._contexts = Contexts(analysis)
        self._seed = seed
        # of its examples only what a feature reads there is looked at
        self._subsamples = None if "attention" in analysis.tables else ()

    def draws(self, features: Sequence[int]) -> Iterator[FeatureDraw]:
        """Yield what draws the places of each of some features."""
        for page in self._analysis.pages(features, subsamples=self._subsamples):
            lines = self._analysis.rows(FIRINGS, [page.feature])
            yield FeatureDraw(self._contexts, page, Firings.of(lines), seed=self._seed)

    def shown(self, wanted: Sequence[tuple[FeatureDraw, Sequence[Pick], int]]) -> list[Evidence]:
        """Return places with their texts; contexts are read once for all.

        Args:
            wanted: Of which feature, which places, and how many tokens of each.
        """
        lines = by_columns(
            [self._line(draw, pick, width) for draw, picks, width in wanted for pick in picks]
        )
        # each place takes the next of them
        shown = iter(examples(lines, self._analysis.stored.stretches.shown(lines)))
        return [Evidence(draw.page, tuple(map(Snippet, picks, shown))) for draw, picks, _ in wanted]

    def _line(self, draw: FeatureDraw, pick: Pick, width: int) -> Mapping[str, Any]:
        """Return a place as a line of `examples`."""
        start, length = window(pick.position, int(self._contexts.length[pick.context]), width)
        positions, values = draw.firings.inside(pick.context, start, length)
        return {
            "context": pick.context,
            "rank": 0,
            "peak": max((abs(value) for value in values), default=0.0),
            "peak_position": pick.position,
            "window_start": start,
            "window_length": length,
            "positions": positions,
            "values": values,
        }
