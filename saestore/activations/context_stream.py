"""Whole contexts on their way to a reader of sequences: in store order or shuffled, resumable.

A batch is a number of contexts, ragged rows one context after the other, with tokens, positions,
flags and segments. Contexts in store order are neighbours and are read straight into the batch;
shuffled ones are drawn from the whole store, and each reads the chunks it touches: for contexts
shorter than a chunk that is more than their own rows. Batches are read ahead by threads into kept
memory. The position is one number, as in `stream`.
"""

import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import ClassVar

import numpy as np
from jaxtyping import Int32, Int64, Shaped, UInt8
from torch import Tensor
from typing_extensions import override

from saestore.activations import shuffle
from saestore.activations.batches import Batches, Last
from saestore.activations.choice import RowChoice
from saestore.activations.position import Positioned, Saved
from saestore.activations.split import Split
from saestore.activations.store import ActivationStore
from saestore.activations.tensors import Form, Tensors
from saestore.errors import ConfigError
from saestore.lake import layout


_KEPT_CHUNKS = 64
"""Chunks of tokens and of flags that are kept: they are long, and contexts are not."""


@dataclass(frozen=True)
class ContextBatch:
    """Some contexts, whole.

    Attributes:
        contexts: Their numbers in the store.
        offsets: Where each begins among the rows, and where the last ends.
        hooks: Rows of each hookpoint.
        tokens: Token id of each row.
        positions: Place of each row in its context.
        flags: Flags of each row; no row is left out.
        segments: Index of the context in the batch, start, length, document, token offset and
            character offset of each segment.
    """

    contexts: Int64[np.ndarray, " context"]
    offsets: Int64[np.ndarray, " _"]
    hooks: Mapping[str, Tensor]
    tokens: Int32[np.ndarray, " row"]
    positions: Int64[np.ndarray, " row"]
    flags: UInt8[np.ndarray, " row"]
    segments: Int64[np.ndarray, "segment 6"]


