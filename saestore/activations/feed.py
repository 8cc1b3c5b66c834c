"""The rows of one store on their way into the batches of a stream, alone or as one of a mix."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Shaped

from saestore.activations import neighbours, shuffle
from saestore.activations.batches import Dealing
from saestore.activations.choice import RowChoice, Wanted
from saestore.activations.row_numbers import RowNumbers
from saestore.activations.store import ActivationStore
from saestore.activations.tensors import Form, Held, Tensors
from saestore.activations.window import Order, Resident, Ring, Window
from saestore.errors import ConfigError
from saestore.lake import layout


Column = Literal["rows", "tokens", "flags"]
"""What a batch can hold of each row besides its activations: its number in the store, its token id,
its flags."""


class Mixed(NamedTuple):
    """How well the rows of one store are mixed.

    Attributes:
        window_rows: Rows among which a row is mixed.
        partners: Expected same-context partners of a row in its batch.
        inflation: Variance of a document-level feature's batch mean, as a multiple of the ideal.
    """

    window_rows: int
    partners: float
    inflation: float


class Feed:
    """One store's rows by lane and place, in stored form.

    Attributes:
        tensors: How they become tensors.
        columns: What is held besides, in int64, int32 and uint8.
        rows: Rows of an epoch.
    """

    def __init__(
        self,
        store: ActivationStore,
        hookpoints: Sequence[str],
        choice: RowChoice,
        *,
        dtype: Form,
        columns: Sequence[Column] = (),
        threads: int,
    ) -> None:
        """Find the rows; none is read.

        Args:
            store: Where they lie.
            hookpoints: What is wanted of each.
            choice: Which rows.
            dtype: The type of the tensors.
            columns: What is wanted besides.
            threads: Threads that read ahead.

        Raises:
            HookpointNotFoundError: The store lacks one of the hookpoints.
            ConfigError: The choice has no row, or a column has the name of a hookpoint.
        """
        taken = sorted(set(columns) & set(hookpoints))
        if taken:
            raise ConfigError(
                field="columns", found=taken, expected="names that are no hookpoint's of the batch"
            )
        self.tensors = Tensors(store, hookpoints, dtype)
        self.columns = tuple(columns)
        self._store, self._threads = store, threads
        # One unit of reading for all hookpoints: the longest of their chunks, powers of two all.
        # Columns have longer ones, and must not change the order.
        unit = max(array.grid.chunk_rows for array in self.tensors.arrays.values())
        read = {
            path: store.arrays[path] for path in (layout.TOKENS, layout.FLAGS) if path in columns
        }
        self._arrays = {**self.tensors.arrays, **read}
        self._wanted = Wanted.of(store, choice, unit_rows=unit)
        self.rows = self._wanted.rows
        contexts = choice.contexts(store)
        share = self.rows / int(contexts[:, 1].sum())
        self._met = neighbours.meetings(store, contexts, unit_rows=unit, wanted=share)

    def plan(self, batches: Dealing, *, window_rows: int, seed: int) -> None:
        """Set the order; windows that were in use are given up.

        Args:
            batches: How the rows are cut into batches and dealt to lanes.
            window_rows: Rows mixed at once, in each lane.
            seed: Of the order.
        """
        self._batches = batches
        self._order = Order(self._wanted, batches, window_rows=window_rows, seed=seed)
        self._windows: dict[int, Window] = {}
        self._numbers: dict[int, RowNumbers] = {}

    def mixed(self, batch_rows: int, *, lane: int = 0) -> Mixed:
        """Return how well batches with so many of its rows are mixed, in a lane."""
        spread = self._order.spread(self._batches.lane(lane, 0).rows)
        window, unit = min(spread.window_rows, self.rows), self._wanted.unit_rows
        met = shuffle.partners(
            self._met, spread, batch_rows=batch_rows, unit_rows=unit, rows=self.rows
        )
        inflated = shuffle.inflation(batch_rows=batch_rows, unit_rows=unit, window_rows=window)
        return Mixed(window, met, inflated)

    def seek(self, lane: int, place: int, epoch: int) -> None:
        """Go to a place of a lane, in an epoch of the store."""
        if lane not in self._windows:
            kind = Resident if self._order.fits else Ring
            self._windows[lane] = kind(
                self._store, self._arrays, self._order, lane=lane, threads=self._threads
            )
        self._windows[lane].seek(place, epoch)
        if "rows" in self.columns:
            self._numbers[lane] = RowNumbers(self._order, lane=lane)
            self._numbers[lane].seek(place, epoch)

    def scratch(self, rows: int) -> dict[str, Shaped[np.ndarray, "row ..."]]:
        """Return memory for so many rows of everything that is read."""
        return {p: np.empty((rows, *a.tail), a.stored) for p, a in self._arrays.items()}

    def hold(
        self,
        lane: int,
        span: tuple[int, int],
        *,
        keep: int | None,
        scratch: Mapping[str, Shaped[np.ndarray, "_ ..."]],
    ) -> Held:
        """Return the rows at some places of a lane, by array and column.

        Args:
            lane: Which lane.
            span: The first place and the one after the last, in the order of the stream.
            keep: Rows before this place are forgotten; None, all of the window's are, and what is
                returned lies in the scratch memory.
            scratch: Where rows are put that do not lie together.

        Raises:
            DamagedArtefactError: A chunk does not match its crc32c.
        """
        window, rows = self._windows[lane], span[1] - span[0]
        window.hold(*span, keep=span[0] if keep is None else keep)
        held = {path: window.rows(path, *span, scratch[path]) for path in self._arrays}
        if keep is None:
            for path, found in held.items():
                held[path] = scratch[path][:rows]
                if not np.may_share_memory(found, held[path]):
                    np.copyto(held[path], found)
        if "rows" in self.columns:
            held["rows"] = self._numbers[lane].of(*span)
        return held
