"""Whether a store is whole: every byte read once, and whether its parts belong together.

Shards are read by a few threads, in pieces that stay in cache: while a piece is there, its chunks are
compared with their checksums and its rows with the moments that were stored with them. Small files
are compared with their checksums, then with each other. All damage is reported, not only the first.
"""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Bool, Float32, Shaped

from saestore.activations import codecs
from saestore.activations.moments import Moments, RunningMoments
from saestore.activations.store import ActivationStore
from saestore.errors import DamagedArtefactError
from saestore.lake import Lake, Ref, Storage, layout, manifest as manifests
from saestore_schemas.manifest import Manifest


Advance = Callable[[int], None]
"""Hears how many bytes were checked."""

THREADS = 4
"""Threads that read shards, where there are as many processors."""
_AT_ONCE = 1 << 20
"""Stored bytes of a piece, if chunks are not larger."""
_TOLERANCE = 1e-9
"""Relative difference of moments computed anew: far above float64's rounding, far below a row."""
_ON_EDGES = 1e-6
"""Share of rows that may lie on the edge of a norm's bin."""
_ANY = 1 << 31
"""Above every token id: where the vocabulary is damaged, none is too large."""
_NAMED = 8
"""Damaged chunks of one file that are named by number."""


def damage(
    lake: Lake,
    name: str,
    *,
    quick: bool = False,
    threads: int | None = None,
    advance: Advance | None = None,
) -> list[str]:
    """Return one line per damaged, missing or foreign file and per contradiction; none when well.

    Args:
        lake: The lake.
        name: The store.
        quick: Look at the manifest, the sizes of all files and each shard's index only.
        threads: How many read; absent, one per processor, up to four.
        advance: Called with the number of bytes checked; they sum to the payload's.

    Raises:
        ArtefactNotFoundError: There is no such store.
        IncompleteArtefactError: It was started and not finished.
    """
    ref = Ref("activations", name)
    artefact = lake.artefact(ref)
    try:
        manifest = lake.manifest(ref)
        expected = manifests.payload(artefact, manifest).all()
        check = _Check(artefact, ref, manifest, expected, _Counted(advance))
    except DamagedArtefactError as error:
        return list(error.damage)
    # A file that many parts need is named by each of them.
    return list(dict.fromkeys(check.damage(quick=quick, threads=threads)))


class _Counted:
    """Passes on what several threads have done."""

    def __init__(self, advance: Advance | None) -> None:
        self._advance = advance
        self._lock = threading.Lock()

    def __call__(self, done: int) -> None:
        if self._advance is not None:
            with self._lock:
                self._advance(done)


