"""Which row of its store stands at each place of a lane, without reading anything.

The order is a pure function, so the numbers of the rows of a batch are computed beside the window that
holds the rows: the places of the fills that reach into the batch, sorted once each.
"""

from collections import deque
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64

from saestore.activations.window import Fill, Order, fills


class RowNumbers:
    """The numbers of the rows of one lane, for batches that follow each other."""

    def __init__(self, order: Order, *, lane: int) -> None:
        """Compute nothing yet.

        Args:
            order: Where each row comes.
            lane: Which lane.
        """
        self._order = order
        self._lane = lane
        self._held: deque[_Numbered] = deque()
        self._coming: Iterator[Fill] = iter(())
        self._next: Fill | None = None

    def seek(self, place: int, epoch: int) -> None:
        """Go to a place of an epoch."""
        self._held.clear()
        self._coming = fills(self._order, self._lane, place, epoch)
        self._next = next(self._coming, None)

    def of(self, start: int, stop: int) -> Int64[np.ndarray, " row"]:
        """Return the numbers of the rows at some places; places before them are forgotten."""
        while self._held and self._held[0].fill.stop <= start:
            self._held.popleft()
        while self._next is not None and self._next.start < stop:
            self._held.append(_Numbered(self._order, self._lane, self._next))
            self._next = next(self._coming, None)
        found = np.empty(stop - start, np.int64)
        for numbered in self._held:
            first, end = np.searchsorted(numbered.places, (start, stop))
            found[numbered.places[first:end] - start] = numbered.rows[first:end]
        return found


class _Numbered:
    """The places of a fill's rows, ascending, and the row at each."""

    def __init__(self, order: Order, lane: int, fill: Fill) -> None:
        units, places = order.places(lane, fill.epoch, fill.number)
        size = order.wanted.unit_rows
        rows = order.wanted.units[units][:, None] * size + np.arange(size)
        wanted = places >= 0
        self.fill = fill
        self.places, self.rows = places[wanted], rows[wanted]
        ascending = np.argsort(self.places)
        self.places, self.rows = self.places[ascending], self.rows[ascending]
