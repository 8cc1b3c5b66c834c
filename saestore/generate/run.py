"""`saestore generate`: run the language model over a corpus and store what its hookpoints hold.

The forward pass stops after the last hookpoint's layer. While the next pass computes, a thread
encodes and writes the last one. A run that was killed continues at the first shard without a commit:
the forward batch in which that shard begins is computed again, the same contexts in the same batch,
so the same bits.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from pydantic import JsonValue

from saestore import corpus as corpora
from saestore.activations import ActivationStore, Cursor, RowBatch, Spec, StoreWriter
from saestore.errors import UnsupportedError
from saestore.generate.overlap import Background
from saestore.generate.plan import Batch, batches, stored_documents
from saestore.lake import Lake, Ref, Storage, layout, manifest as manifests
from saestore.lake.lock import writing
from saestore.lm import LanguageModel
from saestore.progress import Progress, Silent
from saestore_schemas.generate import GenerateSettings


_CORPUS = f"{layout.PROGRESS}/corpus.json"
"""Fingerprint of the documents an unfinished run reads."""


@dataclass(frozen=True)
class Step:
    """One forward batch in its place.

    Attributes:
        at: Its place in the corpus.
        batch: What it holds.
        documents: Documents recorded with it.
        lost: Tokens cut off by `truncate` so far, its block included.
    """

    at: Cursor
    batch: Batch
    documents: tuple[corpora.DocumentRecord, ...]
    lost: int


def run(
    settings: GenerateSettings,
    lake: Lake,
    *,
    device: str = "auto",
    progress: Progress | None = None,
) -> ActivationStore:
    """Write one activation store, or continue one, or find it finished.

    Args:
        settings: What to store.
        lake: Where.
        device: Torch device.
        progress: Where to report.

    Raises:
        ArtefactExistsError: The name is taken by other settings.
        ArtefactBusyError: Another process is writing it.
        ConfigError: A source, hookpoint or model is not there, or the corpus has changed since the
            interrupted run.
        OverflowRowError: A value does not fit `dtype`.
        StorageError: The disk is full or read-only; finished shards stay.
    """
    reporter = progress or Silent()
    ref = Ref("activations", settings.name)
    artefact = lake.artefact(ref)
    task = manifests.Run.of(ref, settings)
    with writing(artefact, name=ref.name):
        if manifests.begin(artefact, task) is None:
            _generate(settings, artefact, task, device=device, progress=reporter)
        else:
            reporter.note(f"activations {ref.name}: finished already")
    return ActivationStore.open(lake, ref.name)


def _generate(
    settings: GenerateSettings,
    artefact: Storage,
    task: manifests.Run,
    *,
    device: str,
    progress: Progress,
) -> None:
    corpus = corpora.open_corpus(settings.corpus)
    _same_corpus(artefact, corpus.fingerprint)
    model = LanguageModel.load(settings.lm, device=device)
    hookpoints = model.match(settings.hookpoints)
    known = model.hookpoints()
    spec = Spec({name: known[name].width for name in hookpoints}, settings.dtype, settings.store)
    writer = StoreWriter(artefact, spec, metadata=corpus.metadata)
    if writer.rows:
        progress.note(f"activations {settings.name}: resuming after {writer.rows:,} rows")
    began, before, lost = time.perf_counter(), writer.rows, writer.tally.get("lost_tokens", 0)
    blocks = corpora.blocks(
        corpus,
        settings.corpus,
        model.tokenizer,
        prepend_bos=settings.lm.prepend_bos,
        ignore_tokens=settings.ignore_tokens,
        start=writer.resume.block if writer.resume else 0,
    )
    bar = progress.task(
        f"generate {settings.name}", total=settings.tokens, unit="tokens", done=before
    )
    with bar as shown, Background(writer.append) as write:
        for step in _steps(blocks, settings, resume=writer.resume, rows=before, lost=lost):
            lost = step.lost
            rows = _forward(model, step, hookpoints)
            write(rows, step.at, tally={"lost_tokens": lost})
            shown.advance(len(rows.tokens) - step.at.skip)
    seconds = time.perf_counter() - began
    facts: dict[str, JsonValue] = {
        "lm": {
            "name": model.name,
            "revision": model.revision,
            "fingerprint": model.fingerprint,
            "dtype": settings.lm.dtype,
            "processing": settings.lm.processing,
            "d_model": model.d_model,
            "n_layers": model.n_layers,
        },
        "hookpoints": {name: known[name].layer for name in hookpoints},
        "corpus": corpus.fingerprint,
        "tokens_per_second": (writer.rows - before) / seconds,
    }
    manifest = writer.finish(
        task, vocabulary=model.vocabulary(), facts=facts, tally={"lost_tokens": lost}
    )
    _tell(progress, settings, manifest.counts)


def _steps(
    blocks: Iterator[corpora.Block],
    settings: GenerateSettings,
    *,
    resume: Cursor | None,
    rows: int,
    lost: int,
) -> Iterator[Step]:
    """Yield the forward batches still to be computed, in order.

    Args:
        blocks: Blocks from the one to resume in.
        settings: The run's settings.
        resume: Place of the first row without a commit.
        rows: Rows with a commit.
        lost: Tokens cut off so far, the block to resume in included.
    """
    room = settings.tokens
    waiting: tuple[corpora.DocumentRecord, ...] = ()
    if resume is not None:
        first = next(blocks)
        rows -= _rows_before(first, resume, settings)
        blocks = chain([first], blocks)
    for block in blocks:
        left = None if room is None else room - rows
        if left == 0:
            return
        held = list(batches(block, forward_contexts=settings.forward_contexts, room=left))
        resumed = resume is not None and block.index == resume.block
        if not resumed:
            lost += block.lost_tokens
            waiting += block.documents[: stored_documents(block, held)]
        for batch in held:
            at = Cursor(block.index, batch.index)
            rows += batch.rows
            if resumed and resume is not None:
                if batch.index < resume.batch:
                    continue
                if batch.index == resume.batch:
                    at = resume
                    if resume.skip >= batch.rows:
                        continue
            yield Step(at, batch, waiting, lost)
            waiting = ()


def _rows_before(block: corpora.Block, resume: Cursor, settings: GenerateSettings) -> int:
    """Return the committed rows of the block in which a run resumes."""
    held = batches(block, forward_contexts=settings.forward_contexts, room=None)
    return resume.skip + sum(batch.rows for batch in held if batch.index < resume.batch)


def _forward(model: LanguageModel, step: Step, hookpoints: Sequence[str]) -> RowBatch:
    """Compute one batch and keep its stored rows."""
    batch = step.batch
    captured = model.capture(torch.from_numpy(batch.padded()), hookpoints)
    return RowBatch(
        hooks={
            name: batch.stored(list(values.float().cpu().numpy()))
            for name, values in captured.items()
        },
        tokens=batch.tokens(),
        flags=batch.flags(),
        lengths=batch.lengths,
        segments=batch.segments(),
        documents=[_record(document) for document in step.documents],
    )


def _record(document: corpora.DocumentRecord) -> dict[str, object]:
    return {
        "document": document.document,
        "document_id": document.document_id,
        "source": document.source,
        "n_tokens": document.n_tokens,
        "n_chars": document.n_chars,
        "text": document.text,
        **document.metadata,
    }


def _same_corpus(artefact: Storage, fingerprint: str) -> None:
    """Remember the corpus's fingerprint, or compare it with the interrupted run's.

    Raises:
        UnsupportedError: The documents have changed in between.
    """
    if not artefact.exists(_CORPUS):
        artefact.write(_CORPUS, json.dumps({"fingerprint": fingerprint}).encode())
        return
    before = json.loads(artefact.read(_CORPUS))["fingerprint"]
    if before != fingerprint:
        raise UnsupportedError(
            "the corpus has changed since this run was interrupted",
            found=fingerprint,
            expected=before,
            hint="bring the documents back as they were, or generate under another name",
        )


def _tell(progress: Progress, settings: GenerateSettings, counts: dict[str, int]) -> None:
    rows, contexts = counts["rows"], counts["contexts"]
    progress.note(f"activations {settings.name}: {rows:,} rows in {contexts:,} contexts")
    if settings.tokens is not None and rows < settings.tokens:
        progress.note(f"the corpus ended before the {settings.tokens:,} tokens asked for")
    if counts["lost_tokens"]:
        progress.note(
            f"packing = 'truncate' cut off {counts['lost_tokens']:,} tokens; "
            "'pack' and 'split' lose none"
        )
