"""Several dictionaries in one pass over the rows, and a table of how they came out.

Each dictionary is an artefact of its own, with the settings, fingerprint and bytes it would have
alone. Those that read the same rows in the same order in batches of the same size learn from one
stream; others get a pass of their own, one after the other. What was trained before, alone or in
another sweep, is found trained.

    <lake>/sweeps/<name>/   manifest.json · results.parquet
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import torch

from saestore import devices
from saestore.dictionaries import SparseDictionary
from saestore.fingerprint import canonical
from saestore.lake import Lake, Ref, Storage, layout, lock, manifest as manifests, table_file
from saestore.progress import Progress, Silent
from saestore.train import memory, one_pass, start
from saestore.train.allocator import return_large_blocks
from saestore.train.one_pass import Failure
from saestore.train.rows import Stream, TrainingRows, held_rows
from saestore.train.run import hookpoints, planned, resume
from saestore.train.stops import Watch
from saestore.train.training import Calibrate, Evaluate, Training
from saestore_schemas import tables
from saestore_schemas.manifest import ArrayInfo, Parent
from saestore_schemas.train import TrainSettings


@dataclass(frozen=True)
class Item:
    """One dictionary of a sweep.

    Attributes:
        settings: Its own settings.
        change: What of them is its own, by dotted name.
        run: Its run, as if it were trained alone.
        rows: Where its rows come from.
        artefact: Where it is written.
        source: The dictionary that its weights are taken from, if they are.
    """

    settings: TrainSettings
    change: dict[str, Any]
    run: manifests.Run
    rows: TrainingRows
    artefact: Storage
    source: SparseDictionary | None = None

    @property
    def finished(self) -> bool:
        """Whether it is trained."""
        return self.artefact.exists(layout.MANIFEST)


@dataclass(frozen=True)
class Callbacks:
    """What is done with dictionaries on their way; see `Training`.

    Attributes:
        evaluate: By the name of the dictionary, `series/name`.
        calibrate: Of each.
        host: Called for each where `init.from_host` is set.
    """

    evaluate: Mapping[str, Evaluate] = field(default_factory=dict)
    calibrate: Calibrate | None = None
    host: start.FindHost | None = None


def run(
    settings: TrainSettings,
    lake: Lake,
    *,
    device: str = "auto",
    progress: Progress | None = None,
    callbacks: Callbacks | None = None,
    time_limit_s: float | None = None,
) -> Ref:
    """Train all dictionaries of a sweep; return its name.

    Interrupted and run again, each dictionary ends with the bytes it would have had. One that
    diverges ends alone, and the table says so.

    Args:
        settings: What to train, with `sweep`.
        lake: Where the stores lie and everything is written.
        device: Torch device; `auto` takes the best there is.
        progress: Where to report.
        callbacks: What is done with dictionaries on their way.
        time_limit_s: Seconds after which to stop with checkpoints; absent, never.

    Raises:
        SaestoreError: Any that `train.run` raises but `DivergedError`.
        KeyboardInterrupt: Ctrl-C; checkpoints were written.
    """
    watch, reporter = Watch(time_limit_s), progress or Silent()
    if settings.sweep is None:
        msg = "settings without a sweep"
        raise ValueError(msg)
    ref = Ref("sweep", settings.sweep.name)
    items = _items(settings, lake)
    parents = [
        Parent(kind="dictionary", name=each.run.ref.name, fingerprint=each.run.fingerprint)
        for each in items
    ]
    described = manifests.Run.of(ref, settings.identity(), parents)
    artefact = lake.artefact(ref)
    if artefact.exists(layout.MANIFEST):
        manifests.begin(artefact, described)
        reporter.note(f"sweep {ref.name}: finished already")
        return ref
    for each in items:  # another dictionary of a name is said before anything is trained
        if each.finished:
            manifests.begin(each.artefact, each.run)
    with lock.writing(artefact, name=ref.name):
        if manifests.begin(artefact, described) is None:
            failures = _train(items, devices.resolve(device), watch, reporter, callbacks)
            _write(artefact, described, items, failures)
    return ref


def _items(settings: TrainSettings, lake: Lake) -> list[Item]:
    """Return every dictionary; stores that several read are opened once."""
    assert settings.sweep is not None  # noqa: S101 - the caller's
    changes = [change for _, change in settings.sweep.changes(settings.name)]
    opened: dict[str, TrainingRows] = {}
    items = []
    for each, change in zip(settings.runs(), changes, strict=True):
        contexts = each.dictionary.reads_contexts
        key = canonical([each.activations.model_dump(mode="json"), hookpoints(each), contexts])
        if key not in opened:
            opened[key] = TrainingRows.open(
                each.activations, lake, hookpoints=hookpoints(each), contexts=contexts
            )
        rows = opened[key]
        ref = Ref("dictionary", f"{each.series}/{each.name}")
        parents = start.parents(each, rows, lake)
        described = manifests.Run.of(ref, each.identity(), parents)
        source = start.source(each, lake)
        items.append(Item(each, change, described, rows, lake.artefact(ref), source))
    return items


def _train(
    items: Sequence[Item],
    device: torch.device,
    watch: Watch,
    progress: Progress,
    callbacks: Callbacks | None,
) -> list[Failure]:
    """Train what is not trained, in as few passes as the rows allow."""
    return_large_blocks()
    groups: dict[str, list[Item]] = {}
    for each in items:
        if not each.finished:
            rows = each.settings.activations.model_dump(mode="json")
            contexts = each.settings.dictionary.reads_contexts
            read = canonical([rows, each.settings.seed.data, hookpoints(each.settings), contexts])
            groups.setdefault(read, []).append(each)
    failures: list[Failure] = []
    done = callbacks or Callbacks()
    for group in groups.values():
        with ExitStack() as locks:
            for each in group:
                locks.enter_context(lock.writing(each.artefact, name=each.run.ref.name))
            failures += _group(group, device, watch, progress, done)
    return failures


def _group(
    items: Sequence[Item],
    device: torch.device,
    watch: Watch,
    progress: Progress,
    callbacks: Callbacks,
) -> list[Failure]:
    """Train dictionaries that read the same rows in the same batches."""
    first = items[0]
    wanted = hookpoints(first.settings)
    stream = first.rows.stream(
        wanted, seed=first.settings.seed.data, dtype=first.rows.form_for(wanted, device)
    )
    fresh = stream.state_dict()
    trainings = []
    for each in items:
        training = planned(
            each.settings, each.rows, stream, each.artefact, each.run,
            source=each.source, host=start.host(each.settings, callbacks.host), device=device,
        )  # fmt: skip
        training.evaluate = callbacks.evaluate.get(each.run.ref.name)
        training.calibrate = callbacks.calibrate
        if manifests.begin(each.artefact, each.run) is None:
            resume(training, progress)
            trainings.append(training)
    progress.note(memory.described([each.trainer for each in trainings], held_rows(stream)))
    # One that was begun on another machine may have had another window, which is another order.
    orders: dict[str, list[Training]] = {}
    for training in trainings:
        order = canonical({**(training.position or fresh), "position": 0})
        orders.setdefault(order, []).append(training)
    failures: list[Failure] = []
    for order, together in orders.items():
        step = min(training.trainer.step for training in together)
        stream.load_state_dict({**json.loads(order), "position": step})
        failures += _pass(together, stream, watch, progress)
    return failures


def _pass(
    trainings: Sequence[Training], stream: Stream, watch: Watch, progress: Progress
) -> list[Failure]:
    names = ", ".join(training.run.ref.name for training in trainings)
    if len(trainings) > 1:
        progress.note(f"in one pass over the rows: {names}")
    label = f"training {len(trainings)} dictionaries" if len(trainings) > 1 else f"training {names}"
    return one_pass.train(trainings, stream, watch, progress, label=label, alone=False)


def _write(
    artefact: Storage, run: manifests.Run, items: Sequence[Item], failures: Sequence[Failure]
) -> None:
    """Write the table of results and the manifest."""
    failed = {failure.training.run.ref.name: failure for failure in failures}
    lines = [_result(each, failed.get(each.run.ref.name)) for each in items]
    table = pa.Table.from_pylist(lines, schema=tables.RESULTS.schema())
    artefact.write(layout.RESULTS, table_file.to_bytes(table))
    manifests.finish(
        artefact,
        run,
        arrays={"results": ArrayInfo(shape=table.shape, dtype="table")},
        counts={"dictionaries": len(items), "diverged": len(failures)},
        facts={},
    )


def _result(item: Item, failure: Failure | None) -> dict[str, Any]:
    """Return one line of the table."""
    series, name = item.run.ref.name.split("/")
    line: dict[str, Any] = {
        "series": series,
        "dictionary": name,
        "fingerprint": item.run.fingerprint,
        "change": canonical(item.change),
        "message": "",
    }
    if failure is not None:
        trainer = failure.training.trainer
        last: dict[str, Any] = dict(failure.training.last)
        line |= {"status": "diverged", "message": f"{failure.error}; {failure.error.hint}"}
        line |= {"steps": trainer.step, "rows": trainer.rows}
    else:
        manifest = manifests.load(item.artefact, item.run.ref)
        last = dict(manifest.facts)
        line["status"] = "stopped_early" if "stopped_early" in last else "trained"
        line |= {"steps": manifest.counts["steps"], "rows": manifest.counts["rows"]}
    return line | {each: last.get(each) for each in ("loss", "ev_batch", "l0_mean", "dead")}
