"""Reading a store: any range of rows, checked on the way.

Opening compares the sizes of the small files and reads nothing of the shards, however many there are.
An array's metadata and a shard's size and index are checked when they are first touched, a chunk's
crc32c each time it is read. Local shards are read directly: offsets are computed, and one `preadv`
fetches neighbouring chunks into their places and their checksums beside them.
"""

import io
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from functools import reduce

import crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float32, Int32, Int64, Shaped, UInt8
from pydantic import ValidationError

from saestore.activations import codecs, layout as stores, shards
from saestore.activations.layout import HookInfo
from saestore.activations.moments import Moments
from saestore.activations.split import Split, rows_of, split_contexts
from saestore.errors import ConfigError, DamagedArtefactError, HookpointNotFoundError
from saestore.lake import Lake, Ref, Storage, layout, manifest as manifests
from saestore_schemas.activations import StoreRecord
from saestore_schemas.lm import LmSettings
from saestore_schemas.manifest import Manifest


_OPEN_SHARDS = 64
"""Files kept open; more are closed, oldest first."""
_AT_ONCE = 4 << 20
"""Bytes fetched by one call, if chunks are not larger: a few chunks that stay in cache."""
_LONGEST_VECTOR = 1024
"""Buffers that one `preadv` may fill (IOV_MAX of Linux and macOS)."""