class ContextStream(Positioned):
    """Batches of whole contexts, the same for the same arguments.

    The tensors of a batch stay valid until the next but one is asked for.

    Attributes:
        contexts_per_epoch: Contexts of the split that begin and end in the range.
        position: Batches that all ranks together have delivered.
    """

    section: ClassVar[str] = "contexts"

    def __init__(
        self,
        store: ActivationStore,
        hookpoints: Sequence[str],
        *,
        batch_contexts: int,
        seed: int | None = None,
        split: Split = "all",
        held_out: float = 0.0,
        rows: tuple[int, int] | None = None,
        dtype: Form = "float32",
        last: Last = "short",
        epochs: int | None = 1,
        rank: int = 0,
        world: int = 1,
        threads: int = 2,
    ) -> None:
        """Plan the stream; rows are read when the first batch is asked for.

        Args:
            store: Where the contexts lie.
            hookpoints: Which hookpoints a batch holds.
            batch_contexts: Contexts in a batch.
            seed: Order of the contexts; absent, as they are stored.
            split: Which contexts.
            held_out: Share of contexts held out.
            rows: Only contexts within this range of rows; absent, all.
            dtype: float32, or the type they are stored in, which costs no conversion.
            last: What becomes of an epoch's contexts that do not fill a batch.
            epochs: After how many epochs the stream ends; absent, never.
            rank: Which of the processes this one is: it gets the batches rank, rank + world, ….
            world: How many processes share the sequence.
            threads: Threads that read ahead.

        Raises:
            HookpointNotFoundError: The store lacks one of the hookpoints.
            ConfigError: There is no such context, or a size is below 1.
        """
        super().__init__(rank, world)
        self._store = store
        self._tensors = Tensors(store, hookpoints, dtype)
        self._table = store.contexts()
        self._chosen = RowChoice(split, held_out, rows).whole_contexts(store)
        self.contexts_per_epoch = len(self._chosen)
        if not len(self._chosen):
            raise ConfigError(
                field="activations",
                found=f"no context in split {split!r} of {store.ref.name!r}",
                expected="at least one context within the range",
            )
        self._batches = Batches(self.contexts_per_epoch, batch_contexts, last, epochs)
        self._seed = seed
        self._world = world
        self._segments = store.segments()
        self._order = lru_cache(maxsize=2)(partial(_ordered, self._chosen, seed))
        self._chunk = lru_cache(maxsize=2 * _KEPT_CHUNKS)(store.read_chunk)
        self._grids = {p: a.grid for p, a in store.spec.arrays().items()}
        self._most = int(np.sort(self._table[self._chosen, 1])[-batch_contexts:].sum())
        # Each thread fills one and finds another waiting; the newest batch and the one before stay.
        self._ahead = threads + 1
        self._memory = [self._tensors.stored(0)] * (self._ahead + 2)
        self._outputs: list[dict[str, Tensor]] = []
        self._coming: deque[tuple[int, Future[ContextBatch]]] = deque()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="saestore-contexts")
        weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)

    @property
    @override
    def _total(self) -> int | None:
        """Batches of the whole sequence."""
        return self._batches.count

    @override
    def _sequence(self) -> Saved:
        """Return what the sequence depends on."""
        return {
            "batch_contexts": self._batches.batch_rows,
            "seed": self._seed,
            "contexts_per_epoch": self.contexts_per_epoch,
            "last": self._batches.last,
        }

    def __iter__(self) -> Iterator[ContextBatch]:
        """Return the stream itself."""
        return self

    def __next__(self) -> ContextBatch:
        """Return the next batch of this rank.

        Raises:
            StopIteration: All epochs are over.
            DamagedArtefactError: A chunk does not match its crc32c.
        """
        mine = self._due()
        if not self._outputs:
            self._memory = [self._tensors.stored(self._most) for _ in self._memory]
            rows = self._most if self._tensors.converts else 0
            self._outputs = [self._tensors.outputs(rows) for _ in self._memory]
        if self._coming and self._coming[0][0] != mine:  # a jump: nothing of it may be written over
            for _, reading in self._coming:
                reading.cancel()
            for _, reading in self._coming:
                if not reading.cancelled():
                    reading.exception()
            self._coming.clear()
        ahead = self._coming[-1][0] + self._world if self._coming else mine
        while len(self._coming) < self._ahead and self._exists(ahead):
            self._coming.append((ahead, self._pool.submit(self._read, ahead)))
            ahead += self._world
        batch = self._coming[0][1].result()
        self._coming.popleft()
        self.position = self._rank.after(mine)
        return batch

    def _exists(self, batch: int) -> bool:
        return self._batches.count is None or batch < self._batches.count

    def _read(self, batch: int) -> ContextBatch:
        """Read one batch into the memory whose turn it is."""
        turn = batch // self._world % len(self._memory)
        contexts = self._contexts(batch)
        starts, lengths = self._table[contexts, 0], self._table[contexts, 1]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        rows = int(offsets[-1])
        memory = self._memory[turn]
        # Neighbours are read together.
        breaks = np.flatnonzero(starts[1:] != starts[:-1] + lengths[:-1]) + 1
        firsts, lasts = [0, *breaks.tolist()], [*(breaks - 1).tolist(), len(starts) - 1]
        at = offsets[firsts].tolist()
        begin = starts[firsts].tolist()
        end = (starts[lasts] + lengths[lasts]).tolist()
        runs = list(zip(at, begin, end, strict=True))
        self._store.read_many(
            (path, start, stop, held[place : place + stop - start])
            for path, held in memory.items()
            for place, start, stop in runs
        )
        held = {path: each[:rows] for path, each in memory.items()}
        hooks = {
            name: self._tensors.into(name, held, self._outputs[turn][name][:rows])
            if self._tensors.converts
            else self._tensors.view(name, held)
            for name in self._tensors.paths
        }
        positions = np.arange(rows)
        positions -= np.repeat(offsets[:-1], lengths)
        return ContextBatch(
            contexts,
            offsets,
            hooks,
            self._column(layout.TOKENS, runs).astype(np.int32, copy=False),
            positions,
            self._column(layout.FLAGS, runs).astype(np.uint8, copy=False),
            self._segments_of(contexts),
        )

    def _contexts(self, batch: int) -> Int64[np.ndarray, " context"]:
        """Return the contexts of a batch, which may cross the end of epochs."""
        _, place, stop = self._batches.span(batch)
        epoch = self._batches.epoch_of(batch)
        found = []
        while place < stop:
            part = self._batches.lane(0, epoch)
            order = self._order(epoch)[: part.rows]
            found.append(order[place - part.begin : stop - part.begin])
            place += len(found[-1])
            epoch += 1
        return np.concatenate(found)

    def _column(
        self, path: str, runs: Sequence[tuple[int, int, int]]
    ) -> Shaped[np.ndarray, " row"]:
        """Return one number of each row of some ranges, from chunks kept for the next batches."""
        size = self._grids[path].chunk_rows
        found = []
        for _, row, stop in runs:
            while row < stop:
                chunk, within = divmod(row, size)
                found.append(self._chunk(path, chunk)[within : within + stop - row])
                row = (chunk + 1) * size  # noqa: PLW2901 - the rest of the range
        return np.concatenate(found)

    def _segments_of(
        self, contexts: Int64[np.ndarray, " context"]
    ) -> Int64[np.ndarray, "segment 6"]:
        first = np.searchsorted(self._segments[:, 0], contexts, side="left")
        stop = np.searchsorted(self._segments[:, 0], contexts, side="right")
        rows = [np.arange(a, b) for a, b in zip(first, stop, strict=True)]
        found: Int64[np.ndarray, "segment 6"] = self._segments[np.concatenate(rows)]
        found[:, 0] = np.repeat(np.arange(len(contexts)), stop - first)
        return found


def _ordered(
    chosen: Int64[np.ndarray, " context"], seed: int | None, epoch: int
) -> Int64[np.ndarray, " context"]:
    """Return the contexts of an epoch in order."""
    if seed is None:
        return chosen
    return np.take(chosen, shuffle.unit_order(len(chosen), seed=seed, epoch=epoch))
