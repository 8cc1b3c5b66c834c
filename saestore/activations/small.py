"""Small arrays, written chunk by chunk: contexts, segments and moments of a store's shards.

A store of 1e11 rows has gigabytes of them, so they are never held whole. A chunk lies as Zarr's codecs
`bytes` and `crc32c` leave it, the last one filled up with zeros. Its checksum in the file list is a
sha256: the crc32c of what ends in its own crc32c says nothing but its length.
"""

import crc32c
import numpy as np
from jaxtyping import Shaped

from saestore.activations.layout import SmallSpec
from saestore.activations.shards import CRC
from saestore.lake import Storage, layout, manifest as manifests


class SmallArray:
    """One small array being written.

    Attributes:
        spec: Its shape and type.
        files: Size and checksum of the chunks written so far, by path.
    """

    def __init__(self, artefact: Storage, path: str, spec: SmallSpec) -> None:
        self.spec = spec
        self.files: dict[str, tuple[int, str]] = {}
        self._artefact = artefact
        self._path = path
        self._chunk = np.zeros((spec.chunk_entries, *spec.shape[1:]), spec.dtype)
        self._used = 0

    def append(self, entries: Shaped[np.ndarray, "_ ..."]) -> None:
        """Add entries; full chunks are written on the way.

        Raises:
            StorageError: The disk is full or read-only.
        """
        rest = entries
        while len(rest):
            count = min(len(rest), len(self._chunk) - self._used)
            self._chunk[self._used : self._used + count] = rest[:count]
            self._used += count
            rest = rest[count:]
            if self._used == len(self._chunk):
                self._flush()

    def close(self) -> dict[str, tuple[int, str]]:
        """Write the last chunk; return size and checksum of all, by path.

        Raises:
            StorageError: The disk is full or read-only.
        """
        if self._used:
            self._flush()
        return self.files

    def _flush(self) -> None:
        self._chunk[self._used :] = 0
        data = self._chunk.tobytes()
        data += crc32c.crc32c(data).to_bytes(CRC, "little")
        path = layout.shard_file(self._path, len(self.files), ndim=len(self.spec.shape))
        self._artefact.write(path, data)
        self.files[path] = (len(data), manifests.digest_of(data))
        self._used = 0
