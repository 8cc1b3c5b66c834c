"""Rows together with the contexts they lie in, for dictionaries that read sequences.

Everything is counted in rows: batches, blocks, firings, errors. A family whose code of a row depends on
the rows before it gets `ContextRows`: a mapping of hookpoint to the wanted rows, as any family gets,
that remembers the whole contexts around them. Rows that nobody wants (BOS, ignored tokens, the
rest of a context that lies across the end of a batch) are there to be attended to.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from typing_extensions import override

from saestore.errors import HookpointNotFoundError


@runtime_checkable
class Around(Protocol):
    """Where rows of a store stand in their contexts; see `Contexts`."""

    @property
    def offsets(self) -> Int64[np.ndarray, " _"]:
        """Where each context begins."""
        ...

    @property
    def documents(self) -> Int64[np.ndarray, " row"]:
        """Which document each row belongs to."""
        ...

    @property
    def wanted(self) -> Int64[np.ndarray, " _"]:
        """Which rows are wanted."""
        ...


@dataclass(frozen=True)
class Contexts:
    """Where the rows of some contexts stand, and which of them are wanted.

    Attributes:
        offsets: Where each context begins among the rows; one more than there are contexts.
        documents: Which document of its context each row belongs to, from 1; 0 for rows before the
            first document (BOS), which all documents of the context see.
        wanted: Which rows are wanted; those of one context follow one another.
    """

    offsets: Int64[Tensor, " _"]
    documents: Int64[Tensor, " row"]
    wanted: Int64[Tensor, " _"]

    @classmethod
    def of(cls, around: "Around") -> "Contexts":
        """Return the layout of rows that were read from a store."""
        parts = (around.offsets, around.documents, around.wanted)
        return cls(*map(torch.from_numpy, parts))

    @classmethod
    def one(cls, rows: int, device: torch.device) -> "Contexts":
        """Return the layout of one context with one document, all of whose rows are wanted."""
        bounds = torch.tensor([0, rows], device=device)
        everyone = torch.arange(rows, device=device)
        return cls(bounds, torch.ones_like(everyone), everyone)

    @property
    def positions(self) -> Int64[Tensor, " row"]:
        """Place of each row in its context."""
        rows = torch.arange(len(self.documents), device=self.documents.device)
        return rows - torch.repeat_interleave(
            self.offsets[:-1], self.offsets.diff(), output_size=len(rows)
        )

    def spans(self) -> list[tuple[int, int, int, int]]:
        """Return each context's first row and the one after its last, and the same of its wanted."""
        # Wanted rows follow the contexts' order, so that each context's are a stretch of them.
        owners = torch.searchsorted(self.offsets, self.wanted, right=True) - 1
        bounds = torch.searchsorted(owners, torch.arange(len(self.offsets), device=owners.device))
        rows, wanted = self.offsets.tolist(), bounds.tolist()
        return list(zip(rows[:-1], rows[1:], wanted[:-1], wanted[1:], strict=True))

    def by_length(self) -> Iterator[Int64[Tensor, "context position"]]:
        """Yield the rows of all contexts of one length, shorter ones first."""
        lengths = self.offsets.diff()
        for length in sorted(set(lengths.tolist())):
            if length:
                starts = self.offsets[:-1][lengths == length]
                yield starts.unsqueeze(1) + torch.arange(length, device=starts.device)

    def hidden(
        self, rows: Int64[Tensor, "context position"]
    ) -> Bool[Tensor, "context position position"]:
        """Return which rows of a context each of its rows does not see.

        Those behind it, and those of other documents.

        Args:
            rows: The rows of some contexts of one length.
        """
        own = self.documents[rows]
        behind = torch.ones(2 * own.shape[1:], dtype=torch.bool, device=own.device).triu(1)
        other = (own.unsqueeze(1) != own.unsqueeze(2)) & (own != 0).unsqueeze(1)
        return behind | other

    def to(self, device: torch.device) -> "Contexts":
        """Return the layout on a device."""
        parts = (self.offsets, self.documents, self.wanted)
        return Contexts(*(each.to(device) for each in parts))

    def narrowed(self, start: int, stop: int) -> "tuple[Contexts, slice]":
        """Return the contexts of some of the wanted rows alone, and which rows these are."""
        wanted = self.wanted[start:stop]
        if not len(wanted):
            return Contexts(self.offsets[:1], self.documents[:0], wanted), slice(0, 0)
        first, last = wanted.min(), wanted.max()
        at = torch.searchsorted(self.offsets, torch.stack([first, last]), right=True)
        offsets = self.offsets[int(at[0]) - 1 : int(at[1]) + 1]
        rows = slice(int(offsets[0]), int(offsets[-1]))
        return Contexts(offsets - offsets[0], self.documents[rows], wanted - offsets[0]), rows


