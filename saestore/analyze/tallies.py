"""Tallies of stretches of contexts, on disk: how an analysis without firings goes on and is made by several.

    <analysis>/.progress/parts/tallies/0-of-1.000000000-000001024.arrays   contexts 0 to 1023
                                       0-of-1.000000000-000001024.json     written last: shapes, a checksum

A process takes contexts in order and now and then writes what it has in place of what it wrote before. So a
run that was killed goes on from there, and several processes take contexts beside each other. Which
stretches there are never shows: everything in a tally merges in any order.
"""

import functools
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields

import crc32c
import numpy as np

from saestore.analyze.pieces import Encoded
from saestore.analyze.scope import Scope
from saestore.analyze.sort import BYTES_PER_FIRING, Firings, Sorter
from saestore.analyze.tally import Tally
from saestore.errors import DamagedArtefactError
from saestore.lake import Storage, layout
from saestore.lake.manifest import checksum_text, matches
from saestore.lake.parts import Part, State
from saestore.progress import Task


FOLDER = f"{layout.PARTS}/tallies"
"""Where they are, in an unfinished analysis."""

SECONDS = 20.0
"""Time between two tallies of a process, at least."""
_TIMES = 20
"""And as many times what writing one takes."""

_NAME = re.compile(r"(\d+)-of-(\d+)\.(\d+)-(\d+)\.json")

Span = tuple[int, int]
"""First context and the one after the last."""


@dataclass(frozen=True)
class Written:
    """A tally on disk.

    Attributes:
        part: Who wrote it.
        span: Its contexts.
    """

    part: Part
    span: Span

    @property
    def record(self) -> str:
        """What it is: what arrays, and the checksum of their bytes."""
        first, stop = self.span
        return f"{FOLDER}/{self.part.index}-of-{self.part.count}.{first:09d}-{stop:09d}.json"

    @property
    def data(self) -> str:
        """The arrays, end to end."""
        return self.record.removesuffix("json") + "arrays"


