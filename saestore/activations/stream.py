"""Rows on their way to a trainer: an endless, shuffled, resumable stream of batches.

The rows of an epoch come in the order of `shuffle`; epochs follow each other without a seam, so a
batch may hold the last rows of one epoch and the first of the next. No row is dropped or repeated:
after n batches exactly the first n * batch_rows rows of the sequence were delivered. The position is
that one number, and the sequence is a pure function of the store's sizes, split, seed and window, so
a stream set to a position yields what an uninterrupted one would have.

Windows are read into kept buffers in stored form; rows are gathered and decoded into kept output
buffers, because copying into fresh memory costs several times the copy itself. If the split does not
fit into the window, the window's memory is two buffers: a thread fills one while the other is drained.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from saestore.activations import codecs, shuffle
from saestore.activations.split import Split
from saestore.activations.store import ActivationStore, Read
from saestore.errors import ConfigError
from saestore.lake import layout


LARGEST_WINDOW = 1 << 20
"""Rows of the default window: 1 Mi rows mix 256-row chunks to about one same-context partner."""
_MEMORY_SHARE = 4
"""The default window takes at most one part in so many of the machine's memory."""
_BUFFERS = 2
"""Output buffers in turn: the batch before the newest stays valid."""


class _Window:
    """One buffer: the chunks of a window in stored form, and the order its rows are delivered in.

    Attributes:
        place: Epoch and window it holds.
        chunks: The chunks in `rows`, one after the other.
        rows: Stored rows of each array, by path.
        order: Places in `rows` in the order of delivery.
    """

    def __init__(self, rows: Mapping[str, Shaped[np.ndarray, "row ..."]]) -> None:
        self.place = (-1, -1)
        self.chunks: Int64[np.ndarray, " chunk"] = np.empty(0, np.int64)
        self.rows = rows
        self.order: Int64[np.ndarray, " row"] = np.empty(0, np.int64)


