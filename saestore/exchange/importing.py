"""`saestore import activations`: another tool's files become a store like any other.

Contexts are read a few at a time, flagged, and written shard by shard; an import that was killed
continues at the first shard without a commit. What is stored in the source's own type is stored bit
for bit. Before the manifest is written, rows from the beginning of every shard are read again, from
the source and from the store, and the largest difference is recorded.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64
from pydantic import JsonValue

from saestore.activations import (
    ActivationStore,
    Cursor,
    RowBatch,
    Spec,
    StoredBatch,
    StoreWriter,
    commits,
    deviations,
)
from saestore.corpus import files
from saestore.errors import ConfigError, OverflowRowError
from saestore.exchange import spelling, tensors
from saestore.exchange.formats import SOURCES
from saestore.exchange.rows import Documents, Rule, Stored, stored
from saestore.exchange.source import ActivationSource, Cut, Piece, Rows, pieces
from saestore.exchange.vocabulary import Vocabulary
from saestore.lake import Lake, Ref, Storage, layout, manifest as manifests
from saestore.lake.lock import writing
from saestore.progress import Progress, Silent
from saestore_schemas.activations import StoreDtype, StoreRecord
from saestore_schemas.exchange import ImportSettings
from saestore_schemas.manifest import Manifest


COMPARED_SHARDS = 16
"""Shards of which rows are read again, evenly chosen."""
COMPARED_ROWS = 256
"""Rows of each of them."""
MEASURED_ROWS = 1 << 16
"""Rows, or a few more, whose spread decides how an int8 store divides."""


def import_activations(
    settings: ImportSettings, lake: Lake, *, progress: Progress | None = None
) -> ActivationStore:
    """Write one activation store from another tool's files, or continue, or find it finished.

    Args:
        settings: What is imported, and how.
        lake: Where.
        progress: Where to report.

    Raises:
        ArtefactExistsError: The name is taken by other settings, or the source has changed.
        ArtefactBusyError: Another process is writing it.
        ConfigError: The source is not what it should be: torn, mixed, or of another kind.
        HookpointNotFoundError: The source has no such hookpoint.
        OverflowRowError: A value is not finite, or does not fit `dtype`.
        StorageError: The disk is full or read-only; finished shards stay.
    """
    reporter = progress or Silent()
    source = SOURCES[settings.source.kind](settings.source, settings.hookpoints)
    if source.about.flat:
        source = Cut(source, settings.context_size or 1)
    elif settings.context_size is not None:
        raise ConfigError(
            field="context_size",
            found=settings.context_size,
            expected="nothing: the source has contexts of its own",
            hint="leave it out; it cuts rows that lie one after the other",
        )
    settings = settings.model_copy(update={"digest": _digest(settings, source)})
    ref = Ref("activations", settings.name)
    artefact = lake.artefact(ref)
    run = manifests.Run.of(ref, settings)
    if artefact.exists(layout.MANIFEST):  # no lock: a finished store may lie on read-only storage
        manifests.begin(artefact, run)
        reporter.note(f"activations {ref.name}: finished already")
        return ActivationStore.open(lake, ref.name)
    task = _Import.of(settings, source, artefact)
    with writing(artefact, name=ref.name):
        commits.clear(artefact)
        if manifests.begin(artefact, run) is None:
            task.write(run, reporter)
    return ActivationStore.open(lake, ref.name)


@dataclass
class _Tally:
    """What an import counts; of the batch in hand, both before and after it is remembered."""

    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("documents", "largest_token", "padding_rows", "empty_contexts"), 0
        )
    )
    before: dict[str, int] = field(default_factory=dict)

    @classmethod
    def resumed(cls, writer: StoreWriter) -> "_Tally":
        """Return the counts with which the next batch begins."""
        if writer.resume is None:
            return cls()
        # A batch of which some rows are committed is read again, and counted again.
        known = writer.tally["before" if writer.resume.skip else "after"]
        if not isinstance(known, dict):
            raise TypeError(type(known))
        return cls({str(key): int(str(value)) for key, value in known.items()})

    def add(self, kept: Stored, documents: int) -> dict[str, JsonValue]:
        """Count a batch; return what is committed with it."""
        self.before = dict(self.counts)
        self.counts["documents"] += documents
        if len(kept.tokens):
            largest = int(kept.tokens.max())
            self.counts["largest_token"] = max(self.counts["largest_token"], largest)
        self.counts["padding_rows"] += kept.padding
        self.counts["empty_contexts"] += kept.empty
        return self.noted()

    def noted(self) -> dict[str, JsonValue]:
        """Return what is committed."""
        before, after = self.before or self.counts, self.counts
        return {"before": dict(before), "after": dict(after)}


@dataclass(frozen=True)
class _Import:
    """One import under way."""

    settings: ImportSettings
    source: ActivationSource
    artefact: Storage
    dtype: StoreDtype
    rule: Rule
    vocabulary: Vocabulary
    documents: Documents

    @classmethod
    def of(cls, settings: ImportSettings, source: ActivationSource, artefact: Storage) -> "_Import":
        """Return the import at its start; nothing is written yet.

        Raises:
            ConfigError: The types do not fit, or the language model has no such tokenizer.
        """
        about = source.about
        vocabulary = Vocabulary.of(settings.lm, about)
        known = frozenset() if about.has_flags else vocabulary.special
        special = np.array(sorted(known.union(settings.special_tokens)), np.int64)
        rule = Rule(
            drop_padding=settings.padding == "drop" and not about.flat,
            masked=about.masked,
            special=special,
            ignored=np.array(settings.ignore_tokens, np.int64),
        )
        dtype = settings.dtype or _own(about.dtype, origin=about.origin)
        return cls(settings, source, artefact, dtype, rule, vocabulary, Documents(about))

    @property
    def record(self) -> StoreRecord:
        """What a reader of the store must know."""
        about = self.source.about
        return StoreRecord(
            dtype=self.dtype,
            store=self.settings.store,
            lm=self.settings.lm or about.lm,
            context_size=max(part.longest for part in about.parts),
            capture=about.captured,
        )

    def write(self, run: manifests.Run, progress: Progress) -> None:
        """Write what is not written yet, compare, and finish."""
        about = self.source.about
        for line in about.notes:
            progress.note(f"{about.origin}: {line}")
        spec = Spec(about.widths, self.record)
        divided = self._deviations() if self.dtype == "int8" else None
        with StoreWriter(
            self.artefact, spec, metadata=about.metadata, deviations=divided
        ) as writer:
            tally = _Tally.resumed(writer)
            self._copy(writer, tally, progress)
            found: dict[str, JsonValue] = {}

            def compared(manifest: Manifest) -> Mapping[str, JsonValue]:
                found.update(self._compared(ActivationStore(self.artefact, run.ref, manifest)))
                return {"imported": dict(found)}

            writer.finish(
                run,
                vocabulary=self.vocabulary.table(tally.counts["largest_token"]),
                facts=self._facts(),
                counts={k: tally.counts[k] for k in ("padding_rows", "empty_contexts")},
                documents=self.documents.rest(tally.counts["documents"]),
                measure=compared,
            )
        progress.note(
            f"activations {run.ref.name}: {writer.rows:,} rows; {found['rows']:,} of them compared "
            f"with the source, largest difference {found['max_error']:g}"
        )
        if tally.counts["padding_rows"]:
            progress.note(f"{tally.counts['padding_rows']:,} rows of padding left out")

    def _deviations(self) -> deviations.Deviations:
        """Return by what an int8 store divides each dimension: measured on the first rows once."""
        return (
            deviations.load(self.artefact)
            or deviations.measure(self._beginning())
            or deviations.ones(self.source.about.widths)
        )

    def _beginning(self) -> Iterator[deviations.Rows]:
        seen = 0
        for piece in pieces(self.source.about):
            kept = self._kept(piece, self.source.read(piece.part, piece.start, piece.stop))
            seen += int((kept.flags == 0).sum())
            yield self._float32(piece, kept), kept.flags
            if seen >= MEASURED_ROWS:
                return

    def _copy(self, writer: StoreWriter, tally: _Tally, progress: Progress) -> None:
        about = self.source.about
        total = sum(part.rows or part.contexts * part.longest for part in about.parts)
        at = writer.resume or Cursor(0, 0)
        if writer.rows:
            progress.note(f"activations {self.settings.name}: resuming after {writer.rows:,} rows")
        label = f"import {self.settings.name}"
        with progress.task(label, total=total, unit="rows", done=writer.rows) as task:
            for piece in pieces(about, part=at.block, index=at.batch):
                rows = self.source.read(piece.part, piece.start, piece.stop)
                kept = self._kept(piece, rows)
                segments, documents = self.documents.of(
                    piece, rows, kept, tally.counts["documents"]
                )
                noted = tally.add(kept, len(documents))
                if len(kept.lengths):
                    self._append(writer, piece, kept, segments, documents, noted)
                task.advance(int(rows.lengths.sum()))

    def _kept(self, piece: Piece, rows: Rows) -> Stored:
        """Return the rows of a piece to store, checked.

        Raises:
            ConfigError: A token id is none of the vocabulary's.
        """
        if rows.tokens is not None and rows.tokens.size:
            lowest, highest = int(rows.tokens.min()), int(rows.tokens.max())
            if not 0 <= lowest <= highest < self.vocabulary.size:
                part = self.source.about.parts[piece.part].name
                raise ConfigError(
                    field="lm.model" if self.vocabulary.known else "source.tokens",
                    problem=f"{part} holds token id {lowest if lowest < 0 else highest}",
                    expected=f"0 to {self.vocabulary.size - 1}, {self.vocabulary.what}",
                    hint="name the language model these tokens are of"
                    if self.vocabulary.known
                    else "name the array that holds token ids",
                )
        return stored(rows, self.rule)

    def _append(
        self,
        writer: StoreWriter,
        piece: Piece,
        kept: Stored,
        segments: Int64[np.ndarray, "segment 6"],
        documents: Sequence[Mapping[str, Any]],
        noted: Mapping[str, JsonValue],
    ) -> None:
        at = Cursor(piece.part, piece.index, 0)
        own = self.source.about.dtype
        if own == self.dtype:
            for name, values in kept.hooks.items():
                self._finite(piece, kept, name, values, own)
            arrays = {layout.hook_array(name): values for name, values in kept.hooks.items()}
            arrays |= {layout.TOKENS: kept.tokens, layout.FLAGS: kept.flags, **kept.captured}
            batch = StoredBatch(arrays, kept.lengths, segments, documents)
            writer.append_stored(batch, at, tally=noted)
            return
        hooks = self._float32(piece, kept)
        writer.append(
            RowBatch(
                hooks, kept.tokens, kept.flags, kept.lengths, segments, documents, kept.captured
            ),
            at,
            tally=noted,
        )

    def _float32(self, piece: Piece, kept: Stored) -> dict[str, Float32[np.ndarray, "row d"]]:
        """Return the rows of a piece in float32, as which they are converted.

        Raises:
            OverflowRowError: A value is NaN or infinite, or becomes so.
        """
        own, hooks = self.source.about.dtype, {}
        for name, values in kept.hooks.items():
            self._finite(piece, kept, name, values, own)
            hooks[name] = tensors.as_float32(values, own)
            if own == "float64":
                self._finite(piece, kept, name, hooks[name], "float32")
        return hooks

    def _finite(
        self, piece: Piece, kept: Stored, hookpoint: str, values: np.ndarray, dtype: str
    ) -> None:
        """Refuse what no store may hold.

        Raises:
            OverflowRowError: A value is NaN or infinite.
        """
        if tensors.all_finite(values, dtype):
            return
        good = tensors.finite(values, dtype)
        row, column = (int(n) for n in np.argwhere(~good)[0])
        value = float(tensors.as_float32(values[row : row + 1, column], dtype)[0])
        ends = np.cumsum(kept.lengths)
        context = int(np.searchsorted(ends, row, side="right"))
        position = row - int(ends[context] - kept.lengths[context])
        about = self.source.about
        raise OverflowRowError(
            f"{about.theirs[hookpoint]} in {about.parts[piece.part].name} holds {value} at context "
            f"{piece.start + int(kept.which[context])}, position {position}, dimension {column}, "
            f"and {int((~good).sum()) - 1} more such values near it",
            found=value,
            expected=f"finite values of {dtype}",
            hint="the other tool stored them in too narrow a type, or its model gave them: capture "
            "these activations again",
        )

    def _compared(self, store: ActivationStore) -> dict[str, JsonValue]:
        """Return how many rows were read again, and the largest difference of a value."""
        shards = np.linspace(0, store.manifest.counts["shards"] - 1, COMPARED_SHARDS).astype(int)
        rows, largest = 0, 0.0
        for shard in sorted({int(number) for number in shards}):
            before = commits.read(self.artefact, shard - 1) if shard else None
            row, at = (before.total.rows, before.resume) if before else (0, Cursor(0, 0))
            for found, skip in self._again(at):
                count = min(COMPARED_ROWS, len(found.tokens) - skip, store.n_rows - row)
                for name, values in found.hooks.items():
                    theirs = tensors.as_float32(
                        values[skip : skip + count], self.source.about.dtype
                    )
                    ours = store.read(name, row, row + count)
                    apart = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
                    largest = max(largest, float(apart.max(initial=0.0)))
                row, rows = row + count, rows + count
        return {"rows": rows, "max_error": largest}

    def _again(self, at: Cursor) -> Iterator[tuple[Stored, int]]:
        """Yield the next stored rows from a place in the source on, and how many to leave out."""
        skip, seen = at.skip, 0
        for piece in pieces(self.source.about, part=at.block, index=at.batch):
            found = stored(self.source.read(piece.part, piece.start, piece.stop), self.rule)
            if len(found.tokens):
                yield found, skip
                seen += len(found.tokens) - skip
                skip = 0
            if seen >= COMPARED_ROWS:
                return

    def _facts(self) -> dict[str, JsonValue]:
        about = self.source.about
        sizes = [(each.name, each.path.stat().st_size) for each in about.files]
        facts: dict[str, JsonValue] = {
            "hookpoints": {name: spelling.layer_of(name) for name in about.widths},
            "source": {
                "kind": self.settings.source.kind,
                "files": len(sizes),
                "bytes": sum(size for _, size in sizes),
                "digest": self.settings.digest,
                "dtype": about.dtype,
                "hookpoints": dict(about.theirs),
                "contexts": "none" if about.flat else "the source's own",
                "tokens": about.has_tokens,
                **about.facts,
            },
            "vocabulary": self.vocabulary.what,
        }
        if len(sizes) <= _LISTED:
            facts["source"]["listing"] = [[name, size] for name, size in sizes]  # type: ignore[index, call-overload]
        if self.vocabulary.lm is not None:
            facts["lm"] = {
                "name": self.vocabulary.lm.model,
                "revision": self.vocabulary.lm.revision,
                "fingerprint": None,
            }
        return facts


_STORED: Mapping[str, StoreDtype] = {
    "float32": "float32", "float16": "float16", "bfloat16": "bfloat16",
}  # fmt: skip
"""Types of numbers that a store holds bit for bit."""
_LISTED = 1000
"""Files that a manifest lists one by one."""


def _digest(settings: ImportSettings, source: ActivationSource) -> str:
    """Return the digest of a source's files.

    Raises:
        ConfigError: The settings want another.
    """
    found = files.digest(source.about.files)
    if settings.digest not in {None, found}:
        raise ConfigError(
            field="digest",
            found=settings.digest,
            problem=f"the files of {source.about.origin} have digest {found}",
            expected=str(settings.digest),
            hint="the source has changed, or it is another one: leave `digest` out to take it as it is",
        )
    return found


def _own(dtype: str, *, origin: str) -> StoreDtype:
    """Return the store's type that is the source's own.

    Raises:
        ConfigError: There is none.
    """
    if dtype in _STORED:
        return _STORED[dtype]
    raise ConfigError(
        field="dtype",
        problem=f"the activations of {origin} are {dtype}, which no store holds",
        expected="the type to store them in: float32, bfloat16 or float16",
        hint="say it: --dtype float32",
    )
