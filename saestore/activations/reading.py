"""Reading rows of shards: which chunks, from which files, checked as they arrive.

A shard's size and tail are checked when it is first touched, a chunk's crc32c each time it is read.
Shards are read directly: offsets are computed, and one call fetches neighbouring chunks into their
places and their checksums beside them.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import crc32c
import numpy as np
from jaxtyping import Int64, Shaped, UInt32

from saestore.activations import fetch, shards
from saestore.activations.layout import ArraySpec
from saestore.activations.shard_file import LocalFile, Opening, Range, ShardFile, ShardFiles
from saestore.errors import DamagedArtefactError
from saestore.lake import layout


Read = tuple[str, int, int, np.ndarray]
"""Rows to read: array, first row, the row after the last, and a buffer in stored form."""

AT_ONCE = 4 << 20
"""Bytes fetched by one call, if chunks are not larger: a few chunks that stay in cache."""
_LONGEST_VECTOR = 1024
"""Buffers that one `preadv` may fill (IOV_MAX of Linux and macOS)."""


@dataclass(frozen=True)
class Listed:
    """What a store's file list says, and what must hold before an array is read.

    Attributes:
        name: The store, for errors.
        payload: Size and checksum of each file, by path.
        touched: Called with an array's path before its first shard is opened.
    """

    name: str
    payload: Mapping[str, tuple[int, str]]
    touched: Callable[[str], None]


class RowReader:
    """Reads row arrays of one store in stored form.

    Attributes:
        at_once: How many ranges of rows should be asked for together, if they can.
    """

    def __init__(
        self, arrays: Mapping[str, ArraySpec], n_rows: int, files: ShardFiles, listed: Listed
    ) -> None:
        self._arrays = arrays
        self._n_rows = n_rows
        self._shard_files = files
        self._listed = listed
        self._files: OrderedDict[str, _Shard] = OrderedDict()
        self._lock = threading.Lock()
        self._own = threading.local()
        self.at_once = files.at_once

    def read_many(self, reads: Iterable[Read]) -> None:
        """Read several ranges of rows, from an object store all at once.

        Args:
            reads: Array, first row, the row after the last and buffer of each.

        Raises:
            IndexError: The store has no such rows.
            DamagedArtefactError: A chunk or shard is not the one that was written there.
        """
        runs = [run for read in reads for run in self._runs(*read)]
        done = 0
        while done < len(runs):
            touched: dict[tuple[str, int], None] = {}
            stop = done
            while stop < len(runs) and len(touched) < self._shard_files.kept:
                touched[runs[stop].path, runs[stop].shard] = None
                stop += 1
            files = self._shards(touched.keys())
            left = [run for run in runs[done:stop] if not self._fetched(run, files)]
            if left:
                self._read_runs(left, files)
            done = stop

    def _fetched(self, run: "_Run", files: Mapping[tuple[str, int], "_Shard"]) -> bool:
        """Read a run by machine code, if that can; return whether all of it was as it should be."""
        if not self.direct(run.path):
            return False
        shard, grid = files[run.path, run.shard], self._arrays[run.path].grid
        assert isinstance(shard.file, LocalFile)  # noqa: S101 - it is read directly
        if not hasattr(self._own, "straight"):
            self._own.straight = fetch.Straight()
        straight: fetch.Straight = self._own.straight
        chunks = run.rows.reshape(-1).view(np.uint8).reshape(-1, grid.chunk_bytes)
        crcs = shard.crcs[run.chunk : run.chunk + len(chunks)]
        at = grid.offset(run.chunk)
        whole = straight.read(shard.file.descriptor, at, crcs, chunks) == len(chunks)
        if whole and run.target is not None:
            run.target[...] = run.wanted
        return whole

    def read_chunk(self, path: str, chunk: int) -> Shaped[np.ndarray, "row ..."]:
        """Return one chunk of a row array as stored, padding included, checked.

        Raises:
            DamagedArtefactError: See `read_many`.
        """
        array = self._arrays[path]
        rows = np.empty((array.grid.chunk_rows, *array.tail), array.stored)
        shard, inside = divmod(chunk, array.grid.chunks)
        self._read_runs([_Run(path, shard, inside, rows)], self._shards([(path, shard)]))
        return rows

    def direct(self, path: str) -> bool:
        """Return whether machine code reads this array: uncompressed, in files of this machine."""
        return fetch.possible() and self._shard_files.local and not self._arrays[path].zstd_level

    def located(self, path: str, starts: Int64[np.ndarray, " unit"], unit_rows: int) -> "Located":
        """Return where the chunks of units of rows lie, for an array that is read directly.

        Args:
            path: The array.
            starts: First row of each unit.
            unit_rows: A multiple of its chunk's rows, and a divisor of its shard's.

        Raises:
            DamagedArtefactError: A shard is not the one that was written there.
        """
        grid = self._arrays[path].grid
        rows = starts[:, None] + np.arange(0, unit_rows, grid.chunk_rows)
        which, inside = np.divmod(rows // grid.chunk_rows, grid.chunks)
        there = rows < self._n_rows
        numbers = np.unique(which[:, 0])
        opened = self._shards({(path, number) for number in numbers.tolist()})
        files = np.empty(len(starts), np.int64)
        crcs = np.zeros(rows.shape, np.uint32)
        for number in numbers.tolist():
            shard, mine = opened[path, number], which[:, 0] == number
            assert isinstance(shard.file, LocalFile)  # noqa: S101 - the caller asked
            files[mine] = shard.file.descriptor
            chosen = mine[:, None] & there
            crcs[chosen] = shard.crcs[inside[chosen]]
        offsets = np.where(there, inside * (grid.chunk_bytes + shards.CRC), -1)
        return Located(files, offsets, crcs, tuple(opened.values()))

    def check_shard(self, path: str, shard: int) -> None:
        """Check one shard as reading does on first touch: its size, and its tail.

        Raises:
            DamagedArtefactError: It is missing, has another size or is another shard.
        """
        self._shards([(path, shard)])

    def _runs(
        self, path: str, start: int, stop: int, out: Shaped[np.ndarray, "row ..."]
    ) -> Iterator["_Run"]:
        """Cut rows into runs of neighbouring chunks of one shard."""
        if not 0 <= start <= stop <= self._n_rows:
            raise IndexError(f"rows {start} to {stop} of a store with {self._n_rows} rows")
        array = self._arrays[path]
        grid = array.grid
        size, at_once = grid.chunk_rows, max(AT_ONCE // grid.chunk_bytes, 1)
        row = start
        while row < stop:
            chunk, within = divmod(row, size)
            shard, inside = divmod(chunk, grid.chunks)
            whole = 0 if within else min((stop - row) // size, at_once)
            if whole:
                # Not beyond the shard: the next one is another file.
                whole = min(whole, grid.chunks - inside, _LONGEST_VECTOR // 2)
                end = row + whole * size
                yield _Run(path, shard, inside, out[row - start : end - start])
            else:
                end = min(stop, (chunk + 1) * size)
                kept = np.empty((size, *array.tail), array.stored)
                wanted = kept[within : within + end - row]
                yield _Run(path, shard, inside, kept, wanted, out[row - start : end - start])
            row = end

    def _read_runs(self, runs: Sequence["_Run"], files: Mapping[tuple[str, int], "_Shard"]) -> None:
        """Read runs and compare each chunk with its crc32c as soon as it is there."""
        found = [files[run.path, run.shard] for run in runs]
        chunks = [run.pieces(self._arrays[run.path].grid) for run in runs]
        pieces = [
            shard.pieces(run, each) for shard, run, each in zip(found, runs, chunks, strict=True)
        ]
        ranges = [
            Range(
                shard.file,
                shard.offset(self._arrays[run.path].grid, run.chunk),
                [piece for pair in each for piece in pair],
                unit=2,
            )
            for shard, run, each in zip(found, runs, pieces, strict=True)
        ]
        for index, got in self._shard_files.read_many(ranges):
            each, run = ranges[index], runs[index]
            if got != each.length:
                raise self._short(each.file.name, each.length - got)
            self._compare(each.file.name, run.chunk, pieces[index], found[index].crcs)
            if found[index].lengths is not None:
                self._unpack(each.file.name, run, pieces[index], chunks[index])
            if run.target is not None:
                run.target[...] = run.wanted

    def _compare(
        self, name: str, chunk: int, pieces: "_Pieces", crcs: UInt32[np.ndarray, " chunk"]
    ) -> None:
        """Compare chunks that follow each other with their crc32c, theirs and the file list's."""
        wrong = []
        for place, (data, crc) in enumerate(pieces, start=chunk):
            stored = int.from_bytes(crc, "little")
            if crc32c.crc32c(data) != stored or crcs[place] != stored:
                wrong.append(f"{name}: chunk {place} does not match its crc32c")
        if wrong:
            raise self._damaged(*wrong)

    def _unpack(self, name: str, run: "_Run", packed: "_Pieces", chunks: "_Pieces") -> None:
        """Unpack compressed chunks that were found as they were written."""
        for place, ((data, _), (out, _)) in enumerate(zip(packed, chunks, strict=True)):
            try:
                shards.unpack(data, out)
            except ValueError as error:
                raise self._damaged(f"{name}: chunk {run.chunk + place}: {error}") from error

    def _shards(self, wanted: Collection[tuple[str, int]]) -> dict[tuple[str, int], "_Shard"]:
        """Return shards by array and number; those not open yet are opened, and checked."""
        with self._lock:
            found = {}
            closed = {}
            for path, shard in wanted:
                name = layout.shard_file(path, shard, ndim=1 + len(self._arrays[path].tail))
                if name in self._files:
                    self._files.move_to_end(name)
                    found[path, shard] = self._files[name]
                else:
                    closed[path, shard] = name
            for path in {path for path, _ in closed}:
                self._listed.touched(path)
            found.update(self._opened(closed))
            for key, name in closed.items():
                self._files[name] = found[key]
            while len(self._files) > self._shard_files.kept:
                # Not closed here: another thread may be reading it. Its last user closes it.
                self._files.popitem(last=False)
            return found

    def _opened(
        self, names: Mapping[tuple[str, int], str]
    ) -> Iterator[tuple[tuple[str, int], "_Shard"]]:
        """Open shards: compare their sizes and the ends of them with the file list and the grid."""
        wanted = []
        for (path, shard), name in names.items():
            if name not in self._listed.payload:
                raise self._damaged(f"{name}: not in the artefact's file list")
            tail = self._arrays[path].grid.tail_bytes(self._rows_of(path, shard))
            wanted.append(Opening(name, self._listed.payload[name][0], tail))
        opened = self._shard_files.open_many(wanted)
        for (path, shard), each, found in zip(names, wanted, opened, strict=True):
            if found is None:
                raise self._damaged(f"{each.name}: missing")
            file, end = found
            if file.size != each.size:
                raise self._damaged(f"{each.name}: {file.size} bytes, expected {each.size}")
            array, rows = self._arrays[path], self._rows_of(path, shard)
            listed, packed = self._listed.payload[each.name][1], array.zstd_level is not None
            lengths = None
            try:
                crcs = shards.crcs_of(end, array.grid, rows, listed, packed=packed)
                if packed:
                    lengths = array.grid.lengths(end, rows, each.size)
            except ValueError as error:
                raise self._damaged(f"{each.name}: {error}") from error
            yield (path, shard), _Shard(file, crcs, lengths)

    def _rows_of(self, path: str, shard: int) -> int:
        grid = self._arrays[path].grid
        return min(self._n_rows - shard * grid.shard_rows, grid.shard_rows)

    def _short(self, name: str, missing: int) -> DamagedArtefactError:
        return self._damaged(f"{name}: ends {missing} bytes too early")

    def _damaged(self, *damage: str) -> DamagedArtefactError:
        return DamagedArtefactError(name=self._listed.name, damage=damage)