class ContextRows(Mapping[str, Tensor]):
    """The wanted rows of each hookpoint, and the contexts they lie in.

    Attributes:
        whole: All rows of the contexts, by hookpoint.
        contexts: Where they stand.
    """

    def __init__(self, whole: Mapping[str, Float[Tensor, "row _"]], contexts: Contexts) -> None:
        self.whole = dict(whole)
        self.contexts = contexts
        self._wanted: dict[str, Tensor] = {}

    @override
    def __getitem__(self, hookpoint: str) -> Tensor:
        if hookpoint not in self._wanted:
            self._wanted[hookpoint] = self.whole[hookpoint][self.contexts.wanted]
        return self._wanted[hookpoint]

    @override
    def __contains__(self, hookpoint: object) -> bool:
        return hookpoint in self.whole

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self.whole)

    @override
    def __len__(self) -> int:
        return len(self.whole)


def each(
    inputs: Mapping[str, Tensor], change: Callable[[str, Tensor], Tensor]
) -> Mapping[str, Tensor]:
    """Return all rows changed hookpoint by hookpoint, in the contexts they lie in.

    Args:
        inputs: Rows of each hookpoint.
        change: Hookpoint and rows to as many rows, on one device.
    """
    if not isinstance(inputs, ContextRows):
        return {hook: change(hook, rows) for hook, rows in inputs.items()}
    changed = {hook: change(hook, rows) for hook, rows in inputs.whole.items()}
    device = next(iter(changed.values())).device if changed else torch.device("cpu")
    return ContextRows(changed, inputs.contexts.to(device))


def only(inputs: Mapping[str, Tensor], hookpoints: Sequence[str]) -> Mapping[str, Tensor]:
    """Return the rows of some hookpoints, in the contexts they lie in.

    Raises:
        HookpointNotFoundError: One of them is missing.
    """
    for hook in hookpoints:
        if hook not in inputs:
            raise HookpointNotFoundError(pattern=hook, where="the inputs", known=tuple(inputs))
    if isinstance(inputs, ContextRows):
        return ContextRows({hook: inputs.whole[hook] for hook in hookpoints}, inputs.contexts)
    return {hook: inputs[hook] for hook in hookpoints}


def part(inputs: Mapping[str, Tensor], start: int, stop: int) -> Mapping[str, Tensor]:
    """Return a stretch of the rows, in the contexts they lie in."""
    if not isinstance(inputs, ContextRows):
        return {hook: rows[start:stop] for hook, rows in inputs.items()}
    contexts, rows = inputs.contexts.narrowed(start, stop)
    return ContextRows({hook: held[rows] for hook, held in inputs.whole.items()}, contexts)


def around(inputs: Mapping[str, Tensor], hookpoint: str) -> tuple[Float[Tensor, "row _"], Contexts]:
    """Return all rows of the contexts at a hookpoint, and their layout; plain rows are one context."""
    if isinstance(inputs, ContextRows):
        return inputs.whole[hookpoint], inputs.contexts
    rows = inputs[hookpoint]
    return rows, Contexts.one(len(rows), rows.device)
