"""Memory between the store and a batch: what is read and not delivered yet.

`Ring` holds the rows of one lane in the order of delivery. A unit of neighbouring rows is read into
a small buffer, checked while it is in cache, and its rows are put where they will be delivered from;
a batch is then a stretch of the ring, without another copy. Fills are read ahead by threads as soon
as the ring has room for all of their rows. `Resident` holds a whole store that fits, read once, and
gathers each batch.

Buffers are kept for the whole run: copying into fresh memory costs several times the copy itself.
A ring saves one of three passes over memory, and putting rows past the caches (`memory`) is faster
than gathering them.
"""

import threading
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from jaxtyping import Int64, Shaped
from typing_extensions import override

from saestore.activations import shuffle
from saestore.activations.batches import Dealing
from saestore.activations.choice import Wanted
from saestore.activations.layout import ArraySpec
from saestore.activations.memory import as_bytes, pages
from saestore.activations.shuffle import Spread
from saestore.activations.store import ActivationStore
from saestore.activations.units import Units, units_of


_PIECE = 4 << 20
"""Bytes that a resident store is read in at once."""


class Order:
    """The order of one stream: which row of the store comes at which place of which lane.

    Attributes:
        wanted: The rows.
        batches: How they are cut.
        window_rows: Rows over which neighbours are spread.
        fits: Whether all of them fit into the window, and are permuted as one.
        seed: One for the whole run.
    """

    def __init__(self, wanted: Wanted, batches: Dealing, *, window_rows: int, seed: int) -> None:
        self.wanted = wanted
        self.batches = batches
        self.seed = seed
        self.window_rows = window_rows
        self.fits = len(wanted.units) * wanted.unit_rows <= window_rows
        self.spread = lru_cache(maxsize=8)(self._spread)
        self._units = lru_cache(maxsize=2)(self._permuted)

    def _spread(self, rows: int) -> Spread:
        """Return how so many rows of an epoch of a lane are spread."""
        if self.fits:
            return Spread(rows, max(rows, 1), 1)
        return Spread.of(rows, window_rows=self.window_rows, unit_rows=self.wanted.unit_rows)

    def _permuted(
        self, epoch: int
    ) -> tuple[Int64[np.ndarray, " unit"], Int64[np.ndarray, " unit"]]:
        """Return the units of an epoch in order, and the wanted rows up to the end of each."""
        order = shuffle.unit_order(len(self.wanted.units), seed=self.seed, epoch=epoch)
        return order, np.cumsum(self.wanted.counts[order])

    def places(
        self, lane: int, epoch: int, fill: int
    ) -> tuple[Int64[np.ndarray, " unit"], Int64[np.ndarray, "unit row"]]:
        """Return the units of a fill and where each of their rows comes in the lane; -1 nowhere.

        Units are numbered among the wanted ones.
        """
        part = self.batches.lane(lane, epoch)
        spread = self.spread(part.rows)
        at = spread.places(fill, seed=self.seed, epoch=epoch, lane=lane)
        at += part.begin
        start = part.skip + fill * spread.fill_rows
        order, ends = self._units(epoch)
        first = int(np.searchsorted(ends, start, side="right"))
        stop = int(np.searchsorted(ends, start + len(at), side="left")) + 1
        units = order[first:stop]
        marks = self.wanted.marks(units)
        before = start - (int(ends[first - 1]) if first else 0)
        found = np.full(marks.size, -1, np.int64)
        found[np.flatnonzero(marks)[before : before + len(at)]] = at
        return units, found.reshape(marks.shape)


class Window(ABC):
    """Rows of one lane in stored form, by their place in it."""

    @abstractmethod
    def seek(self, place: int, epoch: int) -> None:
        """Go to a place of an epoch."""

    @abstractmethod
    def hold(self, start: int, stop: int, *, keep: int) -> None:
        """Return when the rows of some places are in memory; forget those before `keep`.

        Raises:
            DamagedArtefactError: A chunk does not match its crc32c.
        """

    @abstractmethod
    def rows(
        self, path: str, start: int, stop: int, scratch: Shaped[np.ndarray, "_ ..."]
    ) -> Shaped[np.ndarray, "row ..."]:
        """Return held rows of an array in order, in the scratch buffer or where they lie."""


