"""`saestore generate`: run the language model over a corpus and store what its hookpoints hold.

The forward pass stops after the last hookpoint's layer, or before the final norm where its scale is wanted. While the next pass computes, a thread
encodes and writes the last one. A run that was killed continues at the first shard without a commit:
the forward batch in which that shard begins is computed again, the same contexts in the same batch,
so the same bits.
"""

import itertools
import json
import time
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from jaxtyping import Float32
from pydantic import JsonValue
from torch import Tensor

from saestore import corpus as corpora
from saestore.activations import (
    ActivationStore,
    RowBatch,
    Spec,
    StoreWriter,
    commits,
    deviations,
    parts,
)
from saestore.errors import ConfigError
from saestore.generate.host import Event, ToHost
from saestore.generate.overlap import Ahead, Background
from saestore.generate.plan import Resume, Step, Steps
from saestore.lake import Lake, Ref, Storage, layout, manifest as manifests
from saestore.lake.lock import writing
from saestore.lake.parts import Part, State, states
from saestore.lm import LanguageModel
from saestore.progress import Progress, Silent, Task
from saestore_schemas.generate import GenerateSettings


def run(
    settings: GenerateSettings,
    lake: Lake,
    *,
    device: str = "auto",
    progress: Progress | None = None,
    model: LanguageModel | None = None,
) -> ActivationStore:
    """Write one activation store, or continue one, or find it finished.

    Args:
        settings: What to store.
        lake: Where.
        device: Torch device, if the model is still to be loaded.
        progress: Where to report.
        model: The model of the settings, if it is loaded already.

    Raises:
        ArtefactExistsError: The name is taken by other settings.
        ArtefactBusyError: Another process is writing it.
        ConfigError: A source, hookpoint or model is not there, or the corpus has changed since the
            interrupted run.
        IncompleteArtefactError: Several processes began to write it, a part each.
        OverflowRowError: A value does not fit `dtype`.
        StorageError: The disk is full or read-only; finished shards stay.
    """
    reporter = progress or Silent()
    ref = Ref("activations", settings.name)
    artefact = lake.artefact(ref)
    task = manifests.Run.of(ref, settings)
    if _finished(artefact, task, reporter):
        return ActivationStore.open(lake, ref.name)
    with writing(artefact, name=ref.name):
        parts.refuse(artefact, ref)
        commits.clear(artefact)
        if manifests.begin(artefact, task) is None:
            load = partial(_loaded, model, settings, device)
            _generate(settings, artefact, task, part=None, load=load, progress=reporter)
    return ActivationStore.open(lake, ref.name)


def run_part(
    settings: GenerateSettings,
    lake: Lake,
    part: Part,
    *,
    device: str = "auto",
    progress: Progress | None = None,
) -> list[State]:
    """Write one part of an activation store, or continue one, or find it finished.

    The settings are those of the whole store. The part takes every `count`-th block of documents;
    `saestore.activations.merge` makes the store of all parts, the same bytes as `run` makes.

    Args:
        settings: What to store, all parts together.
        lake: Where.
        part: Which part.
        device: Torch device.
        progress: Where to report.

    Returns:
        How far all parts are; none when the store itself is finished.

    Raises:
        ArtefactExistsError: The name is taken by other settings.
        ArtefactBusyError: Another process is writing this part, or all of the store.
        ConfigError: As `run`; or there are parts of another number already.
        IncompleteArtefactError: One process began to write all of it.
        OverflowRowError: A value does not fit `dtype`.
        StorageError: The disk is full or read-only; finished shards stay.
    """
    reporter = progress or Silent()
    ref = Ref("activations", settings.name)
    artefact = lake.artefact(ref)
    task = manifests.Run.of(ref, settings)
    if _finished(artefact, task, reporter):
        return []
    folder = artefact.child(part.folder)
    if folder.exists(layout.MANIFEST):
        manifests.begin(folder, task)
        reporter.note(f"activations {ref.name}, part {part}: finished already")
        return states(artefact)
    with parts.claimed(artefact, task, part) as folder:
        load = partial(_loaded, None, settings, device)
        _generate(settings, folder, task, part=part, load=load, progress=reporter)
    return states(artefact)


def _finished(artefact: Storage, task: manifests.Run, progress: Progress) -> bool:
    """Return whether the store is there; no lock: it may lie on read-only storage.

    Raises:
        ArtefactExistsError: It is, with other settings.
    """
    if not artefact.exists(layout.MANIFEST):
        return False
    manifests.begin(artefact, task)
    parts.sweep(artefact, task.ref.name)
    progress.note(f"activations {task.ref.name}: finished already")
    return True


