"""What can be known of features without keeping their firings: numbers that merge in any order.

Counts, exact sums, extremes, histograms whose bins are fixed, and the strongest contexts. All are as long as
the dictionary, whatever the number of rows. Whole contexts are taken, in any order and by any number of
processes; tallies of different contexts merge to that of all of them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int64, UInt16, UInt32

from saestore.analyze import segments
from saestore.analyze.block import FeatureBlock
from saestore.analyze.collectors import Examples, histograms, statistics
from saestore.analyze.exact_sums import ExactSums
from saestore.analyze.known import Known
from saestore.analyze.scope import Scope
from saestore.analyze.sort import stable_order
from saestore_schemas import tables
from saestore_schemas.analyze import TopSubsample


_NEVER = np.iinfo(np.int64).max
"""First row of a feature that has not fired."""
_AT_ONCE = 1 << 12
"""Features whose lines are made at a time."""
_PENDING = 1 << 20
"""Firings of strong contexts that wait, at least, before the strongest are chosen anew."""


@dataclass(frozen=True)
class Counts:
    """Arrays with one line of each feature.

    Attributes:
        firings: How many.
        contexts: Contexts with at least one.
        at_start: Firings at the first kept position of a context.
        first_row: Kept rows before the first.
        max: Largest value, 0 if it never fires.
        max_context: Where: the first such context.
        max_position: Where: the first such position in it.
        min: Smallest value, infinite if it never fires.
        log_value: Firings in the bins of that histogram.
        position: Firings in the bins of that histogram.
        sums: Exact sums of values.
        squares: Exact sums of their squares.
    """

    firings: Int64[np.ndarray, " feature"]
    contexts: Int64[np.ndarray, " feature"]
    at_start: Int64[np.ndarray, " feature"]
    first_row: Int64[np.ndarray, " feature"]
    max: Float32[np.ndarray, " feature"]
    max_context: UInt32[np.ndarray, " feature"]
    max_position: UInt16[np.ndarray, " feature"]
    min: Float32[np.ndarray, " feature"]
    log_value: Int64[np.ndarray, "feature 160"]
    position: Int64[np.ndarray, "feature 32"]
    sums: Int64[np.ndarray, "feature 10"]
    squares: Int64[np.ndarray, "feature 19"]

    @classmethod
    def of(cls, features: int) -> "Counts":
        """Return those of nothing."""
        exact = ExactSums.of(features)
        return cls(
            firings=np.zeros(features, np.int64),
            contexts=np.zeros(features, np.int64),
            at_start=np.zeros(features, np.int64),
            first_row=np.full(features, _NEVER),
            max=np.zeros(features, np.float32),
            max_context=np.zeros(features, np.uint32),
            max_position=np.zeros(features, np.uint16),
            min=np.full(features, np.inf, np.float32),
            log_value=np.zeros((features, len(histograms.LOG_EDGES)), np.int64),
            position=np.zeros((features, histograms.POSITIONS), np.int64),
            sums=exact.sums,
            squares=exact.squares,
        )

    @classmethod
    def counted(cls, block: FeatureBlock, scope: Scope) -> "Counts":
        """Return those of a block of features."""
        extremes = statistics.extremes(block)
        exact = ExactSums.of(block.n)
        exact.add(block.value, block.offsets)
        dead = block.counts == 0
        return cls(
            firings=block.counts,
            contexts=np.diff(block.peaks.offsets),
            at_start=statistics.first_positions(block, scope),
            first_row=np.where(dead, _NEVER, statistics.first_rows(block, scope).astype(np.int64)),
            max=extremes["max"],
            max_context=extremes["max_context"],
            max_position=extremes["max_position"],
            min=np.where(dead, np.float32(np.inf), extremes["min"]),
            log_value=histograms.log_counts(block),
            position=histograms.position_counts(block, scope),
            sums=exact.sums,
            squares=exact.squares,
        )

    @property
    def exact(self) -> ExactSums:
        """Both sums."""
        return ExactSums(self.sums, self.squares)

    def select(self, first: int, stop: int) -> "Counts":
        """Return those of some features: views."""
        return Counts(*(getattr(self, each.name)[first:stop] for each in fields(self)))

    def merge(self, other: "Counts") -> None:
        """Add those of the same features in other contexts."""
        places = [
            (each.max_context.astype(np.int64) << 16) | each.max_position for each in (self, other)
        ]
        beaten = (other.max > self.max) | ((other.max == self.max) & (places[1] < places[0]))
        beaten &= other.firings > 0
        for name in ("max", "max_context", "max_position"):
            getattr(self, name)[beaten] = getattr(other, name)[beaten]
        for name in ("firings", "contexts", "at_start", "log_value", "position"):
            getattr(self, name)[...] += getattr(other, name)
        np.minimum(self.first_row, other.first_row, out=self.first_row)
        np.minimum(self.min, other.min, out=self.min)
        self.exact.merge(other.exact)

    def numbers(self) -> dict[str, np.ndarray]:
        """Return columns of the table `features`."""
        return {
            "n_firings": self.firings,
            "n_contexts": self.contexts,
            **self.exact.moments(self.firings),
            "max": self.max,
            "max_context": self.max_context,
            "max_position": self.max_position,
            "min": self.min,
            "first_row": self.first_row,
            "first_position_share": self.at_start / np.maximum(self.firings, 1),
        }


class Strongest:
    """The strongest contexts of each feature, with its firings around the peak."""

    def __init__(self, scope: Scope, wanted: Iterable[TopSubsample], *, features: int) -> None:
        """Begin with none.

        Args:
            scope: The rows analysed.
            wanted: The subsamples: the largest n is kept, and the widest window.
            features: Features of the dictionary.
        """
        held = list(wanted)
        windows = [each.window for each in held]
        self._n = max((each.n for each in held), default=0)
        self._window = None if None in windows else max((w or 0 for w in windows), default=0)
        self._scope = scope
        self._least = np.zeros(features, np.float32)
        self._waiting: list[FeatureBlock] = []
        self._n_waiting = 0
        self.block = _joined([], features)

    def add(self, block: FeatureBlock) -> None:
        """Take features in contexts of which it has none."""
        if not self._n:
            return  # no examples are asked for
        peaks = block.peaks
        own = np.repeat(np.arange(block.first, block.first + block.n), np.diff(peaks.offsets))
        strong = _of_pairs(block, np.flatnonzero(peaks.strength >= self._least[own]))
        order, rank = _ranked(strong)
        strong = _of_pairs(strong, np.sort(order[rank < self._n]))
        self._waiting.append(strong)
        self._n_waiting += len(strong.value)
        if self._n_waiting > max(_PENDING, len(self.block.value)):
            self.choose()

    def choose(self) -> None:
        """Keep the strongest of what is held and what waits."""
        if not self._waiting:
            return
        everything = _joined([self.block, *self._waiting], len(self._least))
        self._waiting, self._n_waiting = [], 0
        peaks = everything.peaks
        order, rank = _ranked(everything)
        # the last that is kept, of features that have enough
        full = np.diff(peaks.offsets) >= self._n
        last = order[peaks.offsets[:-1][full] + self._n - 1]
        self._least[full] = peaks.strength[last]
        self.block = self._around_peaks(_of_pairs(everything, np.sort(order[rank < self._n])))

    def _around_peaks(self, block: FeatureBlock) -> FeatureBlock:
        """Return the firings inside the widest window."""
        if self._window is None:
            return block
        peaks = block.peaks
        size = self._scope.length[peaks.context]
        length = np.minimum(size, self._window)
        start = np.clip(peaks.position.astype(np.int64) - self._window // 2, 0, size - length)
        each = peaks.stop - peaks.start
        after = block.position.astype(np.int64) - np.repeat(start, each)
        return _kept(block, (after >= 0) & (after < np.repeat(length, each)))

    def merge(self, other: "Strongest") -> None:
        """Take what another has of other contexts."""
        other.choose()
        self._waiting.append(other.block)
        self.choose()


class Tally:
    """What is known of all features in the contexts taken so far."""

    def __init__(self, scope: Scope, wanted: Sequence[TopSubsample], *, features: int) -> None:
        """Begin with nothing.

        Args:
            scope: The rows analysed.
            wanted: Which strongest contexts are kept.
            features: Features of the dictionary.
        """
        self._scope = scope
        self.counts = Counts.of(features)
        self.strongest = Strongest(scope, wanted, features=features)

    def update(self, block: FeatureBlock) -> None:
        """Take features in contexts of which it has none of these features' firings."""
        own = self.counts.select(block.first, block.first + block.n)
        own.merge(Counts.counted(block, self._scope))
        self.strongest.add(block)

    def merge(self, other: "Tally") -> None:
        """Take what another has of other contexts."""
        self.counts.merge(other.counts)
        self.strongest.merge(other.strongest)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return everything as arrays: `load` takes them."""
        self.strongest.choose()
        held = self.strongest.block
        kept = {name: getattr(held, name) for name in ("offsets", "context", "position", "value")}
        numbers = {each.name: getattr(self.counts, each.name) for each in fields(Counts)}
        return {
            **{f"counts_{name}": each for name, each in numbers.items()},
            **{f"top_{name}": each for name, each in kept.items()},
        }

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take what `arrays` of another returned."""
        parts: dict[str, dict[str, np.ndarray]] = {"counts": {}, "top": {}}
        for key, each in arrays.items():
            of, _, name = key.partition("_")
            parts[of][name] = each
        self.counts.merge(Counts(**parts["counts"]))
        self.strongest.add(FeatureBlock(first=0, **parts["top"]))
        self.strongest.choose()

    def tables(self, known: Known) -> Iterator[tuple[str, pa.Table]]:
        """Yield name and lines of tables, for some features after the other.

        Args:
            known: What is known beside firings.
        """
        self.strongest.choose()
        total = len(self.counts.firings)
        for first in range(0, total, _AT_ONCE):
            stop = min(first + _AT_ONCE, total)
            own = self.counts.select(first, stop)
            scope = known.scope
            yield (
                tables.FEATURES.name,
                statistics.lines(first, own.numbers(), scope, known.weights),
            )
            fixed = histograms.fixed(own.log_value, own.position, scope)
            scores = histograms.of_scores(known.logits, slice(first, stop), None)
            yield tables.HISTOGRAMS.name, histograms.lines(first, [*fixed, *scores])
            yield tables.EXAMPLES.name, self._examples(first, stop, known)

    def _examples(self, first: int, stop: int, known: Known) -> pa.Table:
        collector = Examples(known.scope, known.settings.subsamples)
        collector.update(self.strongest.block.select(first, stop - first))
        found = collector.table()
        at = found.schema.get_field_index("n_eligible")
        eligible = self.counts.contexts[found["feature"].to_numpy()].astype(np.uint32)
        return found.set_column(at, found.schema.field(at), pa.array(eligible))