@dataclass(frozen=True)
class Fill:
    """A fill of a lane.

    Attributes:
        epoch: Of which epoch.
        number: Which one.
        start: Place of its first row in the lane.
        stop: The place after its last row's.
    """

    epoch: int
    number: int
    start: int
    stop: int


class Ring(Window):
    """The rows of a lane that are read and not delivered, each at its place modulo the length."""

    def __init__(
        self,
        store: ActivationStore,
        arrays: Mapping[str, ArraySpec],
        order: Order,
        *,
        lane: int,
        threads: int,
    ) -> None:
        """Allocate the memory; nothing is read.

        Args:
            store: Where the rows lie.
            arrays: What is read, by path.
            order: Where each row comes.
            lane: Which lane.
            threads: Fills are read by so many threads.
        """
        self._store = store
        self._order = order
        self._lane = lane
        batch = order.batches.batch_rows
        spread = order.spread(order.batches.lane(lane, 0).rows)
        # Two fills are read ahead of the window; a batch in use and the one before it are kept.
        needed = spread.window_rows + 2 * spread.fill_rows + 2 * batch
        self._length = -(-needed // batch) * batch
        self._arrays = dict(arrays)
        # The row after the last takes what nobody wants.
        self._rows = {p: pages((self._length + 1, *a.tail), a.stored) for p, a in arrays.items()}
        self._bytes = {path: as_bytes(rows) for path, rows in self._rows.items()}
        self._own = threading.local()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="saestore-stream")
        weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)
        self._under_way: deque[tuple[Fill, Future[None]]] = deque()
        self._coming: Iterator[Fill] = iter(())
        self._next: Fill | None = None
        self._from = 0

    @override
    def seek(self, place: int, epoch: int) -> None:
        for _, reading in self._under_way:
            reading.cancel()
        wait([reading for _, reading in self._under_way])
        self._under_way.clear()
        self._from = place
        self._coming = fills(self._order, self._lane, place, epoch)
        self._next = next(self._coming, None)

    @override
    def hold(self, start: int, stop: int, *, keep: int) -> None:
        while True:
            while self._next is not None and self._has_room(self._next, keep):
                reading = self._pool.submit(self._read, self._next)
                self._under_way.append((self._next, reading))
                self._next = next(self._coming, None)
            if not self._under_way or self._under_way[0][0].start >= stop:
                break
            self._under_way[0][1].result()
            self._under_way.popleft()
        if self._next is not None and self._next.start < stop:
            raise RuntimeError(f"rows {start} to {stop} do not fit into {self._length}")

    def _has_room(self, fill: Fill, keep: int) -> bool:
        """Return whether a fill may be read while rows from `keep` on stay.

        A place shares its memory with the one a length after it. Where batches of other ranks lie
        before `keep`, a fill that is under way may still write to them.
        """
        writing = self._under_way[0][0] if self._under_way else fill
        return fill.stop <= min(keep, writing.start) + self._length

    @override
    def rows(
        self, path: str, start: int, stop: int, scratch: Shaped[np.ndarray, "_ ..."]
    ) -> Shaped[np.ndarray, "row ..."]:
        ring, first, end = self._rows[path], start % self._length, (stop - 1) % self._length + 1
        if first < end:
            return ring[first:end]
        before = self._length - first
        scratch[:before] = ring[first : self._length]
        scratch[before : stop - start] = ring[:end]
        return scratch[: stop - start]

    def _read(self, fill: Fill) -> None:
        """Read the units of a fill and put their rows into their places."""
        units, places = self._order.places(self._lane, fill.epoch, fill.number)
        # What was delivered before the stream came here, and what nobody wants, goes beyond the end.
        targets = np.where(places >= self._from, places % self._length, self._length)
        size = self._order.wanted.unit_rows
        if not hasattr(self._own, "units"):
            self._own.units = {
                path: units_of(self._store, path, array, size)
                for path, array in self._arrays.items()
            }
        readers: dict[str, Units] = self._own.units
        # In the order of the store, which disks like.
        starts = self._order.wanted.units[units] * size
        order = np.argsort(starts)
        starts, targets = starts[order], targets[order]
        for path, reader in readers.items():
            reader.put(starts, targets, self._bytes[path])


