"""The file list of an artefact: size and checksum of each payload file.

A store of 1e11 rows has more than a million files. So the list stays in Arrow's columns, sorted by
path, and is looked up by bisection: it takes a sixth of a dictionary's memory and no time to build.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import override

from saestore.lake import table_file


class FileList(Mapping[str, tuple[int, str]]):
    """Size and checksum of each file, by path, in the order of paths."""

    def __init__(self, table: pa.Table) -> None:
        """Take the columns path, bytes and checksum.

        Args:
            table: See `saestore_schemas.tables.FILES`.
        """
        paths, sizes, checksums = (
            table.column(name).combine_chunks() for name in ("path", "bytes", "checksum")
        )
        if not pc.all(pc.less(paths[:-1], paths[1:])).as_py():
            order = pc.sort_indices(paths)
            paths, sizes, checksums = (each.take(order) for each in (paths, sizes, checksums))
        # Arrow's stubs make optional what the table's schema does not.
        self._paths: Any = paths
        self._sizes: Any = sizes
        self._checksums: Any = checksums

    @classmethod
    def parse(cls, data: bytes) -> "FileList":
        """Return the list in the bytes of a Parquet file."""
        return cls(table_file.from_bytes(data))

    @override
    def __getitem__(self, path: str) -> tuple[int, str]:
        """Return size and checksum of a file.

        Raises:
            KeyError: It is not listed.
        """
        place = self._place(path)
        if place == len(self) or self._paths[place].as_py() != path:
            raise KeyError(path)
        return self._sizes[place].as_py(), self._checksums[place].as_py()

    @override
    def __iter__(self) -> Iterator[str]:
        """Yield the paths in order."""
        return iter(self._paths.to_pylist())

    @override
    def __len__(self) -> int:
        """Return how many files are listed."""
        return len(self._paths)

    def all(self) -> dict[str, tuple[int, str]]:
        """Return the whole list as a dictionary, for who will ask for every file."""
        facts = zip(self._sizes.to_pylist(), self._checksums.to_pylist(), strict=True)
        return dict(zip(self._paths.to_pylist(), facts, strict=True))

    def below(self, folder: str) -> list[str]:
        """Return the paths of the files below a folder, in order."""
        start, stop = self._place(f"{folder}/"), self._place(f"{folder}{chr(ord('/') + 1)}")
        found: list[str] = self._paths[start:stop].to_pylist()
        return found

    def _place(self, path: str) -> int:
        return bisect_left(range(len(self)), path, key=lambda place: self._paths[place].as_py())
