"""Whether stores hold the activations of the same tokens: what training on several at once needs.

A crosscoder reads row `n` of every store as one example, so row `n` must be the same token of the same
context everywhere. Contexts are compared by their lengths, tokens by their ids and by what the
vocabularies say they mean. Flags and documents may differ: then other rows are skipped, or texts are
called otherwise, and it is said. Tokens are read in pieces; memory does not grow with the stores.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from saestore.activations.store import ActivationStore


Part = Literal["contexts", "tokens", "vocabulary", "flags", "documents"]

PIECE = 1 << 20
"""Rows compared at once."""
_AROUND = 4
"""Tokens shown before the first that differs."""


@dataclass(frozen=True)
class Difference:
    """What differs between two stores in one respect.

    Attributes:
        part: In which respect.
        count: How many contexts, rows, token ids or documents differ.
        total: Of how many that were compared.
        first: The first of them, in words.
        apart: Whether it keeps the stores from being used together.
    """

    part: Part
    count: int
    total: int
    first: str
    apart: bool


@dataclass(frozen=True)
class Compared:
    """One store beside the one it was compared with.

    Attributes:
        store: Its name.
        beside: The other's name.
        differences: What differs; empty, nothing does.
    """

    store: str
    beside: str
    differences: tuple[Difference, ...]

    @property
    def together(self) -> bool:
        """Whether the two can be used together."""
        return not any(each.apart for each in self.differences)


@dataclass(frozen=True)
class SameTokens:
    """Which of several stores hold the same tokens.

    Attributes:
        rows: Rows of the first store.
        contexts: Contexts of the first store.
        groups: Names of stores that can be used together, the first store's group first.
        compared: Every store but the first, beside the first store of the group it fell into; where
            it opened a group of its own, beside the first store of all.
    """

    rows: int
    contexts: int
    groups: tuple[tuple[str, ...], ...]
    compared: tuple[Compared, ...]

    @property
    def same(self) -> bool:
        """Whether all can be used together."""
        return len(self.groups) == 1


def same_tokens(stores: Sequence[ActivationStore]) -> SameTokens:
    """Compare any number of stores.

    Args:
        stores: One or more; the first is what the others are compared with.

    Raises:
        DamagedArtefactError: A part that is compared does not match its checksum.
    """
    texts = [_Text(store) for store in stores]
    groups: list[list[_Text]] = [[texts[0]]]
    compared = []
    for text in texts[1:]:
        found: list[Compared] = []
        for group in groups:
            found.append(_compare(group[0], text))
            if found[-1].together:
                group.append(text)
                compared.append(found[-1])
                break
        else:
            groups.append([text])
            compared.append(found[0])
    return SameTokens(
        rows=stores[0].n_rows,
        contexts=stores[0].n_contexts,
        groups=tuple(tuple(text.name for text in group) for group in groups),
        compared=tuple(compared),
    )


class _Text:
    """The text of one store: contexts and vocabulary in memory, tokens read when asked for."""

    def __init__(self, store: ActivationStore) -> None:
        self.store = store
        self.name = store.ref.name

    @cached_property
    def contexts(self) -> Int64[np.ndarray, "context 2"]:
        return self.store.contexts()

    @cached_property
    def vocabulary(self) -> pa.Table:
        return self.store.vocabulary()

    @property
    def model(self) -> str:
        lm = self.store.record.lm
        return lm.model if lm is not None else "a model it does not name"

    def place(self, row: int) -> str:
        """Return a row with its context and its position there."""
        context = int(np.searchsorted(self.contexts[:, 0], row, side="right")) - 1
        position = row - int(self.contexts[context, 0])
        return f"row {row} (context {context}, position {position})"

    def token(self, row: int) -> str:
        """Return the token of a row: its text and its id."""
        number = int(self.store.tokens(row, row + 1)[0])
        return f"{self.piece(number)!r} ({number})"

    def piece(self, number: int) -> str:
        words = self.vocabulary.column("token")
        return str(words[number].as_py()) if 0 <= number < len(words) else "beyond its vocabulary"

    def before(self, row: int) -> str:
        """Return the tokens before a row, within its context."""
        first = int(self.contexts[np.searchsorted(self.contexts[:, 0], row, side="right") - 1, 0])
        tokens = self.store.tokens(max(row - _AROUND, first), row)
        return "".join(self.piece(int(number)) for number in tokens)


def _compare(one: _Text, other: _Text) -> Compared:
    return Compared(other.name, one.name, tuple(_differences(one, other)))


def _differences(one: _Text, other: _Text) -> Iterator[Difference]:
    contexts = _contexts(one, other)
    yield from contexts
    rows = _common_rows(one, other)
    yield from _tokens(one, other, rows)
    yield from _vocabulary(one, other)
    if not contexts:
        yield from _flags(one, other, rows)
        yield from _documents(one, other)


def _common_rows(one: _Text, other: _Text) -> int:
    """Return how many leading rows are the same places of the same contexts."""
    some = min(len(one.contexts), len(other.contexts))
    unequal = np.flatnonzero(one.contexts[:some, 1] != other.contexts[:some, 1])
    if len(unequal):
        first, length = one.contexts[unequal[0]]
        return int(first + min(length, other.contexts[unequal[0], 1]))
    return min(one.store.n_rows, other.store.n_rows)


def _contexts(one: _Text, other: _Text) -> list[Difference]:
    mine, theirs = one.contexts[:, 1], other.contexts[:, 1]
    some = min(len(mine), len(theirs))
    unequal = np.flatnonzero(mine[:some] != theirs[:some])
    count = len(unequal) + abs(len(mine) - len(theirs))
    if not count:
        return []
    if len(unequal):
        at = int(unequal[0])
        row = int(one.contexts[at, 0])
        first = (
            f"context {at}, which begins with row {row}, has {mine[at]} tokens in {one.name}, "
            f"{theirs[at]} in {other.name}"
        )
    else:
        first = f"{one.name} has {len(mine)} contexts, {other.name} {len(theirs)}"
    return [Difference("contexts", count, max(len(mine), len(theirs)), first, apart=True)]


def _tokens(one: _Text, other: _Text, rows: int) -> Iterator[Difference]:
    count, first = 0, -1
    for start in range(0, rows, PIECE):
        stop = min(start + PIECE, rows)
        unequal = np.flatnonzero(one.store.tokens(start, stop) != other.store.tokens(start, stop))
        count += len(unequal)
        if len(unequal) and first < 0:
            first = start + int(unequal[0])
    if count:
        told = (
            f"{one.place(first)}, after {one.before(first)!r}: "
            f"{one.token(first)} in {one.name}, {other.token(first)} in {other.name}"
        )
        yield Difference("tokens", count, rows, told, apart=True)


def _vocabulary(one: _Text, other: _Text) -> Iterator[Difference]:
    """Compare what token ids mean. More ids at the end, which models pad, part nothing."""
    mine, theirs = (t.vocabulary.column("bytes").to_pylist() for t in (one, other))
    some = min(len(mine), len(theirs))
    unequal = [n for n in range(some) if mine[n] != theirs[n]]
    if unequal:
        n = unequal[0]
        told = (
            f"id {n} is {one.piece(n)!r} to {one.model} ({one.name}), "
            f"{other.piece(n)!r} to {other.model} ({other.name}): different tokenizers"
        )
        yield Difference("vocabulary", len(unequal), some, told, apart=True)
    elif len(mine) != len(theirs):
        told = f"{len(mine)} token ids in {one.name}, {len(theirs)} in {other.name}"
        count = abs(len(mine) - len(theirs))
        yield Difference("vocabulary", count, max(len(mine), len(theirs)), told, apart=False)


def _flags(one: _Text, other: _Text, rows: int) -> Iterator[Difference]:
    count, first, told = 0, -1, ""
    for start in range(0, rows, PIECE):
        stop = min(start + PIECE, rows)
        mine, theirs = (t.store.flags(start, stop) for t in (one, other))
        unequal = np.flatnonzero(mine != theirs)
        count += len(unequal)
        if len(unequal) and first < 0:
            first = start + int(unequal[0])
            flags = mine[unequal[0]], theirs[unequal[0]]
            told = (
                f"{one.place(first)}, {one.token(first)}: "
                f"flags {flags[0]} in {one.name}, {flags[1]} in {other.name}"
            )
    if count:
        yield Difference("flags", count, rows, told, apart=False)


def _documents(one: _Text, other: _Text) -> Iterator[Difference]:
    mine, theirs = (
        t.store.documents().select(["document_id", "source"]).to_pylist() for t in (one, other)
    )
    total = max(len(mine), len(theirs))
    unequal = [n for n, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b]
    count = len(unequal) + abs(len(mine) - len(theirs))
    if unequal:
        n = unequal[0]
        told = (
            f"document {n} is {mine[n]['document_id']!r} in {one.name}, "
            f"{theirs[n]['document_id']!r} in {other.name}"
        )
        yield Difference("documents", count, total, told, apart=False)
    elif count:
        told = f"{len(mine)} documents in {one.name}, {len(theirs)} in {other.name}"
        yield Difference("documents", count, total, told, apart=False)
    elif not np.array_equal(one.store.segments(), other.store.segments()):
        told = "other places in the documents"
        yield Difference("documents", total, total, told, apart=False)
