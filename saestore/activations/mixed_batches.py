"""How the rows of one source of a mix fall into batches, and these into lanes: by arithmetic.

An epoch of a mix is as many rows as its sources have together. The mixed sequence is cut into batches
of `batch_rows`; which rows of a batch are a source's follows from the pattern. Both repeat, so where a
batch begins among a source's rows, in any lane, is known without counting up to it.

`last` says where the sequence is cut besides. `carry`: nowhere, until the last of finitely many epochs.
`drop`: an epoch has whole batches only; no row of a source is passed over, those that do not fit come in
the next epoch. `short`: the last batch of an epoch is shorter, and the next epoch begins the pattern
anew, so that all epochs are cut alike; memory is then a number for each batch of an epoch.
"""

from math import lcm

import numpy as np
from jaxtyping import Int64

from saestore.activations.batches import Batches, LaneEpoch
from saestore.errors import ConfigError


class SourceBatches:
    """The rows of one source in the batches of a mix; places are counted among its own rows.

    Attributes:
        batch_rows: Its rows in a batch, at most.
        epochs: Epochs of its own in which the mix has rows; None without end.
    """

    def __init__(
        self, mix: Batches, pattern: Int64[np.ndarray, " _"], source: int, rows: int
    ) -> None:
        """Prepare what every answer is made of.

        Args:
            mix: The batches of the whole mix; its rows are those of all sources together.
            pattern: The source of each row until it repeats.
            source: Which source.
            rows: Rows of an epoch of its own.

        Raises:
            ConfigError: It has no row in an epoch that begins the pattern anew.
        """
        self._lanes, self._rows = mix.lanes, rows
        self._cumulated = np.concatenate([[0], np.cumsum(pattern == source)])
        size = mix.batch_rows
        # The rows after which batches begin as they did before.
        period = mix.rows if mix.last == "short" else lcm(len(pattern), size)
        cuts = np.minimum(np.arange(-(-period // size) + 1) * size, period)
        self._starts = self._before_rows(cuts)
        if not self._starts[-1]:
            raise ConfigError(
                field="activations.sources",
                found=f"a source whose weight gives it none of {period} rows",
                expected="a row of each source in every epoch, if the last batch is shorter",
                hint='raise its weight, or use last = "carry"',
            )
        counts = np.diff(self._starts)
        self.batch_rows = int(counts.max())
        # Of each batch of the period, and every `lanes`-th after it: its rows before.
        strided = [counts[first :: mix.lanes] for first in range(mix.lanes)]
        self._strided = [np.concatenate([[0], np.cumsum(each)]) for each in strided]
        self._end: tuple[int, int] | None = None
        if mix.count is not None:
            end = self.before(mix.count)
            if mix.last == "carry":  # it may end within a batch
                end = int(self._before_rows(np.array([(mix.epochs or 0) * mix.rows]))[0])
            self._end = (mix.count, end)
        self.epochs = None if self._end is None else -(-self._end[1] // rows)

    def before(self, batch: int) -> int:
        """Return how many of its rows come before a batch, in all lanes."""
        periods, inside = divmod(batch, len(self._starts) - 1)
        return periods * int(self._starts[-1]) + int(self._starts[inside])

    def span(self, batch: int) -> tuple[int, int, int]:
        """Return the lane of a batch, and the places of its rows among those of the lane."""
        start, stop = self.before(batch), self.before(batch + 1)
        if self._end is not None and batch + 1 == self._end[0]:
            stop = self._end[1]
        lane = batch % self._lanes
        place = self._in_lane(lane, batch)
        return lane, place, place + stop - start

    def epoch_of(self, batch: int) -> int:
        """Return in which of its own epochs it is when a batch begins."""
        return self.before(batch) // self._rows

    def lane(self, lane: int, epoch: int) -> LaneEpoch:
        """Return what a lane delivers of one of its own epochs."""
        first, stop = epoch * self._rows, (epoch + 1) * self._rows
        begins = [self._of_lane(each, first) for each in range(lane + 1)]
        ends = [self._of_lane(each, stop) for each in range(lane + 1)]
        skip = sum(ends[:lane]) - sum(begins[:lane])
        return LaneEpoch(begins[lane], ends[lane] - begins[lane], skip)

    def reaches(self, lane: int) -> bool:
        """Return whether a lane ever has one of its rows."""
        return self._in_lane(lane, self._lanes * (len(self._starts) - 1)) > 0

    def _of_lane(self, lane: int, row: int) -> int:
        """Return how many of its first so many rows a lane has."""
        periods, rest = divmod(row, int(self._starts[-1]))
        inside = int(np.searchsorted(self._starts, rest, side="right")) - 1
        batch = periods * (len(self._starts) - 1) + inside
        begun = rest - int(self._starts[inside]) if batch % self._lanes == lane else 0
        return self._in_lane(lane, batch) + begun

    def _in_lane(self, lane: int, batch: int) -> int:
        """Return how many of its rows a lane has before a batch."""
        length = len(self._starts) - 1
        periods, inside = divmod(batch, length)
        # The lane's first batch of a period moves; after `lanes` periods it is where it was.
        firsts = [(lane - n * length) % self._lanes for n in range(self._lanes)]
        totals = [int(self._strided[first][-1]) for first in firsts]
        cycles, over = divmod(periods, self._lanes)
        first = firsts[over]
        had = max(-(-(inside - first) // self._lanes), 0)
        return cycles * sum(totals) + sum(totals[:over]) + int(self._strided[first][had])

    def _before_rows(self, rows: Int64[np.ndarray, " _"]) -> Int64[np.ndarray, " _"]:
        """Return how many of the mix's first so many rows since the pattern began are its."""
        turns, rest = np.divmod(rows, len(self._cumulated) - 1)
        found: Int64[np.ndarray, " _"] = turns * self._cumulated[-1] + self._cumulated[rest]
        return found
