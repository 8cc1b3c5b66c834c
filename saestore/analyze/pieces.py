"""What encoding leaves behind: the firings of fixed stretches of rows, so that no row is encoded twice.

    <analysis>/.progress/parts/pieces/000012-000.arrow     firings, in context order, some blocks a file
                                      000012.json          written last: sizes and checksums of those

A piece is whole blocks of rows, as many whatever the machine, the number of processes or a restart. So a
run that was killed encodes what is missing, several processes encode pieces beside each other, and what
is added up block by block (`Sums`) is added up in one order. Tables are made of all pieces, by one process.
"""

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from saestore.analyze.sort import Firings
from saestore.errors import DamagedArtefactError
from saestore.lake import Storage, layout
from saestore.lake.manifest import checksum_of, matches
from saestore.lake.parts import Part, State


FOLDER = f"{layout.PARTS}/pieces"
"""Where they are, in an unfinished analysis."""

BLOCKS = 16
"""Blocks of rows in a piece."""

_FIRINGS = 1 << 20
"""Firings held before they are written: 14 MiB."""

_SUMS = "{:06d}-sums.npz"
_COUNTS = (b"rows", b"firings", b"several_gates")
"""What a file of firings says of itself."""

Sums = Mapping[str, np.ndarray]
"""What was added up over the rows of a piece, by name."""


@dataclass(frozen=True)
class Encoded:
    """Some rows after encoding.

    Attributes:
        rows: How many.
        firings: What fires on them, in order of row, then feature.
        at_gates: The same at each gate, gate g of feature i as number i gates + g; None, of one gate.
    """

    rows: int
    firings: Firings
    at_gates: Firings | None = None


class Pieces:
    """The pieces of one analysis.

    Attributes:
        count: How many there are.
    """

    def __init__(self, artefact: Storage, *, rows: int, block_rows: int) -> None:
        """Say what pieces there are; nothing is read.

        Args:
            artefact: The analysis's folder.
            rows: Rows that are encoded.
            block_rows: Rows of one block.
        """
        self._artefact = artefact
        self._rows = rows
        self._each = BLOCKS * block_rows
        self.count = -(-rows // self._each)

    def span(self, number: int) -> tuple[int, int]:
        """Return the first row of a piece and the one after its last."""
        return number * self._each, min((number + 1) * self._each, self._rows)

    def of(self, part: Part) -> range:
        """Return the pieces that one of several processes encodes: neighbours."""
        first, last = (self.count * index // part.count for index in (part.index, part.index + 1))
        return range(first, last)

    def rows(self, numbers: Iterable[int]) -> int:
        """Return the rows of some pieces."""
        return sum(stop - start for start, stop in map(self.span, numbers))

    def missing(self, numbers: Iterable[int]) -> list[int]:
        """Return those that are not there, or not as they were written."""
        return [number for number in numbers if not self._whole(number)]

    def state(self, part: Part) -> State:
        """Return how far one of several processes is."""
        own = self.of(part)
        there = sum(self._artefact.exists(_record(number)) for number in own)
        rows = self.rows(own) if there == len(own) else None
        return State(part, begun=there > 0, rows=rows, shards=there, unit="pieces")

    def write(self, number: int, found: Iterable[Encoded], sums: Callable[[], Sums]) -> None:
        """Write a piece; it counts from when its record is there.

        Args:
            number: Which.
            found: Its blocks, in order.
            sums: Returns what was added up while they were taken.

        Raises:
            StorageError: The disk is full or read-only.
        """
        files: dict[str, tuple[int, str]] = {}
        held: list[Encoded] = []

        def put(name: str, data: bytes) -> None:
            self._artefact.write(f"{FOLDER}/{name}", data)
            files[name] = len(data), checksum_of(data)

        def flush() -> None:
            if held:
                put(f"{number:06d}-{len(files):03d}.arrow", _bytes(held))
                held.clear()

        for each in found:
            held.append(each)
            if sum(len(one.firings) for one in held) >= _FIRINGS:
                flush()
        flush()
        added = sums()
        if added:
            buffer = io.BytesIO()
            np.savez(buffer, allow_pickle=False, **added)
            put(_SUMS.format(number), buffer.getvalue())
        self._artefact.write(_record(number), json.dumps(files).encode())

    def read(self, number: int) -> Iterator[Encoded]:
        """Yield what was written of a piece, some blocks at a time.

        Raises:
            DamagedArtefactError: Its bytes are not those that were written.
        """
        for name, data in self._files(number):
            if name != _SUMS.format(number):
                table = pa.ipc.open_stream(data).read_all()
                rows, cut, several = (int(table.schema.metadata[key]) for key in _COUNTS)
                at_gates = _firings(table.slice(cut)) if several else None
                yield Encoded(rows, _firings(table.slice(0, cut)), at_gates)

    def sums(self, number: int) -> Sums:
        """Return what was added up over a piece; empty, nothing."""
        for name, data in self._files(number):
            if name == _SUMS.format(number):
                with np.load(io.BytesIO(data)) as held:
                    return dict(held)
        return {}

    def _files(self, number: int) -> Iterator[tuple[str, bytes]]:
        for name, (_, checksum) in json.loads(self._artefact.read(_record(number))).items():
            data = self._artefact.read(f"{FOLDER}/{name}")
            if not matches(data, checksum):
                raise DamagedArtefactError(
                    name=f"{FOLDER}/{name}", damage=("its bytes are not those that were written",)
                )
            yield name, data

    def _whole(self, number: int) -> bool:
        if not self._artefact.exists(_record(number)):
            return False
        try:
            files = json.loads(self._artefact.read(_record(number)))
        except ValueError:  # a disk that lies
            return False
        return all(
            self._artefact.size(f"{FOLDER}/{name}") == size
            and matches(self._artefact.read(f"{FOLDER}/{name}"), checksum)
            for name, (size, checksum) in files.items()
        )


def _record(number: int) -> str:
    return f"{FOLDER}/{number:06d}.json"


def _bytes(found: list[Encoded]) -> bytes:
    """Return blocks as a file: firings of features, then those at gates."""
    features = [each.firings for each in found]
    gates = [each.at_gates for each in found if each.at_gates is not None]
    columns = {
        name: pa.array(np.concatenate([getattr(each, name) for each in (*features, *gates)]))
        for name in ("feature", "context", "position", "value")
    }
    rows, firings = sum(each.rows for each in found), sum(map(len, features))
    counts = map(str, (rows, firings, int(bool(gates))))
    table = pa.table(columns, metadata=dict(zip(_COUNTS, counts, strict=True)))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _firings(table: pa.Table) -> Firings:
    return Firings(**{name: table[name].to_numpy() for name in table.column_names})
