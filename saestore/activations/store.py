"""Reading a store: any range of rows, checked on the way.

Opening compares the sizes of the small files and reads nothing of the shards, however many there are.
An array's metadata is checked when it is first touched; `reading` checks shards and chunks.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from functools import reduce

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32, Int32, Int64, Shaped, UInt8
from pydantic import ValidationError

from saestore.activations import codecs, layout as stores, shards
from saestore.activations.layout import ArraySpec, HookInfo
from saestore.activations.moments import Moments
from saestore.activations.reading import AT_ONCE, Listed, Located, Read, RowReader
from saestore.activations.shard_file import shard_files
from saestore.activations.split import Split, rows_of, split_contexts
from saestore.errors import (
    ConfigError,
    DamagedArtefactError,
    HookpointNotFoundError,
    UnsupportedError,
)
from saestore.lake import Lake, Ref, Storage, layout, manifest as manifests, table_file
from saestore_schemas.activations import RowCapture, StoreRecord
from saestore_schemas.lm import LmSettings
from saestore_schemas.manifest import Manifest, Parent


class ActivationStore:
    """One activations artefact, read-only.

    Attributes:
        ref: Kind and name.
        manifest: Its manifest.
        record: What it is, whoever made it: type, shape on disk, language model, longest context.
        hookpoints: Width and type of each hookpoint.
        arrays: Every array that has one entry per row, by path.
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
            check_metadata: Compare Zarr's metadata of an array and its groups with their checksums
                before reading the array, which does not need it; other readers do.
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
            if path.startswith(f"{layout.HOOKS}/") and len(info.shape) > 1  # else int8's scales
        }
        self.spec = stores.Spec(widths, self.record)
        self.hookpoints = {n: HookInfo(w, self.record.dtype) for n, w in widths.items()}
        self.arrays: Mapping[str, ArraySpec] = self.spec.arrays()
        self._rows_read = RowReader(
            self.arrays,
            self.n_rows,
            shard_files(artefact, content=manifest.payload.digest),
            Listed(ref.name, self._payload, self._metadata),
        )
        self._deviations: dict[str, Float32[np.ndarray, ...]] = {}
        self._checked: set[str] = set()
        self._check_metadata = check_metadata

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
        if artefact.local is None:
            # Each size would be a request, however many; each file is compared when it is read.
            return store
        small = store._small_files()
        wrong = manifests.wrong_sizes(artefact, {path: store._payload[path] for path in small})
        if wrong:
            raise DamagedArtefactError(name=name, damage=tuple(wrong))
        return store

    def read(self, hookpoint: str, start: int, stop: int) -> Float32[np.ndarray, "row d"]:
        """Return rows start to stop of a hookpoint, exactly what was stored, checked.

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
        array = self.arrays[path]
        rows = max(AT_ONCE // array.grid.chunk_bytes, 1) * array.grid.chunk_rows
        kept = np.empty((min(rows, stop - start), *array.tail), array.stored)
        row = start
        while row < stop:  # pieces end where chunks do
            end = min((row // rows + 1) * rows, stop)
            self.read_stored(path, row, end, kept[: end - row])
            self.decode(hookpoint, kept[: end - row], row, out=out[row - start : end - start])
            row = end
        return out

    def decode(
        self,
        hookpoint: str,
        stored: Shaped[np.ndarray, "row d"],
        start: int,
        *,
        out: Float32[np.ndarray, "row d"] | None = None,
    ) -> Float32[np.ndarray, "row d"]:
        """Return what consecutive stored rows stand for; of int8 rows the scales are read.

        Args:
            hookpoint: Where they come from.
            stored: As `read_stored` gave them.
            start: The first one's number.
            out: Where the values go; absent, in new memory.

        Raises:
            DamagedArtefactError: See `read`.
        """
        if self.spec.dtype != "int8":
            return codecs.decode(stored, self.spec.dtype, out=out)
        scales = self.scales(hookpoint, start, start + len(stored))
        return codecs.dequantise(stored, scales, self.deviations(hookpoint), out=out)

    def scales(self, hookpoint: str, start: int, stop: int) -> Float32[np.ndarray, " row"]:
        """Return the scales of rows start to stop of a hookpoint in an int8 store.

        Raises:
            DamagedArtefactError: See `read`.
        """
        return self._rows(layout.scale_array(hookpoint), start, stop)

    def deviations(self, hookpoint: str) -> Float32[np.ndarray, " d"]:
        """Return by what an int8 store divides each dimension of a hookpoint.

        Raises:
            DamagedArtefactError: The file of them does not match its checksum.
        """
        if hookpoint not in self._deviations:
            self._deviations[hookpoint] = self._small(layout.deviation_array(hookpoint))
        return self._deviations[hookpoint]

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

    @property
    def parents(self) -> tuple[Parent, ...]:
        """How what is made of its rows names it."""
        return (manifests.parent_of(self.manifest),)

    def home(self, hookpoint: str) -> tuple["ActivationStore", str]:
        """Return the store that holds a hookpoint's rows, and what the hookpoint is called there.

        Raises:
            HookpointNotFoundError: The store has no such hookpoint.
        """
        self.array_of(hookpoint)
        return self, hookpoint

    @property
    def ranges_at_once(self) -> int:
        """How many ranges of rows a reader should ask `read_many` for together, if it can."""
        return self._rows_read.at_once

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

    @property
    def weights_fingerprint(self) -> str | None:
        """Digest of the weights of the language model behind it; None where it was not recorded."""
        lm = self.manifest.facts.get("lm")
        found = lm.get("fingerprint") if isinstance(lm, dict) else None
        return found if isinstance(found, str) else None

    def fits_model_of(self, other: "ActivationStore") -> bool:
        """Return whether it may be of the same language model as another store, processed alike.

        Equal weights are one model whatever it is called; where a store does not know its weights, the
        names decide. An imported store that names no model fits any.
        """
        mine, its = self.record.lm, other.record.lm
        if mine is None or its is None:
            return True
        one, two = self.weights_fingerprint, other.weights_fingerprint
        same = (
            one == two if one and two else (mine.model, mine.revision) == (its.model, its.revision)
        )
        return same and mine.processing == its.processing

    def tokens(self, start: int = 0, stop: int | None = None) -> Int32[np.ndarray, " row"]:
        """Return the token ids of rows start to stop."""
        stop = self.n_rows if stop is None else stop
        return self._rows(layout.TOKENS, start, stop).astype(np.int32, copy=False)

    def flags(self, start: int = 0, stop: int | None = None) -> UInt8[np.ndarray, " row"]:
        """Return the flags of rows start to stop; 0 is kept."""
        stop = self.n_rows if stop is None else stop
        return self._rows(layout.FLAGS, start, stop).astype(np.uint8, copy=False)

    @property
    def captures(self) -> tuple[RowCapture, ...]:
        """What each row has beside its activations: see `captured`."""
        return self.record.capture

    def captured(
        self, name: RowCapture, start: int = 0, stop: int | None = None
    ) -> Float32[np.ndarray, " row"]:
        """Return what rows start to stop have beside their activations.

        Raises:
            UnsupportedError: That was not captured.
            DamagedArtefactError: See `read`.
        """
        if name not in self.record.capture:
            raise UnsupportedError(
                f"activations {self.ref.name!r} hold no {name}",
                found="a store generated without it",
                expected=f"capture = ['{name}']",
                hint=f"generate them under another name with --set 'capture=[\"{name}\"]'",
            )
        stop = self.n_rows if stop is None else stop
        return self._rows(name, start, stop).astype(np.float32, copy=False)

    def contexts(self, start: int = 0, stop: int | None = None) -> Int64[np.ndarray, "context 2"]:
        """Return first row and length of contexts start to stop; only their chunks are read.

        Raises:
            IndexError: The store has no such contexts.
            DamagedArtefactError: A file of them does not match its checksum.
            UnsupportedError: It is a scattered copy, in which no context's rows stand together.
        """
        if self.record.scattered:
            original = self.manifest.parents[0].name
            raise UnsupportedError(
                f"{self.ref.name!r} is a scattered copy: its rows are for training, and no context's "
                "stand together",
                found="a scattered copy",
                expected="a store with contexts",
                hint=f"use the store it was made from: {original}",
            )
        if (start, stop) == (0, None):
            return self.context_table()
        stop = self.n_contexts if stop is None else stop
        return self._entries(layout.CONTEXTS, start, stop, self.n_contexts)

    def context_table(self) -> Int64[np.ndarray, "context 2"]:
        """Return those of all contexts; of a scattered copy, where they stand in the original."""
        contexts: Int64[np.ndarray, "context 2"] = self._small(layout.CONTEXTS)
        return contexts

    def segments_of(self, start: int, stop: int) -> Int64[np.ndarray, "segment 6"]:
        """Return the segments of contexts start to stop; see `segments`. Few chunks are read.

        Raises:
            IndexError: The store has no such contexts.
            DamagedArtefactError: A file of them does not match its checksum.
        """
        if not 0 <= start <= stop <= self.n_contexts:
            raise IndexError(f"contexts {start} to {stop} of a store with {self.n_contexts}")
        count = self.manifest.counts["segments"]
        chunks = range(-(-count // stores.CHUNK_CONTEXTS))

        def first(chunk: int) -> int:
            at = chunk * stores.CHUNK_CONTEXTS
            return int(self._entries(layout.SEGMENTS, at, at + 1, count)[0, 0])

        begin = max(bisect_left(chunks, start, key=first) - 1, 0) * stores.CHUNK_CONTEXTS
        end = min(bisect_left(chunks, stop, key=first) * stores.CHUNK_CONTEXTS, count)
        found = self._entries(layout.SEGMENTS, begin, max(begin, end), count)
        return found[(found[:, 0] >= start) & (found[:, 0] < stop)]

    def order(self, start: int = 0, stop: int | None = None) -> Int64[np.ndarray, " row"]:
        """Return which row of the original each row is; in a store that is no copy, its own."""
        stop = self.n_rows if stop is None else stop
        if not self.record.scattered:
            return np.arange(start, stop)
        return self._rows(layout.ORDER, start, stop).astype(np.int64, copy=False)

    def row_contexts(self, start: int = 0, stop: int | None = None) -> Int64[np.ndarray, " row"]:
        """Return the context of each row."""
        rows = self.order(start, stop)
        return np.searchsorted(self.context_table()[:, 0], rows, side="right") - 1

    def segments(self) -> Int64[np.ndarray, "segment 6"]:
        """Return context, start, length, document, token and character offset of each segment."""
        segments: Int64[np.ndarray, "segment 6"] = self._small(layout.SEGMENTS)
        return segments

    def documents(self) -> pa.Table:
        """Return the documents with their metadata columns.

        Raises:
            DamagedArtefactError: A file does not match its checksum.
        """
        return pa.concat_tables([self._table(path) for path in self._document_files()])

    @property
    def documents_bytes(self) -> int:
        """Bytes of the documents on disk, to be known before they are read."""
        return sum(self._payload[path][0] for path in self._document_files())

    def document_part(self, shard: int) -> pa.Table | None:
        """Return the documents that were recorded with a shard; None without any.

        Raises:
            DamagedArtefactError: The file does not match its checksum.
        """
        path = layout.part_file(layout.DOCUMENTS, shard)
        return self._table(path) if path in self._payload else None

    def documents_schema(self) -> pa.Schema:
        """Return the columns of the documents, metadata among them.

        Raises:
            DamagedArtefactError: A file does not match its checksum.
        """
        return self._table(self._document_files()[0]).schema

    def _table(self, path: str) -> pa.Table:
        return table_file.from_bytes(self._file(path))

    def _document_files(self) -> list[str]:
        return sorted(self._payload.below(layout.DOCUMENTS), key=layout.part_number)

    def vocabulary(self) -> pa.Table:
        """Return the tokenizer's vocabulary.

        Raises:
            DamagedArtefactError: The file does not match its checksum.
        """
        return self._table(layout.VOCABULARY)

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
        if self.record.scattered:
            kept &= chosen[self.row_contexts()]
        else:
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
        self.read_many([(path, start, stop, out)])

    def read_many(self, reads: Iterable[Read]) -> None:
        """Read several ranges of rows, from an object store all at once; see `read_stored`.

        Args:
            reads: Array, first row, the row after the last and buffer of each.

        Raises:
            IndexError: The store has no such rows.
            DamagedArtefactError: See `read`.
        """
        self._rows_read.read_many(reads)

    def direct(self, path: str) -> bool:
        """Return whether `located` means something for an array: see `RowReader.direct`."""
        return self._rows_read.direct(path)

    def located(self, path: str, starts: Int64[np.ndarray, " unit"], unit_rows: int) -> Located:
        """Return where the chunks of units of rows lie; see `RowReader.located`."""
        return self._rows_read.located(path, starts, unit_rows)

    def read_chunk(self, path: str, chunk: int) -> Shaped[np.ndarray, "row ..."]:
        """Return one chunk of a row array as stored, padding included, checked.

        Args:
            path: The array.
            chunk: Its number in the whole array.

        Raises:
            DamagedArtefactError: See `read`.
        """
        return self._rows_read.read_chunk(path, chunk)

    def check_shard(self, path: str, shard: int) -> None:
        """Check one shard as reading does on first touch: its size, and its tail.

        Args:
            path: The array.
            shard: Its number.

        Raises:
            DamagedArtefactError: It is missing, has another size or is another shard.
        """
        self._rows_read.check_shard(path, shard)

    def _rows(self, path: str, start: int, stop: int) -> Shaped[np.ndarray, "row ..."]:
        array = self.arrays[path]
        out = np.empty((max(stop - start, 0), *array.tail), array.stored)
        self.read_stored(path, start, stop, out)
        return out

    def _small(self, path: str) -> Shaped[np.ndarray, "..."]:
        """Return a small array after comparing its files with their checksums."""
        self._metadata(path.rpartition("/")[0])
        inside = self._payload.below(path)
        try:
            return stores.parse_small({name: self._file(name) for name in inside}, path)
        except (ValueError, FileNotFoundError) as error:  # right bytes, and no array nevertheless
            raise self._damaged(f"{path}: {error}") from error

    def _metadata(self, path: str) -> None:
        """Compare Zarr's metadata of an array or group, and of the groups around it, once each."""
        if not self._check_metadata or path in self._checked:
            return
        self._file(f"{path}/{stores.METADATA}".lstrip("/"))
        self._checked.add(path)
        if path:
            self._metadata(path.rpartition("/")[0])

    def _entries(self, path: str, start: int, stop: int, count: int) -> Int64[np.ndarray, "_ _"]:
        """Return entries start to stop of a small array of int64 with so many of them."""
        if not 0 <= start <= stop <= count:
            raise IndexError(f"{path} {start} to {stop} of a store with {count}")
        size = max(1, min(count, stores.CHUNK_CONTEXTS))
        numbers = range(start // size, -(-stop // size)) if stop > start else range(1)
        pieces = []
        for number in numbers:
            data = self._file(layout.shard_file(path, number, ndim=2))
            pieces.append(np.frombuffer(data, "<i8", (len(data) - shards.CRC) // 8))
        entries = np.concatenate(pieces).reshape(size * len(pieces), -1)
        found: Int64[np.ndarray, "_ _"] = entries[
            start - numbers[0] * size : stop - numbers[0] * size
        ]
        return found.astype(np.int64, copy=False)

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

    def _small_files(self) -> list[str]:
        """Return the files whose sizes are compared on opening: as many for few shards as for many.

        Shards and documents, which come with them, are compared when they are read.
        """
        arrays = [f"{path}/{stores.METADATA}" for path in self.arrays]
        folders = (layout.CONTEXTS, layout.SEGMENTS, layout.MOMENTS, layout.DEVIATIONS)
        small = [path for folder in folders for path in self._payload.below(folder)]
        groups = [f"{layout.HOOKS}/{stores.METADATA}", stores.METADATA, layout.VOCABULARY]
        return [path for path in (*arrays, *small, *groups) if path in self._payload]

    def _damaged(self, *damage: str) -> DamagedArtefactError:
        return DamagedArtefactError(name=self.ref.name, damage=damage)


def _record(manifest: Manifest) -> StoreRecord:
    try:
        return StoreRecord.model_validate(manifest.facts.get(stores.RECORD))
    except ValidationError as error:
        problem = f"{layout.MANIFEST}: facts.{stores.RECORD}: {error.errors()[0]['msg']}"
        raise DamagedArtefactError(name=manifest.name, damage=(problem,)) from error
