"""How the rows of all epochs are cut into batches, and the batches dealt to lanes.

All epochs follow each other in one global sequence of batches. Lane l of `lanes` has the batches l,
l + lanes, l + 2 lanes, …, and from every epoch exactly the rows that these batches take: a stretch
of the epoch's permuted units, so that lanes read different parts of the store. Everything is
arithmetic: the place of any batch in any lane follows from its number.
"""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from saestore.errors import ConfigError


Last = Literal["carry", "drop", "short"]
"""What becomes of an epoch's rows that do not fill a batch.

`carry`: they begin a batch that the next epoch fills; after the last of finitely many epochs they
are a shorter batch. `drop`: they are left out, others in every epoch. `short`: they are a shorter
batch."""


@dataclass(frozen=True)
class LaneEpoch:
    """The part of one epoch that one lane delivers.

    Attributes:
        begin: The lane's rows before the epoch.
        rows: Its rows of the epoch.
        skip: Rows of the epoch's permuted units that belong to lower lanes.
    """

    begin: int
    rows: int
    skip: int


@runtime_checkable
class Dealing(Protocol):
    """Rows of one store, cut into batches that are dealt to lanes."""

    @property
    def batch_rows(self) -> int:
        """Rows of a batch, at most."""
        ...

    @property
    def epochs(self) -> int | None:
        """Epochs of the store that have rows to deliver; None without end."""
        ...

    def lane(self, lane: int, epoch: int) -> LaneEpoch:
        """Return what a lane delivers of an epoch."""
        ...


@dataclass(frozen=True)
class Batches:
    """The global sequence of batches.

    Attributes:
        rows: Rows of an epoch.
        batch_rows: Rows of a batch.
        last: What becomes of rows that do not fill one.
        epochs: How many epochs there are; absent, no end.
        lanes: To how many lanes batches are dealt.
    """

    rows: int
    batch_rows: int
    last: Last = "carry"
    epochs: int | None = None
    lanes: int = 1

    def __post_init__(self) -> None:
        """Refuse what has no batch.

        Raises:
            ConfigError: A size is below 1, or `drop` would drop everything.
        """
        for field in ("batch_rows", "epochs", "lanes"):
            found = getattr(self, field)
            if found is not None and found < 1:
                raise ConfigError(field=f"activations.{field}", found=found, expected="1 or more")
        if self.last == "drop" and self.rows < self.batch_rows:
            raise ConfigError(
                field="activations.batch_rows",
                found=self.batch_rows,
                expected=f"at most {self.rows}, the rows of an epoch, if the last batch is dropped",
                hint='use smaller batches, or last = "short"',
            )

    @property
    def count(self) -> int | None:
        """Batches of all epochs; None without end."""
        if self.epochs is None:
            return None
        if self.last == "carry":
            return -(-self.epochs * self.rows // self.batch_rows)
        return self.epochs * self._per_epoch

    @property
    def _per_epoch(self) -> int:
        """Batches of one epoch, if none crosses its end."""
        whole, rest = divmod(self.rows, self.batch_rows)
        return whole + (rest > 0 and self.last == "short")

    @property
    def _stride(self) -> int:
        """Rows by which epochs follow each other, those that a short batch lacks counted too."""
        return self.rows if self.last == "carry" else self._per_epoch * self.batch_rows

    @property
    def _lacking(self) -> int:
        """Rows that the last batch of an epoch lacks."""
        return max(self._stride - self.rows, 0)

    def epoch_of(self, batch: int) -> int:
        """Return in which epoch a batch begins."""
        return batch * self.batch_rows // self._stride

    def span(self, batch: int) -> tuple[int, int, int]:
        """Return the lane of a batch, and the places of its rows among those of the lane."""
        lane, epoch = batch % self.lanes, self.epoch_of(batch)
        start = batch // self.lanes * self.batch_rows - self._lacked(lane, epoch)
        rows = self.batch_rows
        if self.last == "carry":
            if self.epochs is not None:
                rows = min(rows, self.epochs * self.rows - batch * self.batch_rows)
        elif batch % self._per_epoch == self._per_epoch - 1:
            rows -= self._lacking
        return lane, start, start + rows

    def lane(self, lane: int, epoch: int) -> LaneEpoch:
        """Return what a lane delivers of an epoch."""
        begin = self._before(lane, epoch)
        lower = range(lane)
        skip = sum(self._before(n, epoch + 1) - self._before(n, epoch) for n in lower)
        return LaneEpoch(begin, self._before(lane, epoch + 1) - begin, skip)

    def _before(self, lane: int, epoch: int) -> int:
        """Return how many rows a lane delivers before an epoch."""
        whole, rest = divmod(epoch * self._stride, self.batch_rows)
        batches = max(whole - lane + self.lanes - 1, 0) // self.lanes
        partial = rest if whole % self.lanes == lane else 0
        return batches * self.batch_rows + partial - self._lacked(lane, epoch)

    def _lacked(self, lane: int, epoch: int) -> int:
        """Return how many rows the short batches of a lane lack before an epoch."""
        if not self._lacking:
            return 0
        # The lane of an epoch's last batch repeats after `lanes` epochs.
        ends = [(n + 1) * self._per_epoch - 1 for n in range(self.lanes)]
        hits = [end % self.lanes == lane for end in ends]
        turns, rest = divmod(epoch, self.lanes)
        return (turns * sum(hits) + sum(hits[:rest])) * self._lacking
