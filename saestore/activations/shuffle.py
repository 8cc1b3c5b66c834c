"""The order in which an epoch delivers the rows of a store.

Units, the runs of neighbouring rows that are read together, are permuted. The wanted rows in that
order are cut into fills of equal length; a fill is what one step of reading brings in. The rows of a
fill are permuted and dealt over `parts` drains, a stretch of the delivered sequence each: one part
into its own drain, one into the next, and so on. So every drain holds equal parts of that many
fills, evenly interleaved, and a row meets the rows of `parts * fill_rows` others: the window. Where
a row goes is known when it is read. It is put there at once, and the memory of one window holds all
that is read and not delivered yet.

The price is mixing: neighbouring rows, read together, are spread over one window only; `Spread.met`
says how often two of them meet in a batch. An epoch's first drains, and its last, would hold few
fills; they are merged up to half a window, which is read before the first row can be delivered. In
them neighbours meet 8/3 times as often as in between.

Every draw is keyed, by (seed, epoch) for the units and by (seed, epoch, lane, fill) for the rows of
a fill, so any drain can be computed without the ones before it.

Source: Xu et al. 2022 (arXiv:2206.05830), the two-level shuffle. There each window is drained before
the next; here windows overlap, which mixes as well with half as much read ahead.
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Int64


_PARTS = 32
"""Drains over which a fill is dealt, where the window has so many units. Reading ahead of the window
takes two fills, a sixteenth of it."""
_KEYS = 15
"""Bits of half the range of an interleaving key: uint16 is sorted by radix."""


def unit_order(units: int, *, seed: int, epoch: int) -> Int64[np.ndarray, " unit"]:
    """Return the units in the order of an epoch."""
    # numpy pads keys with zeros: (seed, epoch) and (seed, epoch, 0) would be one stream.
    return np.random.default_rng((seed, epoch, 0)).permutation(units)


@dataclass(frozen=True)
class Spread:
    """Where the rows of each fill go in one epoch of one lane.

    Attributes:
        rows: Rows of the epoch.
        fill_rows: Rows of one fill; the last may be shorter.
        parts: Drains over which a fill is dealt.
    """

    rows: int
    fill_rows: int
    parts: int

    @classmethod
    def of(cls, rows: int, *, window_rows: int, unit_rows: int) -> "Spread":
        """Return how to spread an epoch's rows with a window of so many rows.

        Args:
            rows: Rows of the epoch.
            window_rows: Rows over which neighbours are spread; below one unit, one unit.
            unit_rows: Neighbouring rows read together.
        """
        window = max(window_rows, unit_rows)
        parts = min(_PARTS, window // unit_rows, math.isqrt(window))
        # Parts of equal length make drains of equal length.
        return cls(rows, window // parts // parts * parts, parts)

    @property
    def window_rows(self) -> int:
        """Rows over which the rows of a fill are spread."""
        return self.fill_rows * self.parts

    @property
    def fills(self) -> int:
        """Fills of the epoch."""
        return -(-self.rows // self.fill_rows)

    @property
    def _merged(self) -> int:
        """Slots that the first drain and the last take together."""
        return max(self.parts // 2, 1)

    @property
    def _slots(self) -> int:
        """Drains before the first and the last are merged."""
        return self.fills + self.parts - 1 if self.rows else 0

    @property
    def drains(self) -> int:
        """Stretches of the delivered sequence."""
        return max(self._slots - 2 * (self._merged - 1), 1) if self.rows else 0

    @cached_property
    def starts(self) -> Int64[np.ndarray, " _"]:
        """The position at which each drain begins, and the end of the epoch."""
        if not self.rows:
            return np.zeros(1, np.int64)
        full = np.diff(_cuts(self.fill_rows, self.parts))
        sizes = np.zeros(self._slots, np.int64)
        if self.fills > 1:
            sizes[:-1] += np.convolve(np.ones(self.fills - 1, np.int64), full)
        last = self.fills - 1
        sizes[last:] += np.diff(_cuts(self.rows - last * self.fill_rows, self.parts))
        ends = np.cumsum(sizes)
        bounds = [self._slots_of(drain)[1] - 1 for drain in (0, self.drains - 1)]
        inner = ends[bounds[0] : bounds[0] + self.drains - 1]
        return np.concatenate([[0], inner, [self.rows]])

    def length(self, fill: int) -> int:
        """Return the rows of a fill."""
        return min(self.fill_rows, self.rows - fill * self.fill_rows)

    def bounds(self, fill: int) -> tuple[int, int]:
        """Return the positions between which the rows of a fill are delivered."""
        first, last = self._drain(fill), self._drain(fill + self.parts - 1)
        return int(self.starts[first]), int(self.starts[last + 1])

    def first_fill(self, position: int) -> int:
        """Return the first fill with rows in the drain of a position, or after it."""
        drain = int(np.searchsorted(self.starts, position, side="right")) - 1
        return max(self._slots_of(drain)[0] - self.parts + 1, 0)

    def places(
        self, fill: int, *, seed: int, epoch: int, lane: int = 0
    ) -> Int64[np.ndarray, " row"]:
        """Return the position of each row of a fill in the epoch.

        Args:
            fill: Which fill, from 0.
            seed: One for the whole run.
            epoch: From 0; every epoch has an order of its own.
            lane: Of which lane; lanes share the units and not the draws.
        """
        drawn = np.random.default_rng((seed, epoch, lane + 1, fill + 1))
        return self._dealt(fill)[drawn.permutation(self.length(fill))]

    def met(self, batch_rows: int) -> float:
        """Return how often two rows of one fill meet in a batch, on average over the epoch."""
        total, drain = 0.0, 0
        while drain < self.drains:
            first, size = self._fills_of(drain).start, 0
            held = np.zeros(0)  # rows of each fill in the drains that one batch may span
            while drain < self.drains and size < batch_rows:
                held = np.append(held, np.zeros(self._fills_of(drain).stop - first - len(held)))
                held[self._fills_of(drain).start - first :] += self._lengths(drain)
                size += int(self.starts[drain + 1]) - int(self.starts[drain])
                drain += 1
            fills = first + np.flatnonzero(held)
            held = held[held > 0]
            lengths = np.minimum(self.rows - fills * self.fill_rows, self.fill_rows)
            # Rows are interleaved evenly: a batch holds the whole number next to its share.
            share = held * min(batch_rows / size, 1.0)
            whole = np.floor(share)
            others = whole * (whole - 1 + 2 * (share - whole)) / share
            total += float((held * others / np.maximum(lengths - 1, 1)).sum())
        return total / self.rows if self.rows else 0.0

    def _dealt(self, fill: int) -> Int64[np.ndarray, " row"]:
        """Return the positions that the rows of a fill share out among them, part by part."""
        if self.parts - 1 <= fill < self.fills - self.parts and not self.fill_rows % self.parts:
            regular: Int64[np.ndarray, " row"] = self._regular + self.starts[self._drain(fill)]
            return regular
        length = self.length(fill)
        cuts = _cuts(length, self.parts)
        dealt = np.empty(length, np.int64)
        for drain in range(self._drain(fill), self._drain(fill + self.parts - 1) + 1):
            first, stop = self._parts_of(fill, drain)
            here = slice(int(cuts[first]), int(cuts[stop]))
            dealt[here] = self._interleaved(fill, drain)
            dealt[here] += self.starts[drain]
        return dealt

    @cached_property
    def _regular(self) -> Int64[np.ndarray, " row"]:
        """Positions of a fill all of whose drains hold `parts` full fills, from its first drain."""
        part = np.arange(self.parts)[:, None]
        row = np.arange(self.fill_rows // self.parts)
        places: Int64[np.ndarray, "_ row"] = (
            part * self.fill_rows + row * self.parts + self.parts - 1 - part
        )
        return places.ravel()

    def _drain(self, slot: int) -> int:
        return min(max(slot - self._merged + 1, 0), self.drains - 1)

    def _slots_of(self, drain: int) -> tuple[int, int]:
        first = 0 if drain == 0 else drain + self._merged - 1
        stop = self._slots if drain == self.drains - 1 else drain + self._merged
        return first, stop

    def _fills_of(self, drain: int) -> range:
        first, stop = self._slots_of(drain)
        return range(max(first - self.parts + 1, 0), min(stop, self.fills))

    def _parts_of(self, fill: int, drain: int) -> tuple[int, int]:
        first, stop = self._slots_of(drain)
        return max(first - fill, 0), min(stop - fill, self.parts)

    def _lengths(self, drain: int) -> Int64[np.ndarray, " _"]:
        """Return how many rows of each of its fills a drain holds."""
        if drain not in self._known:
            fills = np.arange(self._fills_of(drain).start, self._fills_of(drain).stop)
            slots = self._slots_of(drain)
            first, stop = np.maximum(slots[0] - fills, 0), np.minimum(slots[1] - fills, self.parts)
            rows = np.minimum(self.rows - fills * self.fill_rows, self.fill_rows)
            self._known[drain] = rows * stop // self.parts - rows * first // self.parts
        return self._known[drain]

    @cached_property
    def _known(self) -> dict[int, Int64[np.ndarray, " _"]]:
        """What `_lengths` found."""
        return {}

    def _interleaved(self, fill: int, drain: int) -> Int64[np.ndarray, " row"]:
        """Return the places in a drain of a fill's rows."""
        lengths = self._lengths(drain)
        index = fill - self._fills_of(drain)[0]
        if (lengths == lengths[0]).all():
            return np.arange(lengths[0]) * len(lengths) + index
        before = int(lengths[:index].sum())
        return _interleave(tuple(lengths.tolist()))[before : before + int(lengths[index])]