class ActivationStream:
    """Batches of rows, the same for the same arguments.

    A batch maps each hookpoint to a float32 tensor [batch_rows, width]. The tensors are kept
    buffers: a batch stays valid until the next but one is asked for.

    Attributes:
        rows_per_epoch: Rows of the split.
        window_rows: Rows mixed in memory at once.
        mixing: Expected same-context partners of a row in its batch; 0 is perfect.
        position: Batches delivered.
    """

    def __init__(
        self,
        store: ActivationStore,
        hookpoints: Sequence[str],
        *,
        batch_rows: int,
        seed: int,
        split: Split = "all",
        held_out: float = 0.0,
        window_rows: int | None = None,
    ) -> None:
        """Plan the stream; rows are read when the first batch is asked for.

        Args:
            store: Where the rows lie.
            hookpoints: Which hookpoints a batch holds.
            batch_rows: Rows in a batch.
            seed: Order of the rows, 0 or more.
            split: Which contexts.
            held_out: Share of contexts held out.
            window_rows: Rows mixed at once; absent, as many as the default allows.

        Raises:
            HookpointNotFoundError: The store lacks one of the hookpoints.
            ConfigError: The split has no row, or a size is below 1.
        """
        if batch_rows < 1 or (window_rows is not None and window_rows < 1):
            raise ConfigError(
                field="activations.batch_rows" if batch_rows < 1 else "activations.window_rows",
                found=batch_rows if batch_rows < 1 else window_rows,
                expected="1 or more",
            )
        self._store = store
        self._paths = {name: store.array_of(name) for name in hookpoints}
        arrays = store.spec.arrays()
        self._arrays = {path: arrays[path] for path in self._paths.values()}
        self._scales: dict[str, str] = {}
        if store.spec.dtype == "int8":
            self._scales = {name: layout.scale_array(name) for name in hookpoints}
            self._arrays |= {path: arrays[path] for path in self._scales.values()}
        # One unit of reading for all hookpoints: the longest of their chunks, powers of two all.
        self._unit = max(array.grid.chunk_rows for array in self._arrays.values())
        self._batch_rows = batch_rows
        self._seed = seed
        self._kept = store.kept(split, held_out)
        starts = np.arange(0, store.n_rows, self._unit)
        self._per_unit = np.add.reduceat(self._kept, starts, dtype=np.int64)
        self._units = np.flatnonzero(self._per_unit)
        self.rows_per_epoch = int(self._per_unit.sum())
        if self.rows_per_epoch == 0:
            raise ConfigError(
                field="activations",
                found=f"no kept row in split {split!r} of {store.ref.name!r}",
                expected="at least one row",
                hint="use a larger store, or another share for activations.held_out",
            )
        row_bytes = sum(array.grid.row_bytes for array in self._arrays.values())
        self._met = shuffle.meetings(store.contexts(), chunk_rows=self._unit)
        self.position = 0
        self._plan_windows(window_rows or default_window(row_bytes))
        self._outputs = [
            {name: torch.empty(batch_rows, store.hookpoints[name].width) for name in hookpoints}
            for _ in range(_BUFFERS)
        ]
        self._gathered = {
            path: np.empty((batch_rows, *array.tail), array.stored)
            for path, array in self._arrays.items()
        }

    def _plan_windows(self, budget: int) -> None:
        """Cut the epoch into windows for which `budget` rows of memory suffice."""
        self._budget = budget
        self._fits = len(self._units) * self._unit <= budget
        self._width = len(self._units)
        if not self._fits:
            self._width = min(max(budget // 2 // self._unit, 1), self._width)
        self.window_rows = min(self._width * self._unit, self._store.n_rows)
        self.mixing = shuffle.partners(
            self._met,
            batch_rows=self._batch_rows,
            window_rows=self.window_rows,
            chunk_rows=self._unit,
            store_rows=self._store.n_rows,
        )
        self._windows: list[_Window] = []
        self._filling: Future[_Window] | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._order = lru_cache(maxsize=2)(self._draw_order)
        self._ends = lru_cache(maxsize=2)(self._find_ends)

    def state_dict(self) -> dict[str, int]:
        """Return the position, and what the sequence depends on; see `load_state_dict`."""
        return {
            "position": self.position,
            "batch_rows": self._batch_rows,
            "seed": self._seed,
            "rows_per_epoch": self.rows_per_epoch,
            "window_rows": self._budget,
        }

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go to a saved position.

        The saved window is taken over: the default depends on the machine's memory, and with
        another window the remaining batches would be others.

        Raises:
            ConfigError: It was saved by a stream of another sequence: batch size, seed or rows.
        """
        mine = self.state_dict()
        for name in ("batch_rows", "seed", "rows_per_epoch"):
            if state[name] != mine[name]:
                raise ConfigError(
                    field=f"activations.{name}",
                    found=mine[name],
                    expected=f"{state[name]}, as when the position was saved",
                    hint="resume with the settings and the store the run was started with",
                )
        if state["window_rows"] != self._budget:
            self._plan_windows(state["window_rows"])
        self.position = state["position"]

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Return the endless stream itself."""
        return self

    def __next__(self) -> dict[str, Tensor]:
        """Return the next batch.

        Raises:
            DamagedArtefactError: A chunk does not match its crc32c.
        """
        out = self._outputs[self.position % _BUFFERS]
        filled = 0
        place = self.position * self._batch_rows
        while filled < self._batch_rows:
            epoch, inside = divmod(place + filled, self.rows_per_epoch)
            ends = self._ends(epoch)
            number = int(np.searchsorted(ends, inside, side="right"))
            window = self._window(epoch, number)
            start = inside - (int(ends[number - 1]) if number else 0)
            rows = window.order[start : start + self._batch_rows - filled]
            self._gather(window, rows, out, filled)
            filled += len(rows)
        self.position += 1
        return out

    def _draw_order(self, epoch: int) -> Int64[np.ndarray, " chunk"]:
        """Return the units of an epoch in order; those without a row to deliver are left out."""
        order = shuffle.chunk_order(len(self._units), seed=self._seed, epoch=epoch)
        return np.take(self._units, order)

    def _find_ends(self, epoch: int) -> Int64[np.ndarray, " window"]:
        """Return the running number of rows after each window of an epoch."""
        starts = np.arange(0, len(self._units), self._width)
        return np.cumsum(np.add.reduceat(self._per_unit[self._order(epoch)], starts))

    def _window(self, epoch: int, number: int) -> _Window:
        """Return a window, filled; begin to fill the one after it."""
        if not self._windows:
            self._windows = [self._buffer() for _ in range(1 if self._fits else 2)]
        now = self._windows[0]
        if now.place == (epoch, number):
            return now
        if self._fits:
            return self._fill(now, epoch, number)
        if self._filling is not None:
            filling, self._filling = self._filling, None
            filling.result()
            self._windows.reverse()
        if self._windows[0].place != (epoch, number):  # the first, or a jump
            self._fill(self._windows[0], epoch, number)
        following = (epoch, number + 1)
        if number + 1 == len(self._ends(epoch)):
            following = (epoch + 1, 0)
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="saestore-stream")
        self._filling = self._thread.submit(self._fill, self._windows[1], *following)
        return self._windows[0]

    def _buffer(self) -> _Window:
        rows = self._width * self._unit
        return _Window(
            {p: np.empty((rows, *array.tail), array.stored) for p, array in self._arrays.items()}
        )

    def _fill(self, window: _Window, epoch: int, number: int) -> _Window:
        """Read a window's units where they are not in the buffer already, and draw its order."""
        window.place = (-1, -1)
        chunks = shuffle.window_chunks(self._order(epoch), number, width=self._width)
        if not np.array_equal(chunks, window.chunks):
            window.chunks = np.empty(0, np.int64)
            self._store.read_many(
                read
                for path, rows in window.rows.items()
                for read in self._reads(path, chunks, rows)
            )
            window.chunks = chunks
        wanted = np.zeros((len(chunks), self._unit), np.bool_)
        for place, chunk in enumerate(chunks):
            kept = self._kept[chunk * self._unit : (chunk + 1) * self._unit]
            wanted[place, : len(kept)] = kept
        window.order = shuffle.window_rows(wanted.ravel(), number, seed=self._seed, epoch=epoch)
        window.place = (epoch, number)
        return window

    def _reads(
        self, path: str, chunks: Int64[np.ndarray, " chunk"], out: Shaped[np.ndarray, "row ..."]
    ) -> Iterator[Read]:
        """Return what reads ascending units, neighbours together."""
        runs = np.split(np.arange(len(chunks)), np.flatnonzero(np.diff(chunks) != 1) + 1)
        for run in runs:
            start = int(chunks[run[0]]) * self._unit
            stop = min((int(chunks[run[-1]]) + 1) * self._unit, self._store.n_rows)
            at = int(run[0]) * self._unit
            yield path, start, stop, out[at : at + stop - start]

    def _gather(
        self,
        window: _Window,
        rows: Int64[np.ndarray, " row"],
        out: Mapping[str, Tensor],
        filled: int,
    ) -> None:
        for name, path in self._paths.items():
            target = out[name][filled : filled + len(rows)]
            exact = self._store.spec.dtype == "float32"
            stored = target.numpy() if exact else self._gathered[path][: len(rows)]
            # With mode="raise" numpy would gather into a buffer of its own first.
            np.take(window.rows[path], rows, axis=0, out=stored, mode="clip")
            if name in self._scales:
                beside = self._scales[name]
                scales = self._gathered[beside][: len(rows)]
                np.take(window.rows[beside], rows, axis=0, out=scales, mode="clip")
                deviations = self._store.deviations(name)
                codecs.dequantise(stored, scales, deviations, out=target.numpy())
            elif not exact:
                bits = torch.from_numpy(stored)
                values = bits if self._store.spec.dtype == "float16" else bits.view(torch.bfloat16)
                target.copy_(values)


def default_window(row_bytes: int) -> int:
    """Return the rows of a window that nobody chose: 1 Mi, or what a quarter of memory holds."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):  # not every system says
        return LARGEST_WINDOW
    return max(min(LARGEST_WINDOW, memory // _MEMORY_SHARE // row_bytes), 1)
