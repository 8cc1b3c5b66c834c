"""What `show` tells of an activation store; of its rows none is read but a sample context's tokens."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from saestore.activations import ActivationStore, Moments, neighbours, shuffle
from saestore.activations.moments import norm_edges
from saestore.lake import Ref
from saestore_schemas.manifest import Manifest


SAMPLE_TOKENS = 96
"""Tokens of the sample context."""
BATCH_ROWS = 4096
"""Rows of a training batch where mixing is told: train's default."""
WINDOW_ROWS = 1 << 20
"""Rows mixed at once: train's default, where memory suffices."""
OUTLIER = 10.0
"""A dimension whose standard deviation or |mean| is that many median standard deviations stands out."""
_READABLE = 64 << 20
"""Bytes of documents that are read to tell their sources."""


@dataclass(frozen=True)
class NormHistogram:
    """Rows by norm: `counts[i]` lie in [edges[i], edges[i + 1]); the edges are equal in log."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Outlier:
    """A dimension far larger than most.

    Attributes:
        dimension: Which.
        mean: Its mean.
        std: Its standard deviation.
        times: The larger of |mean| and std, in median standard deviations of the hookpoint.
    """

    dimension: int
    mean: float
    std: float
    times: float


@dataclass(frozen=True)
class HookSummary:
    """One hookpoint of an activation store, over its kept rows.

    Attributes:
        hookpoint: Its name.
        width: Its width.
        dtype: How it is stored.
        chunk_rows: Rows of a chunk, read and checked together.
        mean_norm: Mean length of a row.
        rms: Root mean square of an element.
        centred_rms: The same after subtracting the mean row.
        min: Smallest element.
        max: Largest element.
        median_norm: Median length of a row, known to 9 %.
        norms: How the lengths are distributed.
        outliers: Dimensions that stand out, the farthest first.
    """

    hookpoint: str
    width: int
    dtype: str
    chunk_rows: int
    mean_norm: float
    rms: float
    centred_rms: float
    min: float
    max: float
    median_norm: float
    norms: NormHistogram
    outliers: tuple[Outlier, ...]


@dataclass(frozen=True)
class Mixing:
    """How well training mixes at its defaults, if memory allows the window.

    Attributes:
        batch_rows: Rows of a batch.
        window_rows: Rows mixed at once.
        partners: Expected other rows of a row's own context in its batch; 0 is perfect.
        ideal_partners: The same if all rows of the store were mixed at once.
        inflation: Variance of a document-level feature's batch mean, against independent rows: 1
            plus batch rows times chunk rows by window rows.
    """

    batch_rows: int
    window_rows: int
    partners: float
    ideal_partners: float
    inflation: float


@dataclass(frozen=True)
class SourceCount:
    """Documents of one source."""

    source: str
    documents: int
    tokens: int


@dataclass(frozen=True)
class SampleToken:
    """One token of the sample.

    Attributes:
        text: Its text.
        special: Whether it is a control token.
        kept: Whether training uses its row.
    """

    text: str
    special: bool
    kept: bool


@dataclass(frozen=True)
class Sample:
    """The beginning of one context.

    Attributes:
        context: Its number.
        length: Its tokens.
        document: Id of the document it begins with; empty, it names none.
        source: That document's source.
        tokens: The first of them.
    """

    context: int
    length: int
    document: str
    source: str
    tokens: tuple[SampleToken, ...]


@dataclass(frozen=True)
class Imported:
    """What an imported store was made from.

    Attributes:
        origin: The folder or file, as the import was given it.
        kind: What wrote it.
        dtype: Type of its activations.
        files: Its files.
        bytes: Their size.
        compared: Rows that were read again from both sides.
        max_error: The largest difference of a value in them.
    """

    origin: str
    kind: str
    dtype: str
    files: int
    bytes: int
    compared: int
    max_error: float


@dataclass(frozen=True)
class ActivationsPage:
    """An activation store.

    Attributes:
        manifest: Its manifest.
        model: The language model's name; None, nobody said.
        dtype: How it is stored.
        codec: How chunks are compressed.
        row_bytes: Bytes of a row on disk, all hookpoints, tokens, flags and what was captured.
        shards: Its shards.
        shard_rows: Rows of a full shard.
        context_size: Rows that no context exceeds.
        captured: What each row has beside its activations.
        tokens_per_second: How fast it was generated; None, it was made otherwise.
        parts: Processes that generated it side by side.
        imported: What it was imported from; None, it was made otherwise.
        scattered: Its rows are permuted within each shard.
        kept_rows: Rows that training and statistics use.
        hookpoints: One summary each.
        mixing: How well training mixes.
        sources: Documents and tokens of each source, the largest first; empty where there are too
            many documents to read.
        sample: The beginning of a context; None, it has no text.
        children: What was made from it.
    """

    manifest: Manifest
    model: str | None
    dtype: str
    codec: str
    row_bytes: float
    shards: int
    shard_rows: int
    context_size: int
    captured: tuple[str, ...]
    tokens_per_second: float | None
    parts: int
    imported: Imported | None
    scattered: bool
    kept_rows: int
    hookpoints: tuple[HookSummary, ...]
    mixing: Mixing
    sources: tuple[SourceCount, ...]
    sample: Sample | None
    children: tuple[Ref, ...]


def activations_page(store: ActivationStore, children: tuple[Ref, ...]) -> ActivationsPage:
    """Return the page of a store.

    Raises:
        DamagedArtefactError: A file that the page needs does not match its checksum.
    """
    manifest, record = store.manifest, store.record
    speed, parts = (manifest.facts.get(name) for name in ("tokens_per_second", "parts"))
    made = manifest.settings.keys() & {"corpus", "source"}  # a copy has the facts of its original
    hooks = tuple(_summary(store, name) for name in store.hookpoints)
    return ActivationsPage(
        manifest=manifest,
        model=record.lm.model if record.lm is not None else None,
        dtype=record.dtype,
        codec=record.codec,
        row_bytes=_row_bytes(store),
        shards=-(-store.n_rows // store.spec.shard_rows),
        shard_rows=store.spec.shard_rows,
        context_size=record.context_size,
        captured=record.capture,
        tokens_per_second=float(speed) if made and isinstance(speed, (int, float)) else None,
        parts=parts if isinstance(parts, int) else 1,
        imported=_imported(manifest),
        scattered=record.scattered,
        kept_rows=manifest.counts.get("kept_rows", 0),
        hookpoints=hooks,
        mixing=_mixing(store, max(hook.chunk_rows for hook in hooks)),
        sources=_sources(store),
        sample=_sample(store),
        children=children,
    )


def _row_bytes(store: ActivationStore) -> float:
    if store.record.codec != "none":
        return store.manifest.payload.bytes / store.n_rows
    return float(sum(array.grid.row_bytes for array in store.spec.arrays().values()))


def _imported(manifest: Manifest) -> Imported | None:
    given: Any = manifest.settings.get("source")
    if not isinstance(given, dict):
        return None
    found: Any = manifest.facts["source"]
    compared: Any = manifest.facts["imported"]
    return Imported(
        origin=given["path"],
        kind=found["kind"],
        dtype=found["dtype"],
        files=found["files"],
        bytes=found["bytes"],
        compared=compared["rows"],
        max_error=compared["max_error"],
    )


def _summary(store: ActivationStore, hookpoint: str) -> HookSummary:
    moments = store.moments(hookpoint)
    info = store.hookpoints[hookpoint]
    n, d = moments.count, info.width
    grid = store.spec.arrays()[store.array_of(hookpoint)].grid
    return HookSummary(
        hookpoint=hookpoint,
        width=d,
        dtype=info.dtype,
        chunk_rows=grid.chunk_rows,
        mean_norm=moments.mean_norm,
        rms=math.sqrt(moments.norm_sq_sum / (n * d)) if n else math.nan,
        centred_rms=math.sqrt(float(moments.m2.sum()) / (n * d)) if n else math.nan,
        min=float(moments.min.min()) if n else math.nan,
        max=float(moments.max.max()) if n else math.nan,
        median_norm=moments.norm_quantile(0.5),
        norms=_histogram(moments),
        outliers=_outliers(moments),
    )


def _histogram(moments: Moments) -> NormHistogram:
    """Return the bins from the first with a row to the last."""
    held = np.flatnonzero(moments.norms)
    if not len(held):
        return NormHistogram((), ())
    first, end = int(held[0]), int(held[-1]) + 1
    edges = norm_edges()[first : end + 1]
    return NormHistogram(tuple(edges.tolist()), tuple(moments.norms[first:end].tolist()))


def _outliers(moments: Moments) -> tuple[Outlier, ...]:
    if not moments.count:
        return ()
    std = moments.std
    median = float(np.median(std))
    if median <= 0:
        return ()
    times = np.maximum(std, np.abs(moments.mean)) / median
    found = np.flatnonzero(times >= OUTLIER)
    order = found[np.argsort(-times[found], kind="stable")]
    return tuple(
        Outlier(int(i), float(moments.mean[i]), float(std[i]), float(times[i])) for i in order
    )


def _mixing(store: ActivationStore, chunk_rows: int) -> Mixing:
    rows = store.n_rows
    meet = neighbours.meetings(store, store.context_table(), unit_rows=chunk_rows)
    batch, window = min(BATCH_ROWS, rows), min(WINDOW_ROWS, rows)
    spread = shuffle.Spread(rows, rows, 1)
    if window < rows:
        spread = shuffle.Spread.of(rows, window_rows=window, unit_rows=chunk_rows)
    partners = shuffle.partners(meet, spread, batch_rows=batch, unit_rows=chunk_rows, rows=rows)
    return Mixing(
        batch_rows=batch,
        window_rows=window,
        partners=partners,
        ideal_partners=meet[1] * (batch - 1) / max(rows - 1, 1),
        inflation=shuffle.inflation(
            batch_rows=batch, unit_rows=min(chunk_rows, rows), window_rows=window
        ),
    )


def _sources(store: ActivationStore) -> tuple[SourceCount, ...]:
    if store.documents_bytes > _READABLE:
        return ()
    table = store.documents().select(["source", "n_tokens"])
    grouped = table.group_by("source").aggregate([("n_tokens", "sum"), ("n_tokens", "count")])
    found = [
        SourceCount(
            str(each["source"]), int(each["n_tokens_count"]), int(each["n_tokens_sum"] or 0)
        )
        for each in grouped.to_pylist()
    ]
    return tuple(sorted(found, key=lambda each: (-each.tokens, each.source)))


def _sample(store: ActivationStore) -> Sample | None:
    """Return a context of the store's middle: the first are often titles and licences."""
    if store.record.scattered:  # no context's rows stand together
        return None
    contexts = store.contexts()
    if not len(contexts):
        return None
    middle = len(contexts) // 2
    long = np.flatnonzero(contexts[:, 1] >= np.median(contexts[:, 1]))
    chosen = int(long[np.abs(long - middle).argmin()])
    first, length = (int(x) for x in contexts[chosen])
    shown = first + min(length, SAMPLE_TOKENS)
    vocabulary = store.vocabulary()
    words, special = vocabulary.column("token"), vocabulary.column("special")
    numbers, flags = store.tokens(first, shown), store.flags(first, shown)
    known = len(words)
    tokens = tuple(
        SampleToken(
            str(words[n].as_py()) if 0 <= n < known else f"<{n}>",
            bool(special[n].as_py()) if 0 <= n < known else False,
            bool(flag == 0),
        )
        for n, flag in zip(numbers.tolist(), flags.tolist(), strict=True)
    )
    document = _document(store, chosen)
    return Sample(
        context=chosen,
        length=length,
        document=str(document.get("document_id") or ""),
        source=str(document.get("source") or ""),
        tokens=tokens,
    )


def _document(store: ActivationStore, context: int) -> dict[str, Any]:
    """Return the first document of a context."""
    if store.documents_bytes > _READABLE:
        return {}
    segments = store.segments()
    place = int(np.searchsorted(segments[:, 0], context))
    documents = store.documents().select(["document_id", "source"])
    if place >= len(segments) or not 0 <= segments[place, 3] < documents.num_rows:
        return {}
    found: dict[str, Any] = documents.slice(int(segments[place, 3]), 1).to_pylist()[0]
    return found