def _cuts(length: int, parts: int) -> Int64[np.ndarray, " _"]:
    """Return the bounds of so many parts, equal within one."""
    return np.arange(parts + 1, dtype=np.int64) * length // parts


@lru_cache(maxsize=2 * _PARTS)
def _interleave(lengths: tuple[int, ...]) -> Int64[np.ndarray, " row"]:
    """Return places for runs of some lengths, each run spread evenly over all of them."""
    keys = [((2 * np.arange(n) + 1) << _KEYS) // max(n, 1) for n in lengths]
    order = np.argsort(np.concatenate(keys).astype(np.uint16), kind="stable")
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    return places


def meetings(
    contexts: Int64[np.ndarray, "context 2"], *, unit_rows: int, wanted: float = 1.0
) -> tuple[float, float]:
    """Return how many other rows of its context a row has in its own unit, and at all, on average.

    Args:
        contexts: First row and length of each context.
        unit_rows: Neighbouring rows read together.
        wanted: Share of their rows that is delivered.
    """
    starts, lengths = contexts[:, 0], contexts[:, 1]
    ends = starts + lengths
    first, last = starts // unit_rows, (ends - 1) // unit_rows
    one = first == last
    begin = np.where(one, lengths, (first + 1) * unit_rows - starts).astype(np.float64)
    end = np.where(one, 0, ends - last * unit_rows).astype(np.float64)
    between = np.maximum(last - first - 1, 0) * float(unit_rows) ** 2
    rows = float(lengths.sum())
    own = float((begin**2 + end**2 + between).sum()) / rows
    total = float((lengths.astype(np.float64) ** 2).sum()) / rows
    return max(own * wanted - 1, 0.0), max(total * wanted - 1, 0.0)


def partners(
    meet: tuple[float, float], spread: Spread, *, batch_rows: int, unit_rows: int, rows: int
) -> float:
    """Return the expected number of same-context partners of a row in its batch; 0 is perfect.

    The rows of its context in its own unit meet it as `Spread.met` says, all others as any two rows
    of the store.

    Args:
        meet: What `meetings` returned.
        spread: The order.
        batch_rows: Rows of a batch.
        unit_rows: Neighbouring rows read together.
        rows: Rows that an epoch delivers.
    """
    own, total = meet
    near = spread.met(batch_rows)
    strangers = max(rows - unit_rows, 1)
    far = max(min(batch_rows, rows) - 1 - (min(unit_rows, rows) - 1) * near, 0.0) / strangers
    return own * near + (total - own) * min(far, 1.0)


def inflation(*, batch_rows: int, unit_rows: int, window_rows: int) -> float:
    """Return by how much the batch variance of a document-level feature is inflated, as a rule.

    1 + B * C / W for batches of B rows, contiguous runs of C and a window of W; 1 is ideal.
    """
    return 1 + batch_rows * unit_rows / window_rows
