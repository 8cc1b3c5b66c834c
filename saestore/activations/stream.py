"""Rows on their way to a trainer: a shuffled, resumable stream of batches, endless unless told.

The rows of an epoch come in the order of `shuffle`, cut into batches by `batches`: both are pure
functions of the store's sizes, the choice of rows, seed, window and lanes, the same for any number
of threads and processes. The position is one number, so a stream set to a position yields what an
uninterrupted one would have, after reading one window.

**Ranks.** Process `rank` of `world` gets the batches rank, rank + world, … of the one global
sequence. What makes that cheaper than reading everything in every process is `lanes` (as many as
processes, unless said): lane l has the batches l, l + lanes, … and its own share of the units, in a
window of its own, so a process reads only the units of its lanes. The price: a row is mixed with the
rows of its lane only, and one process that reads all of a sequence with n lanes holds n windows. A
sequence made with 4 lanes is the same for 1, 2 and 4 processes, and the saved state carries `lanes`.
A store that fits into the window is read whole by each process, and mixed whole.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from typing_extensions import override

from saestore.activations.batches import Batches, Last
from saestore.activations.choice import RowChoice
from saestore.activations.feed import Column, Feed
from saestore.activations.position import Positioned, Saved, State, number
from saestore.activations.split import Split
from saestore.activations.store import ActivationStore
from saestore.activations.tensors import Form, Held
from saestore.errors import ConfigError


LARGEST_WINDOW = 1 << 20
"""Rows of the default window: 1 Mi rows mix 256-row chunks to about one same-context partner."""
_MEMORY_SHARE = 4
"""The default window takes at most one part in so many of the machine's memory."""
_BUFFERS = 2
"""Output buffers in turn: the batch before the newest stays valid."""