class _Check:
    """One verification of one store."""

    def __init__(
        self,
        artefact: Storage,
        ref: Ref,
        manifest: Manifest,
        expected: dict[str, tuple[int, str]],
        advance: Advance,
    ) -> None:
        self._artefact = artefact
        self._expected = expected
        self._advance = advance
        # Metadata is compared as a file: shards can be checked even if it is damaged.
        self._store = ActivationStore(artefact, ref, manifest, check_metadata=False)
        self._arrays = self._store.spec.arrays()
        self._stated: dict[str, list[Moments]] = {}
        self._vocabulary = _ANY

    def damage(self, *, quick: bool, threads: int | None) -> Iterator[str]:
        wrong = manifests.inventory(self._artefact, self._expected)
        yield from (f"{path}: {problem}" for path, problem in wrong.items())
        shards = [task for task in self._shards() if self._name(*task) not in wrong]
        small = self._expected.keys() - wrong.keys() - {self._name(*task) for task in shards}
        skipped = (wrong.keys() & self._expected.keys()) | (small if quick else set())
        self._advance(sum(self._expected[path][0] for path in skipped))
        if not quick:
            bad = list(filter(None, map(self._small, sorted(small))))
            yield from bad
            if not bad and not wrong:
                yield from self._contradictions()
                self._vocabulary = self._store.vocabulary().num_rows
        count = threads or min(THREADS, os.cpu_count() or 1)
        work = self._index if quick else self._shard
        with ThreadPoolExecutor(max(count, 1), thread_name_prefix="saestore-verify") as pool:
            try:
                for lines in pool.map(lambda task: work(*task), shards):
                    yield from lines
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)  # Ctrl-C does not wait for the rest
                raise

    def _shards(self) -> list[tuple[str, int]]:
        """Return array and number of every shard, those of the same rows together."""
        rows = self._store.spec.shard_rows
        numbers = range(-(-self._store.n_rows // rows))
        return [(path, number) for number in numbers for path in self._arrays]

    def _name(self, path: str, shard: int) -> str:
        return layout.shard_file(path, shard, ndim=1 + len(self._arrays[path].tail))

    def _small(self, path: str) -> str | None:
        checksum = self._expected[path][1]
        return manifests.wrong_checksum(self._artefact, path, checksum, advance=self._advance)

    def _index(self, path: str, shard: int) -> list[str]:
        self._advance(self._size(path, shard))
        return self._opened(path, shard)

    def _size(self, path: str, shard: int) -> int:
        return self._expected.get(self._name(path, shard), (0, ""))[0]

    def _opened(self, path: str, shard: int) -> list[str]:
        try:
            self._store.check_shard(path, shard)
        except DamagedArtefactError as error:
            return list(error.damage)
        except OSError as error:
            return [f"{self._name(path, shard)}: cannot be read: {error}"]
        return []

    def _shard(self, path: str, shard: int) -> list[str]:
        """Return what is wrong with one shard, reading it once."""
        name, array = self._name(path, shard), self._arrays[path]
        size = self._size(path, shard)
        found = self._opened(path, shard)
        if found:
            self._advance(size)
            return found
        grid = array.grid
        first = shard * grid.shard_rows
        end = min(first + grid.shard_rows, self._store.n_rows)
        rows = max(_AT_ONCE // grid.chunk_bytes, 1) * grid.chunk_rows
        kept = np.empty((min(rows, end - first), *array.tail), array.stored)
        tally = _Tally(self._store, array.hookpoint, path)
        tally.begin(first, end)
        bad: list[int] = []
        for start in range(first, end, rows):
            stop = min(start + rows, end)
            try:
                self._store.read_stored(path, start, stop, kept[: stop - start])
                tally.add(kept[: stop - start], start)
            except DamagedArtefactError:
                bad += self._bad_chunks(path, start, stop)
            self._advance((stop - start) * grid.row_bytes)
        self._advance(size - (end - first) * grid.row_bytes)
        if bad:
            shown = ", ".join(map(str, bad[:_NAMED])) + (", …" if len(bad) > _NAMED else "")
            chunks = f"chunk {shown} does" if len(bad) == 1 else f"chunks {shown} do"
            return [
                f"{name}: {chunks} not match the crc32c ({len(bad)} of {grid.used(end - first)})"
            ]
        return tally.problems(name, shard, self._moments(array.hookpoint), self._vocabulary)

    def _bad_chunks(self, path: str, start: int, stop: int) -> list[int]:
        """Return the numbers within their shard of damaged chunks among some rows."""
        grid = self._arrays[path].grid
        found = []
        for chunk in range(start // grid.chunk_rows, -(-stop // grid.chunk_rows)):
            try:
                self._store.read_chunk(path, chunk)
            except DamagedArtefactError:
                found.append(chunk % grid.chunks)
        return found

    def _moments(self, hookpoint: str | None) -> list[Moments]:
        """Return the stored moments of each shard; none where they are damaged, as is said elsewhere."""
        if hookpoint is None:
            return []
        if hookpoint not in self._stated:
            try:
                self._stated[hookpoint] = self._store.shard_moments(hookpoint)
            except (DamagedArtefactError, OSError):
                self._stated[hookpoint] = []
        return self._stated[hookpoint]

    def _contradictions(self) -> Iterator[str]:
        """Yield what small files, each as it was written, say against each other."""
        try:
            yield from _contexts(self._store)
            yield from _segments(self._store)
            yield from _order(self._store)
            shards = -(-self._store.n_rows // self._store.spec.shard_rows)
            for hookpoint in self._store.hookpoints:
                if (stated := len(self._store.shard_moments(hookpoint))) != shards:
                    yield f"moments of {hookpoint}: {stated} shards, the store has {shards}"
        except DamagedArtefactError as error:
            yield from error.damage


class _Tally:
    """What is found in the rows of one shard while they are read."""

    def __init__(self, store: ActivationStore, hookpoint: str | None, path: str) -> None:
        self._store = store
        self._hookpoint = hookpoint
        self._tokens = path == layout.TOKENS
        self._range = (0, 0)
        self._moments: RunningMoments | None = None
        if hookpoint is not None:
            self._moments = RunningMoments(store.hookpoints[hookpoint].width)
        self._kept: Bool[np.ndarray, ...] = np.empty(0, np.bool_)
        self._scales: Float32[np.ndarray, ...] = np.empty(0, np.float32)
        self._wide: Float32[np.ndarray, ...] = np.empty(0, np.float32)

    def begin(self, first: int, end: int) -> None:
        """Look up which rows of the shard the moments are of, and by what int8 rows are scaled."""
        self._first = first
        if self._hookpoint is not None:
            try:
                self._kept = self._store.flags(first, end) == 0
                if self._store.spec.dtype == "int8":
                    self._scales = self._store.scales(self._hookpoint, first, end)
                    self._store.deviations(self._hookpoint)
            except DamagedArtefactError:  # of those: said elsewhere, and nothing to compare
                self._moments = None

    def add(self, stored: Shaped[np.ndarray, "row ..."], start: int) -> None:
        """Take in consecutive rows that were found as they were written."""
        if self._tokens:
            self._range = (min(self._range[0], stored.min()), max(self._range[1], stored.max()))
        if self._moments is None:
            return
        kept = self._kept[start - self._first : start - self._first + len(stored)]
        self._moments.add(self._decoded(stored, start - self._first), kept)

    def _decoded(
        self, stored: Shaped[np.ndarray, "row d"], at: int
    ) -> Float32[np.ndarray, "row d"]:
        if self._store.spec.dtype == "float32":
            return stored
        if self._wide.size < stored.size:
            self._wide = np.empty(stored.size, np.float32)
        out = self._wide[: stored.size].reshape(stored.shape)
        if self._hookpoint is not None and self._store.spec.dtype == "int8":
            scales = self._scales[at : at + len(stored)]
            deviations = self._store.deviations(self._hookpoint)
            return codecs.dequantise(stored, scales, deviations, out=out)
        return codecs.decode(stored, self._store.spec.dtype, out=out)

    def problems(self, name: str, shard: int, stated: list[Moments], vocabulary: int) -> list[str]:
        """Return what the shard's rows say against the rest of the store."""
        low, high = self._range
        if low < 0 or high >= vocabulary:
            return [f"{name}: tokens {low} to {high}, the vocabulary has {vocabulary}"]
        if self._moments is None or shard >= len(stated):
            return []
        if _agree(self._moments.moments(), stated[shard]):
            return []
        return [f"{name}: shard {shard} has other rows than the moments of {self._hookpoint} say"]


def _agree(found: Moments, stated: Moments) -> bool:
    if found.count != stated.count:
        return False
    scale = np.sqrt(max(found.norm_sq_sum, np.finfo(np.float64).tiny))
    return bool(
        np.allclose(found.mean, stated.mean, rtol=_TOLERANCE, atol=_TOLERANCE * scale)
        and np.allclose(found.m2, stated.m2, rtol=_TOLERANCE, atol=_TOLERANCE * scale**2)
        and np.isclose(found.norm_sum, stated.norm_sum, rtol=_TOLERANCE)
        and np.isclose(found.norm_sq_sum, stated.norm_sq_sum, rtol=_TOLERANCE)
        and np.array_equal(found.min, stated.min)
        and np.array_equal(found.max, stated.max)
        # Another processor may round a norm on a bin's edge the other way.
        and np.abs(np.cumsum(found.norms - stated.norms)).max() <= 1 + found.count * _ON_EDGES
    )


def _order(store: ActivationStore) -> Iterator[str]:
    """Say where a scattered copy's order is not one of the rows of the same shard."""
    size = store.spec.shard_rows if store.record.scattered else store.n_rows
    for first in range(0, store.n_rows if store.record.scattered else 0, size):
        stop = min(first + size, store.n_rows)
        if not np.array_equal(np.sort(store.order(first, stop)), np.arange(first, stop)):
            yield f"{layout.ORDER}: rows {first} to {stop} are not those rows of the original"


def _contexts(store: ActivationStore) -> Iterator[str]:
    contexts = store.context_table()
    if len(contexts) != store.n_contexts:
        yield f"contexts: {len(contexts)}, the manifest says {store.n_contexts}"
        return
    ends = contexts.sum(axis=1)
    if contexts[0, 0] != 0 or ends[-1] != store.n_rows or (contexts[1:, 0] != ends[:-1]).any():
        yield f"contexts: they do not cover rows 0 to {store.n_rows} one after the other"


def _segments(store: ActivationStore) -> Iterator[str]:
    segments, contexts = store.segments(), store.context_table()
    owners = segments[:, 0]
    if (np.diff(owners) < 0).any() or not np.array_equal(np.unique(owners), range(len(contexts))):
        yield "segments: they are not those of every context, in order"
        return
    if (segments[:, 1:3] < 0).any() or (
        segments[:, 1] + segments[:, 2] > contexts[owners, 1]
    ).any():
        yield "segments: one begins before or ends after its context"
    documents = store.documents().num_rows
    if segments[:, 3].max() >= documents or segments[:, 3].min() < 0:
        yield f"segments: one names a document that is not among the {documents} recorded"