_Pieces = list[tuple[memoryview, bytearray]]
"""The buffers of each chunk and of its crc32c."""


class _Shard(NamedTuple):
    """One open shard.

    Attributes:
        file: What is read.
        crcs: The crc32c of each of its chunks, as the file list vouches for them.
        lengths: Bytes of each chunk with its crc32c, if they are compressed.
    """

    file: ShardFile
    crcs: UInt32[np.ndarray, " chunk"]
    lengths: Int64[np.ndarray, " chunk"] | None = None

    def offset(self, grid: shards.Grid, chunk: int) -> int:
        """Return where a chunk begins."""
        return grid.offset(chunk) if self.lengths is None else int(self.lengths[:chunk].sum())

    def pieces(self, run: "_Run", chunks: _Pieces) -> _Pieces:
        """Return where the stored bytes of a run go: into its own buffers, or beside, compressed."""
        if self.lengths is None:
            return chunks
        lengths = self.lengths[run.chunk : run.chunk + len(chunks)] - shards.CRC
        return [
            (memoryview(bytearray(int(length))), crc)
            for length, (_, crc) in zip(lengths, chunks, strict=True)
        ]


@dataclass(frozen=True)
class Located:
    """Where the chunks of units of rows lie.

    Attributes:
        files: Descriptor of each unit's file.
        offsets: Where each of its chunks begins in it; -1 beyond the last row of the store.
        crcs: What each chunk's crc32c must be.
        held: What keeps the files open.
    """

    files: Int64[np.ndarray, " unit"]
    offsets: Int64[np.ndarray, "unit chunk"]
    crcs: UInt32[np.ndarray, "unit chunk"]
    held: tuple[_Shard, ...]


@dataclass(frozen=True)
class _Run:
    """Neighbouring whole chunks of one shard, and where they go.

    Attributes:
        path: The array.
        shard: The shard's number.
        chunk: The first chunk's number in it.
        rows: The buffer they fill.
        wanted: The rows of it that were asked for, if not all.
        target: Where those are copied.
    """

    path: str
    shard: int
    chunk: int
    rows: Shaped[np.ndarray, "row ..."]
    wanted: Shaped[np.ndarray, "_ ..."] | None = None
    target: Shaped[np.ndarray, "_ ..."] | None = None

    def pieces(self, grid: shards.Grid) -> _Pieces:
        """Return the buffers of each chunk and of its crc32c."""
        return _pieces(self.rows, grid)


def _pieces(rows: Shaped[np.ndarray, "row ..."], grid: shards.Grid) -> _Pieces:
    flat = rows.reshape(-1).view(np.uint8).data
    places = range(0, len(flat), grid.chunk_bytes)
    return [(flat[at : at + grid.chunk_bytes], bytearray(shards.CRC)) for at in places]
