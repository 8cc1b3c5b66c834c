"""Several stores in one stream, each with its weight.

Every row of the mixed sequence belongs to one source, by a pattern that depends on the weights
alone and repeats: after any number of rows each source has had its share within one row. A batch
holds each source's rows one source after the other; which rows they are is the source's own order,
with epochs of its own. The position is one number; ranks and lanes are as in `stream`, for each source.

**An epoch of a mix** is as many rows as its sources have together. A source with more than its share
of them is not delivered whole in it, and goes on in the next; one with less comes again. Where the
weights are in proportion to the rows, each row comes once. `mixed_batches` says how epochs are cut.

Source: Balinski and Young 1975, The quota method of apportionment: seats are given one by one, never
taken back, and never leave a share's floor and ceiling.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import gcd, lcm
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from typing_extensions import override

from saestore.activations.batches import Batches, Last
from saestore.activations.choice import RowChoice
from saestore.activations.feed import Column, Feed
from saestore.activations.mixed_batches import SourceBatches
from saestore.activations.position import Positioned, Saved, State, number
from saestore.activations.store import ActivationStore
from saestore.activations.stream import default_window
from saestore.activations.tensors import Form, Held
from saestore.errors import ConfigError


MixedColumn = Literal["rows", "tokens", "flags", "sources"]
"""What a batch can hold of each row besides its activations: `Column`, where `rows` are numbers in the
row's own store; and `sources`, which of the sources it is of."""

_LONGEST = 100_000
"""Rows after which the pattern must repeat."""
_BUFFERS = 2
"""Output buffers in turn: the batch before the newest stays valid."""


@dataclass(frozen=True)
class Source:
    """One store of a mix.

    Attributes:
        store: Where the rows lie.
        weight: Its share of the rows is this over the sum of all weights.
        choice: Which of its rows.
    """

    store: ActivationStore
    weight: float
    choice: RowChoice = field(default_factory=RowChoice)