def _generate(
    settings: GenerateSettings,
    artefact: Storage,
    task: manifests.Run,
    *,
    part: Part | None,
    load: Callable[[], LanguageModel],
    progress: Progress,
) -> None:
    """Write what is not there yet of a store, or of a part, into its folder."""
    label = settings.name if part is None else f"{settings.name}, part {part}"
    corpus = corpora.open_corpus(settings.corpus)
    _same_inputs(artefact, "corpus", corpus.fingerprint)
    model = load()
    _same_inputs(artefact, "lm.model", model.fingerprint)
    known = model.hookpoints()
    hookpoints = {name: known[name] for name in model.match(settings.hookpoints)}
    widths = {name: info.width for name, info in hookpoints.items()}
    spec = Spec(widths, settings.record())
    divided = None
    if settings.dtype == "int8":
        divided = _deviations(settings, corpus, model, list(widths), artefact)
    with StoreWriter(artefact, spec, metadata=corpus.metadata, deviations=divided) as writer:
        before = writer.rows
        if before:
            progress.note(f"activations {label}: resuming after {before:,} rows")
        steps = _steps(settings, corpus, model.tokenizer, writer, part)
        began = time.perf_counter()
        total = _expected(settings, part)
        with progress.task(f"generate {label}", total=total, unit="tokens", done=before) as shown:
            _capture(settings, model, list(widths), steps, writer, shown)
        seconds = time.perf_counter() - began
        facts: dict[str, JsonValue] = {
            "lm": _described(settings, model),
            "hookpoints": {name: info.layer for name, info in hookpoints.items()},
            "corpus": corpus.fingerprint,
            "tokens_per_second": (writer.rows - before) / seconds,
        }
        counts = {"lost_tokens": steps.lost}
        if part is not None:
            facts["part"] = {
                "index": part.index,
                "count": part.count,
                "blocks": steps.blocks,
                "block_documents": settings.corpus.block_documents,
            }
        manifest = writer.finish(
            task,
            vocabulary=model.vocabulary(),
            facts=facts,
            counts=counts,
            documents=[_record(document) for document in steps.waiting],
            may_be_empty=part is not None,
        )
    _tell(progress, label, settings, manifest.counts, whole=part is None)


def _deviations(
    settings: GenerateSettings,
    corpus: corpora.DocumentSource,
    model: LanguageModel,
    hookpoints: list[str],
    artefact: Storage,
) -> deviations.Deviations:
    """Return by what an int8 store divides each dimension: measured on the first block once.

    That block is computed twice: its rows can only be stored when all of them were seen.
    """
    known = deviations.load(artefact)
    if known is not None:
        return known
    to_host = ToHost(torch.device(model.device), settings.dtype)

    def rows(step: Step) -> deviations.Rows:
        captured = model.capture(torch.from_numpy(step.batch.padded()), hookpoints)
        ready = to_host.ready()
        hooks = {n: to_host(values, ready, kept=n).copy() for n, values in captured.items()}
        batch = _rows(step, hooks, {})
        return batch.hooks, batch.flags

    blocks = corpora.blocks(
        corpus,
        settings.corpus,
        model.tokenizer,
        prepend_bos=settings.lm.prepend_bos,
        ignore_tokens=settings.ignore_tokens,
        start=0,
    )
    steps = Steps(blocks, settings, resume=None)
    for _, block in itertools.groupby(steps, key=lambda step: step.at.block):
        found = deviations.measure(rows(step) for step in block)
        if found is not None:
            return found
    widths = {name: info.width for name, info in model.hookpoints().items()}
    return deviations.ones({name: widths[name] for name in hookpoints})


def _loaded(model: LanguageModel | None, settings: GenerateSettings, device: str) -> LanguageModel:
    """Return the model given, or load the settings' own.

    Raises:
        ConfigError: The one given was loaded by other settings.
    """
    if model is None:
        return LanguageModel.load(settings.lm, device=device)
    if model.settings != settings.lm:
        raise ConfigError(
            field="lm",
            found=model.settings.model_dump(exclude_defaults=True),
            expected=f"the settings of the model given: {settings.lm.model_dump(exclude_defaults=True)}",
            hint="give the model that these settings load, or none",
        )
    return model


