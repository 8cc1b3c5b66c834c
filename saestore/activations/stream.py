"""Rows on their way to a trainer: an endless, shuffled, resumable stream of batches.

The rows of an epoch come in the order of `shuffle`; epochs follow each other without a seam, so a
batch may hold the last rows of one epoch and the first of the next. No row is dropped or repeated:
after n batches exactly the first n * batch_rows rows of the sequence were delivered. The position is
that one number, and the sequence is a pure function of the store's sizes, split, seed and window, so
a stream set to a position yields what an uninterrupted one would have.

A window is read into one kept buffer in stored form; rows are gathered and decoded into kept output
buffers. Copying into fresh memory would cost several times the copy itself.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from saestore.activations import codecs, shuffle
from saestore.activations.split import Split
from saestore.activations.store import ActivationStore
from saestore.errors import ConfigError


LARGEST_WINDOW = 1 << 20
"""Rows of the default window: 1 Mi rows mix 256-row chunks to about one same-context partner."""
_MEMORY_SHARE = 4
"""The default window takes at most one part in so many of the machine's memory."""
_BUFFERS = 2
"""Output buffers in turn: the batch before the newest stays valid."""


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
            ConfigError: The split has no row.
        """
        paths = [store.array_of(name) for name in hookpoints]
        arrays = store.spec.arrays()
        self._store = store
        self._paths = dict(zip(hookpoints, paths, strict=True))
        # One unit of reading for all hookpoints: the longest of their chunks, powers of two all.
        self._unit = max(arrays[path].grid.chunk_rows for path in paths)
        self._batch_rows = batch_rows
        self._seed = seed
        self._kept = store.kept(split, held_out)
        self.rows_per_epoch = int(self._kept.sum())
        if self.rows_per_epoch == 0:
            raise ConfigError(
                field="activations",
                found=f"no kept row in split {split!r} of {store.ref.name!r}",
                expected="at least one row",
                hint="use a larger store, or another share for activations.held_out",
            )
        row_bytes = sum(arrays[path].grid.row_bytes for path in paths)
        self._chunks = -(-store.n_rows // self._unit)
        self._use_window(window_rows or default_window(row_bytes))
        self.position = 0
        self._held: tuple[int, ...] | None = None
        self._window: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {}
        self._outputs = [
            {name: torch.empty(batch_rows, store.hookpoints[name].width) for name in hookpoints}
            for _ in range(_BUFFERS)
        ]
        self._gathered: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {}
        self._plan = lru_cache(maxsize=2)(self._epoch_plan)
        self._drawn = lru_cache(maxsize=2)(self._draw)

    def _use_window(self, rows: int) -> None:
        """Mix so many rows at once, in whole units of reading."""
        self._width = min(max(rows // self._unit, 1), self._chunks)
        self.window_rows = min(self._width * self._unit, self._store.n_rows)
        self.mixing = shuffle.partners(
            batch_rows=self._batch_rows,
            window_rows=self.window_rows,
            chunk_rows=self._unit,
            context_rows=self._store.n_rows / max(self._store.n_contexts, 1),
            store_rows=self._store.n_rows,
        )

    def state_dict(self) -> dict[str, int]:
        """Return the position, from which `load_state_dict` continues."""
        return {
            "position": self.position,
            "batch_rows": self._batch_rows,
            "window_rows": self._width * self._unit,
        }

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go to a saved position, with the window it was saved with.

        The default window follows the machine's memory, and the order follows the window: a run
        that is continued elsewhere keeps its order.

        Raises:
            ConfigError: It was saved by a stream with another batch size.
        """
        if state["batch_rows"] != self._batch_rows:
            raise ConfigError(
                field="activations.batch_rows",
                found=self._batch_rows,
                expected=f"{state['batch_rows']}, as when the position was saved",
                hint="resume with the settings the run was started with",
            )
        self.position = state["position"]
        self._use_window(state["window_rows"])
        self._held, self._window = None, {}
        self._plan.cache_clear()
        self._drawn.cache_clear()

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
            ends = self._plan(epoch)
            window = int(np.searchsorted(ends, inside, side="right"))
            order = self._drawn(epoch, window)
            start = inside - (int(ends[window - 1]) if window else 0)
            rows = order[start : start + self._batch_rows - filled]
            self._load(epoch, window)
            self._gather(rows, out, filled)
            filled += len(rows)
        self.position += 1
        return out

    def _epoch_plan(self, epoch: int) -> Int64[np.ndarray, " window"]:
        """Return the running number of rows after each window of an epoch."""
        per_chunk = np.add.reduceat(
            self._kept, np.arange(0, len(self._kept), self._unit), dtype=np.int64
        )
        order = shuffle.chunk_order(self._chunks, seed=self._seed, epoch=epoch)
        starts = np.arange(0, self._chunks, self._width)
        return np.cumsum(np.add.reduceat(per_chunk[order], starts))

    def _chunks_of(self, epoch: int, window: int) -> Int64[np.ndarray, " chunk"]:
        order = shuffle.chunk_order(self._chunks, seed=self._seed, epoch=epoch)
        return shuffle.window_chunks(order, window, width=self._width)

    def _draw(self, epoch: int, window: int) -> Int64[np.ndarray, " row"]:
        wanted = np.zeros((self._width, self._unit), bool)
        for place, chunk in enumerate(self._chunks_of(epoch, window)):
            rows: Bool[np.ndarray, " row"] = self._kept[
                chunk * self._unit : (chunk + 1) * self._unit
            ]
            wanted[place, : len(rows)] = rows
        return shuffle.window_rows(wanted.ravel(), window, seed=self._seed, epoch=epoch)

    def _load(self, epoch: int, window: int) -> None:
        chunks = self._chunks_of(epoch, window)
        if tuple(chunks) == self._held:
            return
        self._held = None
        arrays = self._store.spec.arrays()
        for path in self._paths.values():
            array = arrays[path]
            if path not in self._window:
                shape = (self._width * self._unit, *array.tail)
                self._window[path] = np.empty(shape, array.stored)
            buffer, rows = self._window[path], array.grid.chunk_rows
            for place, chunk in enumerate(chunks):
                for part in range(self._unit // rows):
                    number = int(chunk) * (self._unit // rows) + part
                    if number * rows >= self._store.n_rows:
                        break
                    at = place * self._unit + part * rows
                    buffer[at : at + rows] = self._store.read_chunk(path, number)
        self._held = tuple(chunks)

    def _gather(
        self, rows: Int64[np.ndarray, " row"], out: Mapping[str, Tensor], filled: int
    ) -> None:
        for name, path in self._paths.items():
            window = self._window[path]
            if path not in self._gathered:
                shape = (self._batch_rows, *window.shape[1:])
                self._gathered[path] = np.empty(shape, window.dtype)
            stored = self._gathered[path][: len(rows)]
            np.take(window, rows, axis=0, out=stored, mode="clip")
            target = out[name].numpy()[filled : filled + len(rows)]
            codecs.decode(stored, self._store.spec.dtype, out=target)


def default_window(row_bytes: int) -> int:
    """Return the rows of a window that nobody chose: 1 Mi, or what a quarter of memory holds."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):  # not every system says
        return LARGEST_WINDOW
    return max(min(LARGEST_WINDOW, memory // _MEMORY_SHARE // row_bytes), 1)
