"""Several stores in one stream, each with its weight.

Every row of the mixed sequence belongs to one source, by a pattern that depends on the weights
alone and repeats: after any number of rows each source has had its share within one row. A batch
holds each source's rows one source after the other; which rows they are is the source's own order,
with epochs of its own. The position is one number.

Source: Balinski and Young 1975, The quota method of apportionment: seats are given one by one, never
taken back, and never leave a share's floor and ceiling.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import gcd, lcm

import numpy as np
from jaxtyping import Int64
from torch import Tensor

from saestore.activations import neighbours, shuffle
from saestore.activations.batches import Batches
from saestore.activations.choice import RowChoice, Wanted
from saestore.activations.store import ActivationStore
from saestore.activations.stream import default_window
from saestore.activations.tensors import Tensors
from saestore.activations.window import Order, Resident, Ring, Window
from saestore.errors import ConfigError


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


class MixedStream:
    """Batches of rows of several stores, the same for the same arguments, without end.

    A batch maps each hookpoint to a float32 tensor [batch_rows, width], the first source's rows
    first; it stays valid until the next but one is asked for.

    Attributes:
        position: Batches delivered.
        rows_per_epoch: Rows of all sources together.
        source_rows: Rows of each source's epochs.
        window_rows: Rows held at once, of all sources.
        mixing: Expected same-context partners of a row in its batch; 0 is perfect.
        inflation: Variance of a document-level feature's batch mean, as a multiple of the ideal,
            where sources vary alike: the mean of the sources' by share.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        hookpoints: Sequence[str],
        *,
        batch_rows: int,
        seed: int,
        window_rows: int | None = None,
        threads: int = 2,
    ) -> None:
        """Plan the stream; rows are read when the first batch is asked for.

        Args:
            sources: The stores, each with the hookpoints in the same widths.
            hookpoints: Which hookpoints a batch holds.
            batch_rows: Rows in a batch.
            seed: Order of the rows, 0 or more; each source draws for itself.
            window_rows: Rows of memory, shared by weight; absent, as many as the default allows.
            threads: Threads that read ahead, for each source.

        Raises:
            HookpointNotFoundError: A store lacks one of the hookpoints.
            ConfigError: Widths differ, a choice has no row, or weights or sizes are not above 0.
        """
        self._pattern = pattern([source.weight for source in sources])
        self._widths_agree(sources, hookpoints)
        self._sources = list(sources)
        self._tensors = [Tensors(each.store, hookpoints, "float32") for each in sources]
        self._seed, self._batch_rows, self._threads = seed, batch_rows, threads
        self._wanted = [
            Wanted.of(
                source.store,
                source.choice,
                unit_rows=max(array.grid.chunk_rows for array in tensors.arrays.values()),
            )
            for source, tensors in zip(sources, self._tensors, strict=True)
        ]
        self.source_rows = tuple(wanted.rows for wanted in self._wanted)
        self.rows_per_epoch = sum(self.source_rows)
        self.position = 0
        self._cumulated = np.zeros((len(self._pattern) + 1, len(sources)), np.int64)
        one = self._pattern[:, None] == np.arange(len(sources))
        np.cumsum(one, axis=0, out=self._cumulated[1:])
        widest = max(tensors.row_bytes for tensors in self._tensors)
        self._plan(window_rows or default_window(widest))
        self._outputs = [self._tensors[0].outputs(batch_rows) for _ in range(_BUFFERS)]
        self._scratch = [tensors.stored(batch_rows) for tensors in self._tensors]

    @staticmethod
    def _widths_agree(sources: Sequence[Source], hookpoints: Sequence[str]) -> None:
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

    def _plan(self, window_rows: int) -> None:
        self._budget = window_rows
        self._windows: list[Window] = []
        shares = self._cumulated[-1] / len(self._pattern)
        self._orders = [
            Order(
                wanted,
                Batches(wanted.rows, self._batch_rows),
                window_rows=max(int(window_rows * share), 1),
                # Stores of one size must not come in one order.
                seed=self._seed * len(self._wanted) + index,
            )
            for index, (wanted, share) in enumerate(zip(self._wanted, shares, strict=True))
        ]
        self._sought = False
        self.window_rows, self.mixing, self.inflation = 0, 0.0, 0.0
        for source, order, share in zip(self._sources, self._orders, shares.tolist(), strict=True):
            self._judge(source, order, share)

    def _judge(self, source: Source, order: Order, share: float) -> None:
        """Add what a source with its share of the rows contributes to how well they are mixed."""
        wanted = order.wanted
        contexts = source.choice.contexts(source.store)
        delivered = wanted.rows / int(contexts[:, 1].sum())
        met = neighbours.meetings(
            source.store, contexts, unit_rows=wanted.unit_rows, wanted=delivered
        )
        spread = order.spread(wanted.rows)
        window = min(spread.window_rows, wanted.rows)
        batch = max(round(self._batch_rows * share), 1)
        self.window_rows += window
        self.mixing += share * shuffle.partners(
            met, spread, batch_rows=batch, unit_rows=wanted.unit_rows, rows=wanted.rows
        )
        self.inflation += share * shuffle.inflation(
            batch_rows=batch, unit_rows=wanted.unit_rows, window_rows=window
        )

    def before(self, row: int) -> Int64[np.ndarray, " source"]:
        """Return how many of the first rows of the sequence are of each source."""
        turns, rest = divmod(row, len(self._pattern))
        counts: Int64[np.ndarray, " source"] = turns * self._cumulated[-1] + self._cumulated[rest]
        return counts

    def state_dict(self) -> dict[str, int | list[int]]:
        """Return the position, and what the sequence depends on."""
        return {
            "position": self.position,
            "batch_rows": self._batch_rows,
            "seed": self._seed,
            "source_rows": list(self.source_rows),
            "shares": self._cumulated[-1].tolist(),
            "window_rows": self._budget,
        }

    def load_state_dict(self, state: Mapping[str, int | list[int]]) -> None:
        """Go to a saved position; the saved window is taken over.

        Raises:
            ConfigError: It was saved by a stream of another sequence.
        """
        mine = self.state_dict()
        for name in ("batch_rows", "seed", "source_rows", "shares"):
            if state[name] != mine[name]:
                raise ConfigError(
                    field=f"activations.{name}",
                    found=mine[name],
                    expected=f"{state[name]}, as when the position was saved",
                    hint="resume with the settings and the stores the run was started with",
                )
        window, position = state["window_rows"], state["position"]
        if window != self._budget and isinstance(window, int):
            self._plan(window)
        if isinstance(position, int):
            self.position = position
        self._sought = False

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Return the endless stream itself."""
        return self

    def __next__(self) -> dict[str, Tensor]:
        """Return the next batch.

        Raises:
            DamagedArtefactError: A chunk does not match its crc32c.
        """
        starts = self.before(self.position * self._batch_rows)
        stops = self.before((self.position + 1) * self._batch_rows)
        if not self._sought:
            self._seek(starts)
        out = self._outputs[self.position % _BUFFERS]
        filled = 0
        for index, (begin, end) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
            if begin == end:
                continue
            window, tensors = self._windows[index], self._tensors[index]
            window.hold(begin, end, keep=begin)
            scratch = self._scratch[index]
            held = {path: window.rows(path, begin, end, scratch[path]) for path in tensors.arrays}
            for name in tensors.paths:
                tensors.into(name, held, out[name][filled : filled + end - begin])
            filled += end - begin
        self.position += 1
        return out

    def _seek(self, starts: Int64[np.ndarray, " source"]) -> None:
        """Send each source to its place."""
        if not self._windows:
            for source, tensors, order in zip(
                self._sources, self._tensors, self._orders, strict=True
            ):
                kind = Resident if order.fits else Ring
                self._windows.append(
                    kind(source.store, tensors.arrays, order, lane=0, threads=self._threads)
                )
        for window, wanted, start in zip(self._windows, self._wanted, starts, strict=True):
            window.seek(int(start), int(start) // wanted.rows)
        self._sought = True
