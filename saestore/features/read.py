"""Rows of one feature table, read with row-group pruning: only the parts that can hold them."""

import io
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from threading import RLock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from saestore.errors import DamagedArtefactError, FormatVersionError
from saestore.lake import Storage, manifest as manifests
from saestore_schemas.manifest import Manifest
from saestore_schemas.table import TABLE_VERSION


_KEPT = 4
"""Row groups kept decoded whatever their size: neighbouring pages read the same ones."""


class TableReader:
    """One table of a finished analysis; rows are found by the column it is sorted by.

    Threads may share it; they read one after the other.
    """

    def __init__(
        self, artefact: Storage, manifest: Manifest, table: str, *, kept_mib: int = 0
    ) -> None:
        """Prepare to read; files are opened when rows are asked for.

        Args:
            artefact: The analysis's folder.
            manifest: Its manifest.
            table: Which table.
            kept_mib: Memory for row groups kept decoded, of a table whose rows are asked for in no order.
        """
        self._artefact = artefact
        self._manifest = manifest
        self._table = table
        self._decoded: OrderedDict[tuple[int, int], tuple[pa.Table, int]] = OrderedDict()
        self._room = kept_mib << 20
        self._held = 0
        self._texts: dict[str, pa.Field[Any]] = {}
        self._lock = RLock()
        self._known_bounds: dict[
            tuple[int, str], tuple[Int64[np.ndarray, " _"], Int64[np.ndarray, " _"]]
        ] = {}

    def check(self) -> None:
        """Open its files: they are there, of their size, and tables of this format.

        Raises:
            DamagedArtefactError: A file is missing, has another size or is no table.
            FormatVersionError: Another major version of the table wrote it.
        """
        with self._lock:
            _ = self._files

    def rows(
        self, key: str, values: Sequence[int], columns: Sequence[str] | None = None
    ) -> pa.Table:
        """Return the rows whose key is one of the values, in stored order.

        Args:
            key: The column that the table is sorted by.
            values: Its values.
            columns: Which columns are wanted; absent, all.

        Raises:
            DamagedArtefactError: A file is missing, has another size or cannot be read.
            FormatVersionError: Another major version of the table wrote it.
        """
        wanted = np.unique(np.asarray(values, dtype=np.int64))
        found = []
        with self._lock:
            files = self._files
        for part in range(len(files)):
            low, high = self._bounds(part, key)
            first = np.searchsorted(wanted, low)
            behind = np.searchsorted(wanted, high, side="right")
            for group in np.flatnonzero(behind > first).tolist():
                here = wanted[first[group] : behind[group]]
                with self._lock:
                    rows = self._group(part, group)
                # sorted, so equal keys are one slice; to_numpy or a filter would import pandas
                keys = np.from_dlpack(rows[key].combine_chunks())
                same = here.astype(keys.dtype)  # or the keys would be cast at every search
                starts = np.searchsorted(keys, same)
                stops = np.searchsorted(keys, same, side="right")
                shown = rows if columns is None else rows.select(columns)
                found += _cut(shown, starts, stops)
        if not found:
            none = files[0].schema_arrow.empty_table()
            found = [none if columns is None else none.select(columns)]
        whole = found[0] if len(found) == 1 else pa.concat_tables(found)
        return self._spelled(whole.combine_chunks())

    def whole(self, columns: Sequence[str]) -> pa.Table:
        """Return some columns of every row.

        Raises:
            DamagedArtefactError: A file is missing, has another size or cannot be read.
        """
        with self._lock, self._reading():
            found = pa.concat_tables([file.read(columns=list(columns)) for file in self._files])
        return self._spelled(found)

    @cached_property
    def _files(self) -> list[pq.ParquetFile]:
        paths = [path for path in self._artefact.files(self._table) if path.endswith(".parquet")]
        if not paths:
            raise DamagedArtefactError(
                name=self._manifest.name, damage=(f"{self._table}: missing",)
            )
        manifests.check_sizes(self._artefact, self._manifest, paths)
        files: list[pq.ParquetFile] = []
        for path in paths:
            try:
                source = self._opened(path)
                file = pq.ParquetFile(source)
                if not files:
                    self._texts = _repeating(file)
                names = list(self._texts)
                file = pq.ParquetFile(source, metadata=file.metadata, read_dictionary=names)
            except (pa.ArrowInvalid, OSError) as error:
                raise DamagedArtefactError(
                    name=self._manifest.name, damage=(f"{path}: {error}",)
                ) from error
            facts = file.schema_arrow.metadata or {}
            version = facts.get(b"saestore.table_version", b"none").decode()
            if version != str(TABLE_VERSION):
                raise FormatVersionError(file=path, found=version, supported=TABLE_VERSION)
            files.append(file)
        return files

    def _spelled(self, rows: pa.Table) -> pa.Table:
        """Return rows with the types of the table: texts spelled out."""
        names = rows.column_names
        for name, field in self._texts.items():
            if name in names:
                at = names.index(name)
                parts: list[Any] = rows.column(at).chunks
                chunks: list[pa.Array[Any]] = [part.dictionary_decode() for part in parts]
                rows = rows.set_column(at, field, pa.chunked_array(chunks, field.type))
        return rows

    def _bounds(
        self, part: int, key: str
    ) -> tuple[Int64[np.ndarray, " _"], Int64[np.ndarray, " _"]]:
        """Return the smallest and largest key of each row group of a file, from its footer, once."""
        if (part, key) not in self._known_bounds:
            self._known_bounds[part, key] = _bounds(self._files[part], key)
        return self._known_bounds[part, key]

    def _opened(self, path: str) -> str | io.BytesIO:
        if self._artefact.local is not None:
            return str(self._artefact.path(path))
        return io.BytesIO(self._artefact.read(path))

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowInvalid, OSError) as error:
            said = " ".join(str(error).split())
            raise DamagedArtefactError(
                name=self._manifest.name, damage=(f"{self._table}: {said}",)
            ) from error

    def _group(self, part: int, group: int) -> pa.Table:
        key = (part, group)
        if key not in self._decoded:
            with self._reading():
                # a group is small: to hand its columns to threads takes longer than to decode them
                rows = self._files[part].read_row_group(group, use_threads=False)
            # of tables that keep a few anyhow sizes do not matter, and take time to find
            size = rows.nbytes if self._room else 1
            self._decoded[key] = rows, size
            self._held += size
            while len(self._decoded) > _KEPT and self._held > self._room:
                self._held -= self._decoded.popitem(last=False)[1][1]
        self._decoded.move_to_end(key)
        return self._decoded[key][0]