def fills(order: Order, lane: int, place: int, epoch: int) -> Iterator[Fill]:
    """Yield the fills of a lane that have rows to deliver from a place of an epoch on.

    No method: the ring would hold a generator that holds the ring, and its memory stay until the
    next search for cycles.
    """
    while order.batches.epochs is None or epoch < order.batches.epochs:
        part = order.batches.lane(lane, epoch)
        spread = order.spread(part.rows)
        inside = max(place - part.begin, 0)
        first = spread.first_fill(inside) if inside < part.rows else spread.fills
        for number in range(first, spread.fills):
            start, stop = (part.begin + bound for bound in spread.bounds(number))
            yield Fill(epoch, number, start, stop)
        epoch += 1


class Resident(Window):
    """All wanted units of a store, read once; every batch is gathered from them."""

    def __init__(
        self,
        store: ActivationStore,
        arrays: Mapping[str, ArraySpec],
        order: Order,
        *,
        lane: int,
        threads: int,
    ) -> None:
        """Read nothing yet; see `Ring`."""
        self._store = store
        self._order = order
        self._lane = lane
        self._threads = threads
        self._arrays = dict(arrays)
        self._rows: dict[str, Shaped[np.ndarray, "row ..."]] | None = None
        self._index = lru_cache(maxsize=2)(partial(_index_of, order, lane))
        self._epoch = 0
        self._held: Int64[np.ndarray, " row"] = np.empty(0, np.int64)

    @override
    def seek(self, place: int, epoch: int) -> None:
        del place
        self._epoch = epoch

    @override
    def hold(self, start: int, stop: int, *, keep: int) -> None:
        del keep
        if self._rows is None:
            self._rows = self._load()
        found = []
        while start < stop:
            part = self._order.batches.lane(self._lane, self._epoch)
            if start >= part.begin + part.rows:
                self._epoch += 1
                continue
            index = self._index(self._epoch)
            found.append(index[start - part.begin : stop - part.begin])
            start += len(found[-1])
        self._held = np.concatenate(found)

    @override
    def rows(
        self, path: str, start: int, stop: int, scratch: Shaped[np.ndarray, "_ ..."]
    ) -> Shaped[np.ndarray, "row ..."]:
        if self._rows is None:
            raise RuntimeError("nothing is held yet")
        out = scratch[: stop - start]
        # With mode="raise" numpy would gather into a buffer of its own first.
        np.take(self._rows[path], self._held, axis=0, out=out, mode="clip")
        return out

    def _load(self) -> dict[str, Shaped[np.ndarray, "row ..."]]:
        wanted = self._order.wanted
        size = len(wanted.units) * wanted.unit_rows
        rows = {p: np.empty((size, *a.tail), a.stored) for p, a in self._arrays.items()}
        widest = max(array.grid.row_bytes for array in self._arrays.values())
        most = max(_PIECE // (widest * wanted.unit_rows), 1)
        # Neighbours are read together.
        breaks = np.flatnonzero(np.diff(wanted.units) != 1) + 1
        runs = np.split(np.arange(len(wanted.units)), breaks)
        pieces = [run[at : at + most] for run in runs for at in range(0, len(run), most)]

        def read(together: list[Int64[np.ndarray, " unit"]]) -> None:
            reads = []
            for piece in together:
                start = int(wanted.units[piece[0]]) * wanted.unit_rows
                stop = (int(wanted.units[piece[-1]]) + 1) * wanted.unit_rows
                stop = min(stop, self._store.n_rows)
                at = int(piece[0]) * wanted.unit_rows
                reads += [(p, start, stop, out[at : at + stop - start]) for p, out in rows.items()]
            self._store.read_many(reads)

        step = self._store.ranges_at_once
        groups = [pieces[at : at + step] for at in range(0, len(pieces), step)]
        with ThreadPoolExecutor(self._threads, thread_name_prefix="saestore-stream") as pool:
            for _ in pool.map(read, groups):
                pass
        return rows


def _index_of(order: Order, lane: int, epoch: int) -> Int64[np.ndarray, " row"]:
    """Return the row in memory of a resident store for each place of an epoch."""
    part = order.batches.lane(lane, epoch)
    index = np.empty(part.rows, np.int64)
    units, places = order.places(lane, epoch, 0)
    unit, row = np.nonzero(places >= 0)
    index[places[unit, row] - part.begin] = units[unit] * order.wanted.unit_rows + row
    return index