class Tallies:
    """The tallies of one analysis."""

    def __init__(
        self,
        artefact: Storage,
        scope: Scope,
        make: Callable[[], Tally],
        source: Callable[[tuple[int, int]], Iterable[Encoded]],
        *,
        memory_mib: int,
        block_rows: int,
    ) -> None:
        """Say what is tallied; nothing is read.

        Args:
            artefact: The analysis's folder.
            scope: The rows analysed.
            make: Makes a tally of nothing.
            source: Yields the firings of rows, from the first row of a block to a row that is not among
                them, block by block.
            memory_mib: Memory for firings that wait to be counted.
            block_rows: Rows of a block.
        """
        self._artefact, self._scope, self._make, self._source = artefact, scope, make, source
        self._memory = memory_mib
        self._room = max(1, (memory_mib << 20) // BYTES_PER_FIRING)
        self._block_rows = block_rows
        self._checked: dict[str, bool] = {}

    def of(self, part: Part) -> Span:
        """Return the contexts that one of several processes takes."""
        total = self._scope.n_contexts
        return total * part.index // part.count, total * (part.index + 1) // part.count

    def rows(self, spans: Iterable[Span]) -> int:
        """Return the rows of some stretches of contexts."""
        ends = np.append(self._scope.start, len(self._scope.tokens))
        return sum(int(ends[stop] - ends[first]) for first, stop in spans)

    def missing(self, span: Span) -> list[Span]:
        """Return the stretches of contexts of which there is no tally, or not as it was written."""
        found, at = [], span[0]
        for each in self._there():
            found.append((at, min(each.span[0], span[1])))
            at = max(at, each.span[1])
        return [(first, stop) for first, stop in [*found, (at, span[1])] if first < stop]

    def state(self, part: Part) -> State:
        """Return how far one of several processes is."""
        span = self.of(part)
        left = sum(stop - first for first, stop in self.missing(span))
        done = span[1] - span[0] - left
        rows = None if left else self.rows([span])
        return State(part, begun=done > 0, rows=rows, shards=done, unit="contexts")

    def take(self, part: Part, task: Task) -> None:
        """Tally those contexts of a part that are missing.

        Raises:
            StorageError: The disk is full or read-only.
        """
        for span in self.missing(self.of(part)):
            self._take(part, span, task)

    def whole(self) -> Tally:
        """Return the tally of all contexts, when none is missing.

        Raises:
            DamagedArtefactError: Bytes are not those that were written.
        """
        found = self._make()
        for each in self._there():
            found.load(self._read(each))
        return found

    def _take(self, part: Part, span: Span, task: Task) -> None:
        tally = self._make()
        before = next((x for x in self._there() if (x.part, x.span[1]) == (part, span[0])), None)
        if before is not None:
            tally.load(self._read(before))
        began = span[0] if before is None else before.span[0]
        pace = _Pace()
        for stop in self._counted(span, tally, pace, task):
            if stop == span[1] or pace.due:
                began_writing = time.monotonic()
                written = Written(part, (began, stop))
                self._write(written, tally)
                if before is not None:
                    self._remove(before)
                before = written
                pace.wrote(began_writing)

    def _counted(self, span: Span, tally: Tally, pace: "_Pace", task: Task) -> Iterator[int]:
        """Count contexts; now and then yield up to which all are counted."""
        first = int(self._scope.start[span[0]])
        ends = self._scope.start + self._scope.length
        row, last_row = first // self._block_rows * self._block_rows, int(ends[span[1] - 1])
        sorter = Sorter(None, features=len(tally.counts.firings), memory_mib=self._memory)
        waiting: list[Firings] = []
        counted, rows, firings = span[0], 0, 0
        for each in self._source((row, last_row)):
            waiting.append(_of(each.firings, counted, span[1]))
            fresh = row + each.rows - max(row, first)
            row, rows, firings = row + each.rows, rows + fresh, firings + len(waiting[-1])
            task.advance(max(fresh, 0), l0=firings / max(rows, 1))
            whole = min(int(np.searchsorted(ends, row, side="right")), span[1])
            full = row >= last_row or pace.due or sum(map(len, waiting)) >= self._room
            if not full or whole == counted:
                continue
            for part in waiting:
                sorter.add(_of(part, counted, whole))
            for block in sorter.blocks():
                tally.update(block)
            waiting = [_of(part, whole, span[1]) for part in waiting]
            counted = whole
            yield counted

    def _there(self) -> list[Written]:
        """Return tallies that overlap nowhere, by context; of two that do, the one that begins first."""
        found = []
        for name in self._artefact.names(FOLDER):
            match = _NAME.fullmatch(name)
            if match is not None:
                index, count, first, stop = map(int, match.groups())
                found.append(Written(Part(index, count), (first, stop)))
        chosen: list[Written] = []
        for each in sorted(found, key=lambda x: (x.span[0], -x.span[1])):
            free = not chosen or chosen[-1].span[1] <= each.span[0]
            if free and self._is_whole(each):
                chosen.append(each)
        return chosen

    def _is_whole(self, written: Written) -> bool:
        if written.record not in self._checked:
            try:
                self._read(written)
                self._checked[written.record] = True
            except (DamagedArtefactError, FileNotFoundError):
                self._checked[written.record] = False
        return self._checked[written.record]

    def _read(self, written: Written) -> dict[str, np.ndarray]:
        data = self._artefact.read(written.data)
        try:
            record = json.loads(self._artefact.read(written.record))
        except ValueError:  # a disk that lies
            record = {"checksum": "", "arrays": {}}
        if not matches(data, record["checksum"]):
            raise DamagedArtefactError(
                name=written.data, damage=("its bytes are not those that were written",)
            )
        found, at = {}, 0
        for name, (dtype, shape) in record["arrays"].items():
            found[name] = np.frombuffer(data, dtype, math.prod(shape), at).reshape(shape)
            at += found[name].nbytes
        return found

    def _write(self, written: Written, tally: Tally) -> None:
        arrays = {name: np.ascontiguousarray(x) for name, x in tally.arrays().items()}
        parts = [each.reshape(-1).view(np.uint8).data for each in arrays.values()]
        self._artefact.write(written.data, *parts)
        checksum = functools.reduce(lambda crc, part: crc32c.crc32c(part, crc), parts, 0)
        record = {
            "checksum": checksum_text(checksum),
            "arrays": {name: (each.dtype.str, each.shape) for name, each in arrays.items()},
        }
        self._artefact.write(written.record, json.dumps(record).encode())
        self._checked[written.record] = True

    def _remove(self, written: Written) -> None:
        for name in (written.record, written.data):
            self._artefact.remove(name)


class _Pace:
    """When a tally is written: seldom enough that it takes little of the time."""

    def __init__(self) -> None:
        self._last, self._took = time.monotonic(), 0.0

    @property
    def due(self) -> bool:
        return time.monotonic() - self._last >= max(SECONDS, _TIMES * self._took)

    def wrote(self, began: float) -> None:
        self._last = time.monotonic()
        self._took = self._last - began


def _of(firings: Firings, first: int, stop: int) -> Firings:
    """Return the firings in some contexts; they are in order of context."""
    low, high = np.searchsorted(firings.context, (first, stop)).tolist()
    return Firings(**{each.name: getattr(firings, each.name)[low:high] for each in fields(Firings)})
