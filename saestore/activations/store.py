"""Reading a store: any range of rows, checked on the way.

Opening compares the sizes of the small files; a shard's size and index are checked when it is first
touched, and every chunk's crc32c each time it is read. Local uncompressed shards are read directly:
the offset of a chunk is computed, one `pread` fetches it with its checksum.
"""

import io
import os
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float32, Int32, Int64, Shaped, UInt8

from saestore.activations import codecs, layout as stores, shards
from saestore.activations.layout import HookInfo
from saestore.activations.moments import Moments
from saestore.activations.split import Split, rows_of, split_contexts
from saestore.errors import DamagedArtefactError, HookpointNotFoundError
from saestore.lake import Lake, Ref, Storage, layout, manifest as manifests
from saestore_schemas.generate import GenerateSettings
from saestore_schemas.manifest import Manifest


_OPEN_SHARDS = 64
"""Files kept open; more are closed, oldest first."""


class ActivationStore:
    """One activations artefact, read-only.

    Attributes:
        ref: Kind and name.
        manifest: Its manifest.
        settings: The settings that made it.
        hookpoints: Width and type of each hookpoint.
        n_rows: Rows, those that training skips included.
        n_contexts: Contexts.
    """

    def __init__(self, artefact: Storage, ref: Ref, manifest: Manifest) -> None:
        self.ref = ref
        self.manifest = manifest
        self.settings = GenerateSettings.model_validate(manifest.settings)
        self.n_rows = manifest.counts["rows"]
        self.n_contexts = manifest.counts["contexts"]
        self._artefact = artefact
        self._payload = manifests.payload(artefact, manifest)
        widths = {
            layout.hookpoint_of(path.removeprefix(f"{layout.HOOKS}/")): info.shape[1]
            for path, info in manifest.arrays.items()
            if path.startswith(f"{layout.HOOKS}/")
        }
        self.spec = stores.Spec(widths, self.settings.dtype, self.settings.store)
        self.hookpoints = {n: HookInfo(w, self.settings.dtype) for n, w in widths.items()}
        self._arrays = self.spec.arrays()
        self._files: OrderedDict[str, _Shard] = OrderedDict()

    @classmethod
    def open(cls, lake: Lake, name: str) -> "ActivationStore":
        """Return the store of that name.

        Raises:
            ArtefactNotFoundError: There is none; the nearest names are given.
            DamagedArtefactError: A file is missing or has another size than it should.
        """
        ref = Ref("activations", name)
        manifest = lake.manifest(ref)
        artefact = lake.artefact(ref)
        store = cls(artefact, ref, manifest)
        wrong = [
            f"{path}: {'missing' if found is None else f'{found} bytes'}, expected {size} bytes"
            for path, (size, _) in store._payload.items()
            if (found := artefact.size(path)) != size
        ]
        if wrong:
            raise DamagedArtefactError(name=name, damage=tuple(wrong))
        return store

    def read(self, hookpoint: str, start: int, stop: int) -> Float32[np.ndarray, "row d"]:
        """Return rows start to stop of a hookpoint, exactly as stored, checked.

        Raises:
            HookpointNotFoundError: The store has no such hookpoint.
            DamagedArtefactError: A chunk does not match its crc32c.
        """
        path = self.array_of(hookpoint)
        return codecs.decode(self._rows(path, start, stop), self.spec.dtype)

    def array_of(self, hookpoint: str) -> str:
        """Return the path of a hookpoint's array.

        Raises:
            HookpointNotFoundError: The store has no such hookpoint.
        """
        if hookpoint not in self.hookpoints:
            raise HookpointNotFoundError(
                pattern=hookpoint,
                where=f"activations {self.ref.name!r}",
                known=tuple(self.hookpoints),
            )
        return layout.hook_array(hookpoint)

    def tokens(self, start: int = 0, stop: int | None = None) -> Int32[np.ndarray, " row"]:
        """Return the token ids of rows start to stop."""
        stop = self.n_rows if stop is None else stop
        return self._rows(layout.TOKENS, start, stop).astype(np.int32, copy=False)

    def flags(self, start: int = 0, stop: int | None = None) -> UInt8[np.ndarray, " row"]:
        """Return the flags of rows start to stop; 0 is kept."""
        stop = self.n_rows if stop is None else stop
        return self._rows(layout.FLAGS, start, stop).astype(np.uint8, copy=False)

    def contexts(self) -> Int64[np.ndarray, "context 2"]:
        """Return first row and length of each context."""
        return self._small(layout.CONTEXTS)

    def segments(self) -> Int64[np.ndarray, "segment 6"]:
        """Return context, start, length, document, token and character offset of each segment."""
        return self._small(layout.SEGMENTS)

    def documents(self) -> pa.Table:
        """Return the documents with their metadata columns.

        Raises:
            DamagedArtefactError: A file does not match its checksum.
        """
        parts = sorted(p for p in self._payload if p.startswith(f"{layout.DOCUMENTS}/"))
        return pa.concat_tables([pq.read_table(io.BytesIO(self._file(path))) for path in parts])

    def vocabulary(self) -> pa.Table:
        """Return the tokenizer's vocabulary.

        Raises:
            DamagedArtefactError: The file does not match its checksum.
        """
        return pq.read_table(io.BytesIO(self._file(layout.VOCABULARY)))

    def moments(self, hookpoint: str) -> Moments:
        """Return a hookpoint's moments over all kept rows, shards merged in order.

        Raises:
            HookpointNotFoundError: The store has no such hookpoint.
        """
        base = self.array_of(hookpoint).replace(layout.HOOKS, layout.MOMENTS, 1)
        read = {
            name: stores.read_small_array(self._artefact, f"{base}/{name}").astype(np.float64)
            for name in ("mean", "m2", "min", "max", "sums")
        }
        total = Moments.none(self.hookpoints[hookpoint].width)
        for shard, sums in enumerate(read["sums"]):
            total = total.merge(
                Moments(
                    count=int(sums[0]),
                    norm_sum=float(sums[1]),
                    norm_sq_sum=float(sums[2]),
                    **{name: read[name][shard] for name in ("mean", "m2", "min", "max")},
                )
            )
        return total

    def kept(self, split: Split = "all", share: float = 0.0) -> Bool[np.ndarray, " row"]:
        """Return which rows of the store training and statistics use, of one split.

        Args:
            split: All contexts, those that training sees, or those held out.
            share: Share of contexts held out.
        """
        chosen = split_contexts(self.n_contexts, split, share)
        return (self.flags() == 0) & rows_of(self.contexts(), chosen, self.n_rows)

    def read_chunk(self, path: str, chunk: int) -> Shaped[np.ndarray, "row ..."]:
        """Return one chunk of a row array as stored, padding included, checked.

        Args:
            path: The array.
            chunk: Its number in the whole array.

        Raises:
            DamagedArtefactError: It does not match its crc32c.
        """
        array = self._arrays[path]
        grid = array.grid
        shard, inside = divmod(chunk, grid.chunks)
        data = self._shard(path, shard).read(grid.offset(inside), grid.chunk_bytes + shards.CRC)
        file = layout.shard_file(path, shard, ndim=1 + len(array.tail))
        shards.check_chunk(data, artefact=self.ref.name, file=file, chunk=inside)
        rows: Shaped[np.ndarray, "row ..."] = np.frombuffer(data[: -shards.CRC], array.stored)
        return rows.reshape(-1, *array.tail)

    def _rows(self, path: str, start: int, stop: int) -> Shaped[np.ndarray, "row ..."]:
        array = self._arrays[path]
        if not 0 <= start <= stop <= self.n_rows:
            raise IndexError(f"rows {start} to {stop} of a store with {self.n_rows} rows")
        size = array.grid.chunk_rows
        out = np.empty((stop - start, *array.tail), array.stored)
        for chunk in range(start // size, -(-stop // size)):
            first = chunk * size
            low, high = max(start, first), min(stop, first + size)
            out[low - start : high - start] = self.read_chunk(path, chunk)[
                low - first : high - first
            ]
        return out

    def _small(self, path: str) -> Int64[np.ndarray, "row ..."]:
        try:
            return stores.read_small_array(self._artefact, path).astype(np.int64)
        except ValueError as error:  # zarr-python's word for a wrong crc32c
            raise DamagedArtefactError(name=self.ref.name, damage=(f"{path}: {error}",)) from error

    def _file(self, path: str) -> bytes:
        data = self._artefact.read(path)
        if manifests.checksum_of(data) != self._payload[path][1]:
            raise DamagedArtefactError(
                name=self.ref.name, damage=(f"{path}: does not match its checksum",)
            )
        return data

    def _shard(self, path: str, shard: int) -> "_Shard":
        array = self._arrays[path]
        name = layout.shard_file(path, shard, ndim=1 + len(array.tail))
        if name in self._files:
            self._files.move_to_end(name)
            return self._files[name]
        rows = min(self.n_rows - shard * array.grid.shard_rows, array.grid.shard_rows)
        manifests.check_size(self._artefact, self.ref.name, name, self._payload.get(name))
        opened = _Shard(self._artefact, name)
        index = array.grid.index(rows)
        at = array.grid.file_bytes(rows) - len(index)
        if bytes(opened.read(at, len(index))) != index:
            raise DamagedArtefactError(
                name=self.ref.name, damage=(f"{name}: its chunk index is not what it must be",)
            )
        self._files[name] = opened
        if len(self._files) > _OPEN_SHARDS:
            self._files.popitem(last=False)[1].close()
        return opened


@dataclass
class _Shard:
    """One shard file, kept open while it is local."""

    artefact: Storage
    name: str
    _descriptor: int | None = None

    def read(self, offset: int, size: int) -> memoryview:
        """Return bytes of the file."""
        if self.artefact.local is None:
            data = self.artefact.fs.cat_file(
                self.artefact.join(self.name), start=offset, end=offset + size
            )
            return memoryview(data)
        if self._descriptor is None:
            self._descriptor = os.open(self.artefact.path(self.name), os.O_RDONLY)
        return memoryview(os.pread(self._descriptor, size, offset))

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        self.close()