def _repeating(file: pq.ParquetFile) -> dict[str, "pa.Field[Any]"]:
    """Return the columns of texts that are written as a dictionary: as such they are decoded at once."""
    if not file.metadata.num_row_groups:
        return {}
    group = file.metadata.row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    held = {column.path_in_schema for column in columns if column.has_dictionary_page}
    return {
        field.name: field
        for field in file.schema_arrow
        if pa.types.is_string(field.type) and field.name in held
    }


_FEW = 8
"""Ranges of rows that are cut out one by one; more are taken row by row, for the price of some."""


def _cut(
    rows: pa.Table, starts: Int64[np.ndarray, " _"], stops: Int64[np.ndarray, " _"]
) -> list[pa.Table]:
    """Return ranges of rows, those that touch as one and without empty ones."""
    if len(starts) == 1:
        (start,), (stop,) = starts.tolist(), stops.tolist()
        return [rows.slice(start, stop - start)] if stop > start else []
    there = stops > starts
    starts, stops = starts[there], stops[there]
    apart = starts[1:] != stops[:-1]
    first = np.concatenate([[True], apart])[: len(starts)]
    last = np.concatenate([apart, [True]])[: len(stops)]
    starts, stops = starts[first], stops[last]
    if len(starts) <= _FEW:
        ranges = zip(starts.tolist(), stops.tolist(), strict=True)
        return [rows.slice(start, stop - start) for start, stop in ranges]
    lengths = stops - starts
    ends = np.cumsum(lengths)
    return [rows.take(np.repeat(starts - ends + lengths, lengths) + np.arange(ends[-1]))]


def _bounds(
    file: pq.ParquetFile, key: str
) -> tuple[Int64[np.ndarray, " _"], Int64[np.ndarray, " _"]]:
    """Return the smallest and the largest key of each row group, from the footer's statistics."""
    column = file.schema_arrow.get_field_index(key)
    found = []
    for group in range(file.metadata.num_row_groups):
        statistics: Any = file.metadata.row_group(group).column(column).statistics
        known = statistics is not None and statistics.has_min_max
        found.append((int(statistics.min), int(statistics.max)) if known else (0, 1 << 62))
    both = np.array(found, dtype=np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]