class ActivationStream(Positioned):
    """Batches of rows, the same for the same arguments.

    A batch maps each hookpoint to a tensor [batch_rows, width], and each column to a tensor
    [batch_rows]. The tensors are kept memory: a batch stays valid until the next but one is asked for.

    Attributes:
        rows_per_epoch: Rows of the split.
        window_rows: Rows among which a row is mixed.
        mixing: Expected same-context partners of a row in its batch; 0 is perfect.
        inflation: Variance of a document-level feature's batch mean, as a multiple of the ideal: 1 +
            B * C / W for batches of B rows, runs of C neighbours and a window of W.
        position: Batches of the global sequence that all ranks together have delivered.
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
        rows: tuple[int, int] | None = None,
        flags: int = 0,
        window_rows: int | None = None,
        dtype: Form = "float32",
        columns: Sequence[Column] = (),
        last: Last = "carry",
        epochs: int | None = None,
        rank: int = 0,
        world: int = 1,
        lanes: int | None = None,
        threads: int = 2,
    ) -> None:
        """Plan the stream; rows are read when the first batch is asked for.

        Args:
            store: Where the rows lie.
            hookpoints: Which hookpoints a batch holds; all from the same rows.
            batch_rows: Rows in a batch.
            seed: Order of the rows, 0 or more.
            split: Which contexts.
            held_out: Share of contexts held out.
            rows: First row of the store and the row after the last; absent, all.
            flags: Bits that the flags of a delivered row may have.
            window_rows: Rows mixed at once, in each lane; absent, as many as the default allows.
            dtype: float32, or the type they are stored in, which costs no conversion.
            columns: What a batch holds of each row besides: `rows`, its number in the store;
                `tokens`; `flags`. The rows and their order do not depend on it. A chunk of tokens or
                flags is as many bytes as one of activations and far more rows, so in a window smaller
                than the store each costs about as much reading as a hookpoint.
            last: What becomes of an epoch's rows that do not fill a batch.
            epochs: After how many epochs the stream ends; absent, never.
            rank: Which of the processes this one is, from 0.
            world: How many processes share the sequence.
            lanes: Parts of the store with a window of their own; absent, one per process.
            threads: Threads that read ahead; the order does not depend on it.

        Raises:
            HookpointNotFoundError: The store lacks one of the hookpoints.
            ConfigError: The choice has no row, or a size is below 1.
        """
        super().__init__(rank, world)
        if window_rows is not None and window_rows < 1:
            raise ConfigError(
                field="activations.window_rows", found=window_rows, expected="1 or more"
            )
        choice = RowChoice(split, held_out, rows, flags)
        self._feed = Feed(store, hookpoints, choice, dtype=dtype, columns=columns, threads=threads)
        self._tensors = self._feed.tensors
        self.rows_per_epoch = self._feed.rows
        self._seed = seed
        lanes = world if lanes is None else lanes
        self._batches = Batches(self.rows_per_epoch, batch_rows, last, epochs, lanes)
        held = len(self._rank.lanes(lanes))
        self._plan(window_rows or default_window(self._tensors.row_bytes * held))
        self._turn = 0
        converted = batch_rows if self._tensors.converts else 0
        self._outputs = [self._tensors.outputs(converted) for _ in range(_BUFFERS)]
        self._scratch = [self._feed.scratch(batch_rows) for _ in range(_BUFFERS)]

    def _plan(self, window_rows: int) -> None:
        """Set the order for a window of so many rows in each lane."""
        self._budget = window_rows
        self._feed.plan(self._batches, window_rows=window_rows, seed=self._seed)
        self._sought = False
        mixed = self._feed.mixed(self._batches.batch_rows)
        self.window_rows, self.mixing, self.inflation = mixed

    @property
    @override
    def _total(self) -> int | None:
        """Batches of the whole sequence."""
        return self._batches.count

    @override
    def _sequence(self) -> Saved:
        """Return what the sequence depends on."""
        return {
            "batch_rows": self._batches.batch_rows,
            "seed": self._seed,
            "rows_per_epoch": self.rows_per_epoch,
            "last": self._batches.last,
        }

    @override
    def _plans(self) -> Saved:
        """Return window and lanes: their defaults depend on the machine and on the number of processes."""
        return {"window_rows": self._budget, "lanes": self._batches.lanes}

    @override
    def _resumed(self, saved: State) -> None:
        """Take window and lanes over: with others the remaining batches would be others."""
        window, lanes = number(saved, "window_rows"), number(saved, "lanes")
        if (window, lanes) != (self._budget, self._batches.lanes):
            self._batches = replace(self._batches, lanes=lanes)
            self._plan(window)
        self._sought = False

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Return the stream itself."""
        return self

    def __next__(self) -> dict[str, Tensor]:
        """Return the next batch of this rank.

        Raises:
            StopIteration: All epochs are over.
            DamagedArtefactError: A chunk does not match its crc32c.
        """
        mine = self._due()
        if not self._sought:
            self._seek(mine)
        lane, start, stop = self._batches.span(mine)
        self._turn = (self._turn + 1) % _BUFFERS
        # The batch before the newest lies one before it in the window, or is no part of it.
        direct = self._batches.lanes % self._rank.world == 0
        keep = max(start - self._batches.batch_rows, 0) if direct else None
        held = self._feed.hold(lane, (start, stop), keep=keep, scratch=self._scratch[self._turn])
        out = {name: self._tensor(name, held, stop - start) for name in self._tensors.paths}
        out |= {column: torch.from_numpy(held[column]) for column in self._feed.columns}
        self.position = self._rank.after(mine)
        return out

    def _seek(self, batch: int) -> None:
        """Send each lane to this rank's first batch in it, from a batch on."""
        lanes = self._batches.lanes
        for lane in self._rank.lanes(lanes):
            first = self._rank.first_in(lane, lanes, batch)
            _, place, _ = self._batches.span(first)
            self._feed.seek(lane, place, self._batches.epoch_of(first))
        self._sought = True

    def _tensor(self, name: str, held: Held, rows: int) -> Tensor:
        """Return a hookpoint's rows: where they lie, if that is the type wanted."""
        if not self._tensors.converts:
            return self._tensors.view(name, held)
        return self._tensors.into(name, held, self._outputs[self._turn][name][:rows])


def default_window(row_bytes: int) -> int:
    """Return the rows of a window that nobody chose: 1 Mi, or what a quarter of memory holds."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):  # not every system says
        return LARGEST_WINDOW
    return max(min(LARGEST_WINDOW, memory // _MEMORY_SHARE // row_bytes), 1)