def pattern(weights: Sequence[float]) -> Int64[np.ndarray, " row"]:
    """Return the source of each row until the pattern repeats.

    Raises:
        ConfigError: A weight is not above 0, or they have no short common measure.
    """
    exact = [Fraction(repr(float(weight))) for weight in weights]
    if not exact or min(exact) <= 0:
        raise ConfigError(
            field="activations.sources", found=list(weights), expected="weights above 0"
        )
    whole = lcm(*(weight.denominator for weight in exact))
    counts = [int(weight * whole) for weight in exact]
    counts = [count // gcd(*counts) for count in counts]
    if sum(counts) > _LONGEST:
        raise ConfigError(
            field="activations.sources",
            found=list(weights),
            expected=f"weights whose shares repeat within {_LONGEST} rows",
            hint="round the weights to few digits",
        )
    wanted = np.array(counts, np.int64)
    had = np.zeros_like(wanted)
    order = np.empty(int(wanted.sum()), np.int64)
    for row in range(len(order)):
        # Of those whose share is not passed, the one that has waited longest for its weight.
        eligible = had * len(order) < wanted * (row + 1)
        order[row] = int(np.argmax(np.where(eligible, wanted / (had + 1), -1.0)))
        had[order[row]] += 1
    return order


class MixedStream(Positioned):
    """Batches of rows of several stores, the same for the same arguments.

    A batch maps each hookpoint to a tensor [batch_rows, width] and each column to a tensor
    [batch_rows], the first source's rows first; it stays valid until the next but one is asked for.

    Attributes:
        rows_per_epoch: Rows of all sources together.
        source_rows: Rows of each source's epochs.
        shares: Share of each source in the rows of the mix.
        window_rows: Rows held at once, of all sources.
        mixing: Expected same-context partners of a row in its batch; 0 is perfect.
        inflation: Variance of a document-level feature's batch mean, as a multiple of the ideal,
            where sources vary alike: the mean of the sources' by share.
        position: Batches of the global sequence that all ranks together have delivered.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        hookpoints: Sequence[str],
        *,
        batch_rows: int,
        seed: int,
        window_rows: int | None = None,
        dtype: Form = "float32",
        columns: Sequence[MixedColumn] = (),
        last: Last = "carry",
        epochs: int | None = None,
        rank: int = 0,
        world: int = 1,
        lanes: int | None = None,
        threads: int = 2,
    ) -> None:
        """Plan the stream; rows are read when the first batch is asked for.

        Args:
            sources: The stores, each with the hookpoints in the same widths.
            hookpoints: Which hookpoints a batch holds.
            batch_rows: Rows in a batch.
            seed: Order of the rows, 0 or more; each source draws for itself.
            window_rows: Rows mixed at once, in each lane, shared by weight; absent, as many as the
                default allows.
            dtype: float32, or the type they are stored in, which must then be one.
            columns: What a batch holds of each row besides, as in `ActivationStream`; `sources`
                counts from 0.
            last: What becomes of an epoch's rows that do not fill a batch.
            epochs: After how many epochs of the mix the stream ends; absent, never.
            rank: Which of the processes this one is, from 0.
            world: How many processes share the sequence.
            lanes: Parts of every store with windows of their own; absent, one per process.
            threads: Threads that read ahead, for each source and lane.

        Raises:
            HookpointNotFoundError: A store lacks one of the hookpoints.
            ConfigError: Widths or stored types differ, a choice has no row, or weights or sizes are
                not above 0.
        """
        super().__init__(rank, world)
        self._pattern = pattern([source.weight for source in sources])
        _fit_together(sources, hookpoints, dtype)
        if window_rows is not None and window_rows < 1:
            raise ConfigError(
                field="activations.window_rows", found=window_rows, expected="1 or more"
            )
        own: list[Column] = [column for column in columns if column != "sources"]
        self._feeds = [
            Feed(each.store, hookpoints, each.choice, dtype=dtype, columns=own, threads=threads)
            for each in sources
        ]
        self._columns = tuple(columns)
        self.source_rows = tuple(feed.rows for feed in self._feeds)
        self.rows_per_epoch = sum(self.source_rows)
        self._counts = np.bincount(self._pattern)
        self.shares = tuple((self._counts / len(self._pattern)).tolist())
        self._seed = seed
        lanes = world if lanes is None else lanes
        self._batches = Batches(self.rows_per_epoch, batch_rows, last, epochs, lanes)
        widest = max(feed.tensors.row_bytes for feed in self._feeds)
        self._plan(window_rows or default_window(widest * len(self._rank.lanes(lanes))))
        self._turn = 0
        self._outputs = [self._feeds[0].tensors.outputs(batch_rows) for _ in range(_BUFFERS)]
        self._scratch = [
            feed.scratch(cut.batch_rows) for feed, cut in zip(self._feeds, self._cuts, strict=True)
        ]

    def _plan(self, window_rows: int) -> None:
        """Set the order for windows of so many rows in each lane."""
        self._budget = window_rows
        self._sought = False
        self._cuts = [
            SourceBatches(self._batches, self._pattern, source, rows)
            for source, rows in enumerate(self.source_rows)
        ]
        self.window_rows, self.mixing, self.inflation = 0, 0.0, 0.0
        for source, (feed, cut) in enumerate(zip(self._feeds, self._cuts, strict=True)):
            share = self.shares[source]
            feed.plan(
                cut,
                window_rows=max(int(window_rows * share), 1),
                # Stores of one size must not come in one order.
                seed=self._seed * len(self._feeds) + source,
            )
            lane = next(lane for lane in range(self._batches.lanes) if cut.reaches(lane))
            batch = max(round(self._batches.batch_rows * share), 1)
            mixed = feed.mixed(batch, lane=lane)
            self.window_rows += mixed.window_rows
            self.mixing += share * mixed.partners
            self.inflation += share * mixed.inflation

    def before(self, batch: int) -> list[int]:
        """Return how many rows of each source come before a batch of the global sequence."""
        return [cut.before(batch) for cut in self._cuts]

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
            "source_rows": list(self.source_rows),
            "shares": self._counts.tolist(),
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
        self._turn = (self._turn + 1) % _BUFFERS
        out, filled = self._outputs[self._turn], 0
        parts: list[Held] = []
        for source, (feed, cut) in enumerate(zip(self._feeds, self._cuts, strict=True)):
            lane, start, stop = cut.span(mine)
            if start == stop:
                continue
            held = feed.hold(lane, (start, stop), keep=start, scratch=self._scratch[source])
            for name in feed.tensors.paths:
                feed.tensors.into(name, held, out[name][filled : filled + stop - start])
            parts.append({**held, "sources": np.full(stop - start, source)})
            filled += stop - start
        self.position = self._rank.after(mine)
        batch = {name: rows[:filled] for name, rows in out.items()}
        for column in self._columns:
            batch[column] = torch.from_numpy(np.concatenate([held[column] for held in parts]))
        return batch

    def _seek(self, batch: int) -> None:
        """Send each lane of each source to this rank's first batch in it, from a batch on."""
        lanes = self._batches.lanes
        for lane in self._rank.lanes(lanes):
            first = self._rank.first_in(lane, lanes, batch)
            for feed, cut in zip(self._feeds, self._cuts, strict=True):
                if cut.reaches(lane):
                    _, place, _ = cut.span(first)
                    feed.seek(lane, place, cut.epoch_of(first))
        self._sought = True


def _fit_together(sources: Sequence[Source], hookpoints: Sequence[str], dtype: Form) -> None:
    """Refuse stores whose rows make no batch.

    Raises:
        HookpointNotFoundError: A store lacks one of the hookpoints.
        ConfigError: Widths differ, or stored types where rows are wanted as they are stored.
    """
    for name in hookpoints:
        for source in sources:
            source.store.array_of(name)
        widths = [source.store.hookpoints[name].width for source in sources]
        if len(set(widths)) > 1:
            raise ConfigError(
                field="activations.sources",
                found=widths,
                expected=f"stores in which {name} has one width",
            )
    types = [source.store.record.dtype for source in sources]
    if dtype == "stored" and len(set(types)) > 1:
        raise ConfigError(
            field="dtype",
            found=f"stored, of {', '.join(types)}",
            expected="'float32', or stores of one type",
        )