def _ranked(
    block: FeatureBlock,
) -> tuple[Int64[np.ndarray, " pair"], Int64[np.ndarray, " pair"]]:
    """Return the contexts of each feature, strongest first and ties by context, and their ranks."""
    peaks = block.peaks
    order = segments.order_within(~segments.as_keys(peaks.strength), peaks.offsets)
    return order, segments.rank_within(peaks.offsets)


def _of_pairs(block: FeatureBlock, pairs: Int64[np.ndarray, " pair"]) -> FeatureBlock:
    """Return the firings of some features in some contexts: pairs ascending."""
    flags = np.zeros(len(block.peaks.strength), bool)
    flags[pairs] = True
    return _kept(block, np.repeat(flags, block.peaks.stop - block.peaks.start))


def _kept(block: FeatureBlock, flags: np.ndarray) -> FeatureBlock:
    """Return some firings of a block."""
    return replace(
        block,
        offsets=np.concatenate([[0], np.cumsum(segments.totals(flags, block.offsets))]),
        context=block.context[flags],
        position=block.position[flags],
        value=block.value[flags],
    )


def _joined(blocks: Sequence[FeatureBlock], features: int) -> FeatureBlock:
    """Return blocks of any features, in different contexts, as one of all features."""
    columns = {
        name: np.concatenate([np.zeros(0, dtype), *(getattr(each, name) for each in blocks)])
        for name, dtype in (("context", np.uint32), ("position", np.uint16), ("value", np.float32))
    }
    feature = np.concatenate(
        [np.zeros(0, np.uint32), *(np.repeat(each.features, each.counts) for each in blocks)]
    )
    by_context = stable_order(columns["context"])  # positions of a context stand in order
    order = by_context[stable_order(feature[by_context])]
    counts = np.bincount(feature, minlength=features)
    return FeatureBlock(
        first=0,
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        **{name: column[order] for name, column in columns.items()},
    )