class ActivationStore:
    """One activations artefact, read-only.

    Attributes:
        ref: Kind and name.
        manifest: Its manifest.
        record: What it is, whoever made it: type, shape on disk, language model, longest context.
        hookpoints: Width and type of each hookpoint.
        n_rows: Rows, those that training skips included.
        n_contexts: Contexts.
    """

    def __init__(
        self, artefact: Storage, ref: Ref, manifest: Manifest, *, check_metadata: bool = True
    ) -> None:
        """Read the file list; see `open`.

        Args:
            artefact: The store's folder.
            ref: Its kind and name.
            manifest: Its manifest.
            check_metadata: Compare the Zarr metadata of an array with its checksum before reading
                the array, which does not need it; other readers do.
        """
        self.ref = ref
        self.manifest = manifest
        self.record = _record(manifest)
        self.n_rows = manifest.counts["rows"]
        self.n_contexts = manifest.counts["contexts"]
        self._artefact = artefact
        self._payload = manifests.payload(artefact, manifest)
        widths = {
            layout.hookpoint_of(path.removeprefix(f"{layout.HOOKS}/")): info.shape[1]
            for path, info in manifest.arrays.items()
            if path.startswith(f"{layout.HOOKS}/")
        }
        self.spec = stores.Spec(widths, self.record)
        self.hookpoints = {n: HookInfo(w, self.record.dtype) for n, w in widths.items()}
        self._arrays = self.spec.arrays()
        self._files: OrderedDict[str, _Shard] = OrderedDict()
        self._checked: set[str] = set() if check_metadata else set(self._arrays)
        self._lock = threading.Lock()

    @classmethod
    def open(cls, lake: Lake, name: str) -> "ActivationStore":
        """Return the store of that name.

        Raises:
            ArtefactNotFoundError: There is none; the nearest names are given.
            IncompleteArtefactError: It was started and not finished.
            DamagedArtefactError: A small file is missing or has another size than it should.
        """
        ref = Ref("activations", name)
        manifest = lake.manifest(ref)
        artefact = lake.artefact(ref)
        store = cls(artefact, ref, manifest)
        small = {p: facts for p, facts in store._payload.items() if not store._is_shard(p)}
        wrong = manifests.wrong_sizes(artefact, small)
        if wrong:
            raise DamagedArtefactError(name=name, damage=tuple(wrong))
        return store

    def read(self, hookpoint: str, start: int, stop: int) -> Float32[np.ndarray, "row d"]:
        """Return rows start to stop of a hookpoint, exactly as stored, checked.

        Raises:
            HookpointNotFoundError: The store has no such hookpoint.
            DamagedArtefactError: A chunk does not match its crc32c, or its shard is missing,
                truncated or not the one it should be.
        """
        path = self.array_of(hookpoint)
        out = np.empty((stop - start, self.hookpoints[hookpoint].width), np.float32)
        if self.spec.dtype == "float32":
            self.read_stored(path, start, stop, out)
            return out
        array = self._arrays[path]
        rows = max(_AT_ONCE // array.grid.chunk_bytes, 1) * array.grid.chunk_rows
        kept = np.empty((min(rows, stop - start), *array.tail), array.stored)
        row = start
        while row < stop:  # pieces end where chunks do
            end = min((row // rows + 1) * rows, stop)
            self.read_stored(path, row, end, kept[: end - row])
            codecs.decode(kept[: end - row], self.spec.dtype, out=out[row - start : end - start])
            row = end
        return out

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

    def language_model(self, other: str | None, *, field: str) -> LmSettings:
        """Return how to load the language model behind the store, or another one alike.

        Args:
            other: Name or directory of a model to take instead; None, the store's own.
            field: The setting that names it, for the error.

        Raises:
            ConfigError: The store was imported without saying its model, and no other is named.
        """
        own = self.record.lm
        if other is not None:
            if own is None:
                return LmSettings(model=other)
            return own.model_copy(update={"model": other, "revision": None})
        if own is None:
            raise ConfigError(
                field=field,
                problem=f"activations {self.ref.name!r} do not say which language model they are of",
                expected="its hub name or directory",
                hint=f"set {field}; or import the store again with its language model",
            )
        return own

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
        contexts: Int64[np.ndarray, "context 2"] = self._small(layout.CONTEXTS)
        return contexts

    def segments(self) -> Int64[np.ndarray, "segment 6"]:
        """Return context, start, length, document, token and character offset of each segment."""
        segments: Int64[np.ndarray, "segment 6"] = self._small(layout.SEGMENTS)
        return segments

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
            DamagedArtefactError: A file of them does not match its checksum.
        """
        parts = self.shard_moments(hookpoint)
        return reduce(Moments.merge, parts, Moments.none(self.hookpoints[hookpoint].width))

    def shard_moments(self, hookpoint: str) -> list[Moments]:
        """Return a hookpoint's moments over the kept rows of each shard.

        Raises:
            HookpointNotFoundError: The store has no such hookpoint.
            DamagedArtefactError: A file of them does not match its checksum.
        """
        base = self.array_of(hookpoint).replace(layout.HOOKS, layout.MOMENTS, 1)
        read = {
            name: self._small(f"{base}/{name}").astype(np.float64)
            for name in ("mean", "m2", "min", "max", "sums")
        }
        norms = self._small(f"{base}/norms")
        return [
            Moments(
                count=int(sums[0]),
                norm_sum=float(sums[1]),
                norm_sq_sum=float(sums[2]),
                norms=norms[shard],
                **{name: read[name][shard] for name in ("mean", "m2", "min", "max")},
            )
            for shard, sums in enumerate(read["sums"])
        ]

    def kept(self, split: Split = "all", share: float = 0.0) -> Bool[np.ndarray, " row"]:
        """Return which rows of the store training and statistics use, of one split.

        Args:
            split: All contexts, those that training sees, or those held out.
            share: Share of contexts held out.
        """
        chosen = split_contexts(self.n_contexts, split, share)
        kept: Bool[np.ndarray, " row"] = self.flags() == 0
        kept &= rows_of(self.contexts(), chosen, self.n_rows)
        return kept

    def read_stored(
        self, path: str, start: int, stop: int, out: Shaped[np.ndarray, "row ..."]
    ) -> None:
        """Read rows start to stop of a row array, in stored form, into a buffer of the caller.

        Args:
            path: The array.
            start: First row.
            stop: The row after the last.
            out: Contiguous, of the array's stored type.

        Raises:
            IndexError: The store has no such rows.
            DamagedArtefactError: See `read`.
        """
        if not 0 <= start <= stop <= self.n_rows:
            raise IndexError(f"rows {start} to {stop} of a store with {self.n_rows} rows")
        grid = self._arrays[path].grid
        size, at_once = grid.chunk_rows, max(_AT_ONCE // grid.chunk_bytes, 1)
        row = start
        while row < stop:
            chunk, within = divmod(row, size)
            whole = 0 if within else min((stop - row) // size, at_once)
            if whole:
                # Not beyond the shard: the next one is another file.
                whole = min(whole, grid.chunks - chunk % grid.chunks, _LONGEST_VECTOR // 2)
                end = row + whole * size
                self._whole_chunks(path, chunk, out[row - start : end - start])
            else:
                end = min(stop, (chunk + 1) * size)
                rows = self.read_chunk(path, chunk)
                out[row - start : end - start] = rows[within : within + end - row]
            row = end

    def read_chunk(self, path: str, chunk: int) -> Shaped[np.ndarray, "row ..."]:
        """Return one chunk of a row array as stored, padding included, checked.

        Args:
            path: The array.
            chunk: Its number in the whole array.

        Raises:
            DamagedArtefactError: See `read`.
        """
        array = self._arrays[path]
        rows = np.empty((array.grid.chunk_rows, *array.tail), array.stored)
        self._whole_chunks(path, chunk, rows)
        return rows

    def check_shard(self, path: str, shard: int) -> None:
        """Check one shard as reading does on first touch: its size, and its tail.

        Args:
            path: The array.
            shard: Its number.

        Raises:
            DamagedArtefactError: It is missing, has another size or is another shard.
        """
        self._shard(path, shard)

    def _whole_chunks(self, path: str, chunk: int, out: Shaped[np.ndarray, "row ..."]) -> None:
        """Read neighbouring chunks of one shard and compare each with its crc32c."""
        grid = self._arrays[path].grid
        number, inside = divmod(chunk, grid.chunks)
        shard = self._shard(path, number)
        flat = out.reshape(-1).view(np.uint8).data
        data = [flat[at : at + grid.chunk_bytes] for at in range(0, len(flat), grid.chunk_bytes)]
        crcs = [bytearray(shards.CRC) for _ in data]
        pieces = [piece for pair in zip(data, crcs, strict=True) for piece in pair]
        got = shard.read_into(grid.offset(inside), pieces)
        expected = len(data) * (grid.chunk_bytes + shards.CRC)
        if got != expected:
            raise self._damaged(f"{shard.name}: ends {expected - got} bytes too early")
        wrong = [
            f"{shard.name}: chunk {inside + index} does not match its crc32c"
            for index, (piece, crc) in enumerate(zip(data, crcs, strict=True))
            if crc32c.crc32c(piece) != int.from_bytes(crc, "little")
            or shard.crcs[inside + index] != int.from_bytes(crc, "little")
        ]
        if wrong:
            raise self._damaged(*wrong)

    def _rows(self, path: str, start: int, stop: int) -> Shaped[np.ndarray, "row ..."]:
        array = self._arrays[path]
        out = np.empty((max(stop - start, 0), *array.tail), array.stored)
        self.read_stored(path, start, stop, out)
        return out

    def _small(self, path: str) -> Shaped[np.ndarray, "..."]:
        """Return a small array after comparing its files with their checksums."""
        inside = [name for name in self._payload if name.startswith(f"{path}/")]
        try:
            return stores.parse_small({name: self._file(name) for name in inside}, path)
        except (ValueError, FileNotFoundError) as error:  # right bytes, and no array nevertheless
            raise self._damaged(f"{path}: {error}") from error

    def _file(self, path: str) -> bytes:
        if path not in self._payload:
            raise self._damaged(f"{path}: not in the artefact's file list")
        try:
            data = self._artefact.read(path)
        except FileNotFoundError as error:
            raise self._damaged(f"{path}: missing") from error
        if not manifests.matches(data, self._payload[path][1]):
            raise self._damaged(f"{path}: does not match its checksum")
        return data

    def _is_shard(self, path: str) -> bool:
        return path.rpartition("/")[0] in self._arrays and not path.endswith(stores.METADATA)

    def _damaged(self, *damage: str) -> DamagedArtefactError:
        return DamagedArtefactError(name=self.ref.name, damage=damage)

    def _shard(self, path: str, shard: int) -> "_Shard":
        array = self._arrays[path]
        name = layout.shard_file(path, shard, ndim=1 + len(array.tail))
        with self._lock:
            if name in self._files:
                self._files.move_to_end(name)
                return self._files[name]
            if path not in self._checked:
                self._file(f"{path}/{stores.METADATA}")
                self._checked.add(path)
            rows = min(self.n_rows - shard * array.grid.shard_rows, array.grid.shard_rows)
            manifests.check_size(self._artefact, self.ref.name, name, self._payload.get(name))
            opened = _Shard(self._artefact, name)
            tail = bytearray(array.grid.tail_bytes(rows))
            size, checksum = self._payload[name]
            if size == array.grid.file_bytes(rows):
                opened.read_into(size - len(tail), [tail])
            try:
                opened.crcs = shards.crcs_of(tail, array.grid, rows, checksum)
            except ValueError as error:
                raise self._damaged(f"{name}: {error}") from error
            self._files[name] = opened
            if len(self._files) > _OPEN_SHARDS:
                # Not closed here: another thread may be reading it. Its last user closes it.
                self._files.popitem(last=False)
            return opened


def _record(manifest: Manifest) -> StoreRecord:
    try:
        return StoreRecord.model_validate(manifest.facts.get(stores.RECORD))
    except ValidationError as error:
        problem = f"{layout.MANIFEST}: facts.{stores.RECORD}: {error.errors()[0]['msg']}"
        raise DamagedArtefactError(name=manifest.name, damage=(problem,)) from error


class _Shard:
    """One shard file; a local one is closed when nobody holds it any more."""

    def __init__(self, artefact: Storage, name: str) -> None:
        self.name = name
        self.crcs = np.empty(0, shards.CRCS)  # of each chunk, once the tail is checked
        self._artefact = artefact
        self._descriptor: int | None = None
        if artefact.local is not None:
            self._descriptor = os.open(artefact.path(name), os.O_RDONLY)
            weakref.finalize(self, os.close, self._descriptor)

    def read_into(self, offset: int, pieces: Sequence[memoryview | bytearray]) -> int:
        """Fill the pieces with the bytes from `offset` on; return how many there were."""
        if self._descriptor is not None:
            return os.preadv(self._descriptor, pieces, offset)
        end = offset + sum(len(piece) for piece in pieces)
        data = self._artefact.fs.cat_file(self._artefact.join(self.name), start=offset, end=end)
        at = 0
        for piece in pieces:
            part = data[at : at + len(piece)]
            piece[: len(part)] = part
            at += len(piece)
        return len(data)
