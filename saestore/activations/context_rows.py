"""Rows on their way to a trainer that reads contexts: batches of rows, with the contexts around them.

The contexts of an epoch are permuted; their kept rows, one context after the other, are cut into
batches of equal size, across the end of epochs. A context that lies across a cut is read for both
batches, each of which wants its part. So every kept row is delivered once an epoch, a step has as
many rows as any other, and the position is the number of batches.

The price is mixing: the rows of a context are in one batch. Contexts are drawn from all of the
store, and for contexts shorter than a chunk that reads more than their own rows.
"""

import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial

import numpy as np
from jaxtyping import Int64
from torch import Tensor
from typing_extensions import override

from saestore.activations import shuffle
from saestore.activations.ahead import Runs, read_ahead
from saestore.activations.batches import Batches
from saestore.activations.choice import RowChoice
from saestore.activations.position import Positioned, Saved, State
from saestore.activations.store import ActivationStore
from saestore.activations.whole_contexts import RowsInContexts, Surroundings, WholeContexts
from saestore.errors import ConfigError


_THREADS = 2
"""Threads that read ahead, and batches that are read ahead."""
_KEPT = 2
"""Batches that stay valid: the newest, and the one before."""


class ContextRowStream(Positioned):
    """Batches of rows with their contexts, the same for the same arguments.

    The tensors of a batch stay valid until the next but one is asked for.

    Attributes:
        rows_per_epoch: Kept rows of the contexts of the split that lie in the range whole.
        window_rows: Rows among which a row's context is drawn: all.
        held_rows: Rows in memory at once, at most.
        mixing: Expected same-context partners of a row in its batch.
        inflation: Variance of a document-level feature's batch mean, as a multiple of the ideal.
        position: Batches that all ranks together have delivered.
    """

    def __init__(
        self,
        store: ActivationStore,
        hookpoints: Sequence[str],
        *,
        batch_rows: int,
        seed: int,
        choice: RowChoice,
        epochs: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Plan the stream; rows are read when the first batch is asked for.

        Args:
            store: Where the rows lie.
            hookpoints: Which hookpoints a batch holds.
            batch_rows: Wanted rows of a batch.
            seed: Order of the contexts, 0 or more.
            choice: Which contexts, and which of their rows are wanted.
            epochs: After how many epochs the stream ends; absent, never.
            rank: Which of the processes this one is: it gets the batches rank, rank + world, ….
            world: How many processes share the sequence.

        Raises:
            HookpointNotFoundError: The store lacks one of the hookpoints.
            ConfigError: The choice has no row, or the size is below 1.
            UnsupportedError: It is a scattered copy, in which no context's rows stand together.
        """
        super().__init__(rank, world)
        for hookpoint in hookpoints:
            store.array_of(hookpoint)
        self._store, self._hookpoints, self._seed = store, tuple(hookpoints), seed
        self._whole = WholeContexts(store)
        chosen = choice.whole_contexts(store)
        counts = self._count(choice)[chosen]
        self._chosen, self._counts = chosen[counts > 0], counts[counts > 0]
        self.rows_per_epoch = int(counts.sum())
        if not self.rows_per_epoch:
            raise ConfigError(
                field="activations",
                found=f"no kept row in whole contexts of split {choice.split!r} of {store.ref.name!r}",
                expected="at least one",
                hint="use a larger store, or another share for activations.held_out",
            )
        self._batches = Batches(self.rows_per_epoch, batch_rows, epochs=epochs)
        self.window_rows = self.rows_per_epoch
        self._most = self._longest_batch()
        self.held_rows = (_THREADS + _KEPT) * self._most
        squares = float(np.square(self._counts).sum())
        self.inflation = squares / self.rows_per_epoch
        self.mixing = self.inflation - 1
        # No cycle through self: with the last reference to a stream its threads end.
        self._epoch = lru_cache(maxsize=2)(partial(_permuted, self._counts, seed))
        self._reading: Iterator[RowsInContexts] | None = None

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
            "contexts_per_epoch": len(self._chosen),
        }

    @override
    def _resumed(self, saved: State) -> None:
        """Drop what was read ahead."""
        self._reading = None

    def __iter__(self) -> Iterator[RowsInContexts]:
        """Return the stream itself."""
        return self

    def __next__(self) -> RowsInContexts:
        """Return the next batch of this rank.

        Raises:
            StopIteration: All epochs are over.
            DamagedArtefactError: A chunk does not match its crc32c.
        """
        mine = self._due()
        if self._reading is None:
            self._reading = self._read(mine)
        batch = next(self._reading)
        self.position = self._rank.after(mine)
        return batch

    def _read(self, batch: int) -> Iterator[RowsInContexts]:
        """Return this rank's batches from one on, read ahead by threads that do not keep the stream alive."""
        own = weakref.proxy(self)
        read = partial(
            read_ahead, self._store, self._hookpoints, most=self._most, threads=_THREADS, kept=_KEPT
        )
        numbers = range(batch, self._batches.count or sys.maxsize, self._rank.world)

        def around(number: int) -> Surroundings:
            found: Surroundings = own.around(number)  # own.around itself would hold the stream
            return found

        return _ahead(numbers, around, read)

    def around(self, batch: int) -> Surroundings:
        """Return the contexts of a batch, and which of their rows it wants."""
        _, first, stop = self._batches.span(batch)
        rows, owners = [], []
        while first < stop:
            epoch, place = divmod(first, self.rows_per_epoch)
            order, ends = self._epoch(epoch)
            at = int(np.searchsorted(ends, place, side="right"))
            context = int(self._chosen[order[at]])
            skip = place - (int(ends[at]) - int(self._counts[order[at]]))
            found = self._rows_of(context)[skip : skip + stop - first]
            rows.append(found)
            owners.append(np.full(len(found), context))
            first += len(found)
        return self._whole.around(np.concatenate(rows), np.concatenate(owners))

    def _count(self, choice: RowChoice) -> Int64[np.ndarray, " context"]:
        """Keep a bit for each row that is wanted, and return how many each context has."""
        first, ends = self._whole.table[:, 0], self._whole.table.sum(axis=1)
        counts, bits = np.zeros(len(first), np.int64), [np.zeros(0, np.uint8)]
        for start, wanted in choice.wanted(self._store):  # pieces of whole bytes
            bits.append(np.packbits(wanted))
            before = np.concatenate([[0], np.cumsum(wanted)])
            inside = (np.clip(bound - start, 0, len(wanted)) for bound in (first, ends))
            low, high = inside
            counts += before[high] - before[low]
        self._kept = np.concatenate(bits)
        return counts

    def _rows_of(self, context: int) -> Int64[np.ndarray, " row"]:
        """Return the kept rows of a context, by their numbers in the store."""
        start, length = self._whole.table[context].tolist()
        first = start // 8
        bits = np.unpackbits(self._kept[first : -(-(start + length) // 8)])
        return np.asarray(start + np.flatnonzero(bits[start - 8 * first :][:length]), np.int64)

    def _longest_batch(self) -> int:
        """Return the rows that no batch's contexts exceed."""
        lengths = self._whole.table[self._chosen, 1]
        whole, part = divmod(self._batches.batch_rows, self.rows_per_epoch)
        # Those that are longest for their kept rows, at the end of an epoch and again at the start of the
        # next; one more at either end is cut.
        by_cost = np.argsort(-(lengths / self._counts), kind="stable").repeat(2)
        reached = int(np.searchsorted(np.cumsum(self._counts[by_cost]), part)) + 1
        return int(lengths[by_cost[:reached]].sum() + whole * lengths.sum() + 2 * lengths.max())


def _permuted(
    counts: Int64[np.ndarray, " context"], seed: int, epoch: int
) -> tuple[Int64[np.ndarray, " context"], Int64[np.ndarray, " context"]]:
    """Return the order of the contexts in an epoch, and how many rows are delivered after each."""
    order = shuffle.unit_order(len(counts), seed=seed, epoch=epoch)
    return order, np.cumsum(counts[order])


def _ahead(
    numbers: Iterable[int],
    around: Callable[[int], Surroundings],
    read: Callable[[Iterator[Runs]], Iterator[dict[str, Tensor]]],
) -> Iterator[RowsInContexts]:
    """Yield some batches, each read before it is asked for."""
    planned: list[Surroundings] = []

    def coming() -> Iterator[Runs]:
        for number in numbers:
            planned.append(around(number))
            yield planned[-1].runs

    for hooks in read(coming()):
        yield RowsInContexts(hooks, planned.pop(0))