def _steps(
    settings: GenerateSettings,
    corpus: corpora.DocumentSource,
    tokenizer: corpora.Tokenizer,
    writer: StoreWriter,
    part: Part | None,
) -> Steps:
    """Return the forward batches that the writer still lacks."""
    resume = None
    if writer.resume is not None:
        resume = Resume(writer.resume, **writer.tally)
    # Without a budget nobody asks how many rows the blocks of other parts have.
    every = part is None or settings.tokens is not None
    blocks = corpora.blocks(
        corpus,
        settings.corpus,
        tokenizer,
        prepend_bos=settings.lm.prepend_bos,
        ignore_tokens=settings.ignore_tokens,
        start=resume.at.block if resume else 0,
        position=resume.position if resume else None,
        wanted=lambda block: every or (part is not None and part.has(block)),
    )
    return Steps(blocks, settings, resume=resume, part=part)


def _capture(
    settings: GenerateSettings,
    model: LanguageModel,
    hookpoints: list[str],
    steps: Steps,
    writer: StoreWriter,
    shown: Task,
) -> None:
    """Run the model over all steps; one thread makes them, another writes what the model gives."""
    to_host = ToHost(torch.device(model.device), settings.dtype)

    def write(step: Step, captured: Mapping[str, Tensor], ready: Event | None) -> None:
        hooks = {name: to_host(captured[name], ready, kept=name) for name in hookpoints}
        beside: dict[str, Float32[np.ndarray, "batch position 1"]] = {
            name: to_host(captured[name], ready, kept=name, exact=True) for name in settings.capture
        }
        writer.append(_rows(step, hooks, beside), step.at, tally=step.resume())

    with Background(write) as later, Ahead(steps) as made:
        for step in made:
            tokens = torch.from_numpy(step.batch.padded())
            captured = model.capture(tokens, hookpoints, settings.capture)
            size = sum(values.nbytes for values in captured.values())
            later(step, captured, to_host.ready(), size=size)
            shown.advance(step.batch.rows - step.at.skip)


def _expected(settings: GenerateSettings, part: Part | None) -> int | None:
    """Return how many rows there will be; of a part, its share, which blocks make inexact."""
    if settings.tokens is None or part is None:
        return settings.tokens
    return -(-settings.tokens // part.count)


def _rows(
    step: Step,
    hooks: Mapping[str, Float32[np.ndarray, "batch position d"]],
    beside: Mapping[str, Float32[np.ndarray, "batch position 1"]],
) -> RowBatch:
    """Return the rows of a step that are stored."""
    batch = step.batch
    return RowBatch(
        hooks={name: batch.stored(list(values)) for name, values in hooks.items()},
        tokens=batch.tokens(),
        flags=batch.flags(),
        lengths=batch.lengths,
        segments=batch.segments(),
        documents=[_record(document) for document in step.documents],
        captured={name: batch.stored(list(values[..., 0])) for name, values in beside.items()},
    )


def _described(settings: GenerateSettings, model: LanguageModel) -> dict[str, JsonValue]:
    return {
        "name": model.name,
        "revision": model.revision,
        "fingerprint": model.fingerprint,
        "dtype": settings.lm.dtype,
        "processing": settings.lm.processing,
        "d_model": model.d_model,
        "n_layers": model.n_layers,
    }


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


def _same_inputs(artefact: Storage, field: str, fingerprint: str) -> None:
    """Remember the fingerprint of what a run reads, or compare it with the interrupted run's.

    Raises:
        ConfigError: It has changed in between, so the store would be of two minds.
    """
    known: dict[str, str] = {}
    if artefact.exists(layout.INPUTS):
        known = json.loads(artefact.read(layout.INPUTS))
    if known.setdefault(field, fingerprint) != fingerprint:
        raise ConfigError(
            field=field,
            problem=f"it has changed since this run was interrupted "
            f"(was {known[field][:12]}, is {fingerprint[:12]})",
            found=fingerprint,
            expected="the same contents as when the run began",
            hint="bring it back as it was; or generate under another name; or `saestore remove` "
            "the unfinished artefact and begin anew",
        )
    artefact.write(layout.INPUTS, json.dumps(known).encode())


def _tell(
    progress: Progress,
    label: str,
    settings: GenerateSettings,
    counts: dict[str, int],
    *,
    whole: bool,
) -> None:
    rows, contexts = counts["rows"], counts["contexts"]
    progress.note(f"activations {label}: {rows:,} rows in {contexts:,} contexts")
    if whole and settings.tokens is not None and rows < settings.tokens:
        progress.note(f"the corpus ended before the {settings.tokens:,} tokens asked for")
    if counts["lost_tokens"]:
        progress.note(
            f"packing = 'truncate' cut off {counts['lost_tokens']:,} tokens; "
            "'pack' and 'split' lose none"
        )
