"""The verb: stream rows, take steps, write a dictionary; or resume one bit for bit."""

import torch

from saestore import devices, dictionaries
from saestore.dictionaries import Host, SparseDictionary
from saestore.errors import ConfigError
from saestore.lake import Lake, Ref, Storage, layout, lock, manifest as manifests
from saestore.progress import Progress, Silent
from saestore.train import objectives, one_pass, start, wandb_log
from saestore.train.allocator import return_large_blocks
from saestore.train.rows import Stream, TrainingRows
from saestore.train.stops import EarlyStop, Watch
from saestore.train.trainer import Schedule, Trainer
from saestore.train.training import Calibrate, Evaluate, Training, pauses
from saestore_schemas.train import TrainSettings


def run(
    settings: TrainSettings,
    lake: Lake,
    *,
    device: str = "auto",
    progress: Progress | None = None,
    evaluate: Evaluate | None = None,
    calibrate: Calibrate | None = None,
    host: start.FindHost | None = None,
    time_limit_s: float | None = None,
) -> SparseDictionary:
    """Train a dictionary and write it; a finished one is returned as it is.

    Interrupted at any step and run again, it ends with the same bytes as an uninterrupted run on
    the same machine. Ctrl-C and SIGTERM let it finish the step it is in and write a checkpoint.

    Args:
        settings: What to train on which rows.
        lake: Where the stores lie and the dictionary is written.
        device: Torch device; `auto` takes the best there is.
        progress: Where to report.
        evaluate: Called with the dictionary and the step as `evaluate_every` says (without it at
            every checkpoint), and at the end; its numbers go into the metrics.
        calibrate: Called in the end with a dictionary whose inference needs a threshold, and the
            settings; absent, the running mean that training kept is used.
        host: Called where `init.from_host` is set.
        time_limit_s: Seconds after which to stop with a checkpoint; absent, never.

    Raises:
        ArtefactNotFoundError: No such activation store.
        ArtefactExistsError: The name is taken by a dictionary with other settings.
        ArtefactBusyError: Another process is training it.
        ConfigError: The settings contradict the stores, or the stores each other.
        HookpointNotFoundError: A store has no such hookpoint.
        DivergedError: The loss became NaN or infinite.
        KeyboardInterrupt: Ctrl-C; a checkpoint was written.
        StoppedError: The time is up or SIGTERM came; a checkpoint was written.
        MissingExtraError: `log.wandb` is set and wandb is not installed.
    """
    _one(settings)
    watch, reporter = Watch(time_limit_s), progress or Silent()
    ref = Ref("dictionary", f"{settings.series}/{settings.name}")
    rows = TrainingRows.open(
        settings.activations,
        lake,
        hookpoints=hookpoints(settings),
        contexts=settings.dictionary.reads_contexts,
    )
    parents = start.parents(settings, rows, lake)
    described = manifests.Run.of(ref, settings.identity(), parents)
    artefact = lake.artefact(ref)
    if artefact.exists(layout.MANIFEST):
        manifests.begin(artefact, described)
        reporter.note(f"dictionary {ref.name}: finished already")
        return dictionaries.load(lake, ref.name)
    return_large_blocks()
    # Planned before anything is written: settings that cannot work must not take the name.
    wanted, where = hookpoints(settings), devices.resolve(device)
    stream = rows.stream(wanted, seed=settings.seed.data, dtype=rows.form_for(wanted, where))
    training = planned(
        settings, rows, stream, artefact, described,
        source=start.source(settings, lake), host=start.host(settings, host),
        device=where,
    )  # fmt: skip
    training.evaluate, training.calibrate = evaluate, calibrate
    with lock.writing(artefact, name=ref.name):
        if manifests.begin(artefact, described) is None:
            _train(training, stream, watch, reporter)
    return dictionaries.load(lake, ref.name)


def _one(settings: TrainSettings) -> None:
    """Refuse settings of several dictionaries.

    Raises:
        ConfigError: They have a sweep.
    """
    if settings.sweep is not None:
        raise ConfigError(
            field="sweep",
            found=settings.sweep.name,
            expected="settings of one dictionary",
            hint="train.sweep, `OpenLake.sweep` and `saestore train` train all of them",
        )


def _train(training: Training, stream: Stream, watch: Watch, progress: Progress) -> None:
    """Take all steps from the newest checkpoint on, and write the dictionary."""
    resume(training, progress)
    if training.position is not None:
        stream.load_state_dict(training.position)
    _announce(training, stream, progress)
    label = f"training {training.run.ref.name}"
    one_pass.train([training], stream, watch, progress, label=label)


def planned(
    settings: TrainSettings,
    rows: TrainingRows,
    stream: Stream,
    artefact: Storage,
    described: manifests.Run,
    *,
    source: SparseDictionary | None,
    host: Host | None,
    device: torch.device,
) -> Training:
    """Return a run at its start; nothing is written or resumed yet.

    Args:
        settings: What was asked for.
        rows: Where its rows come from.
        stream: Their stream.
        artefact: Where it is written.
        described: Its name, settings and parents.
        source: The dictionary that weights are taken from, if they are.
        host: What of the language model they are taken from, if they are.
        device: Where it is trained.

    Raises:
        ConfigError: The settings contradict the stores.
        MissingExtraError: `log.wandb` is set and wandb is not installed.
    """
    if settings.log.wandb is not None:
        wandb_log.imported()
    moments = {hook: rows.moments(hook) for hook in hookpoints(settings)}
    d_sae = settings.dictionary.features(max(rows.widths[hook] for hook in hookpoints(settings)))
    dictionary = dictionaries.build(
        settings.dictionary,
        widths=rows.widths,
        moments=moments,
        init=settings.init,
        seed=settings.seed.init,
        sample=start.sample(settings, rows, hookpoints(settings), d_sae),
        source=source,
        host=host,
    )
    schedule = schedule_of(settings, stream.rows_per_epoch)
    variance = {
        hook: dictionary.scales[hook].record.a ** 2 * float(moments[hook].m2.sum())
        / moments[hook].count
        for hook in dictionary.hookpoints_out
    }  # fmt: skip
    return Training(
        settings,
        rows,
        artefact,
        described,
        Trainer(dictionary.to(device), settings, schedule, variance=variance),
        pauses(settings, schedule.steps),
        early=None if settings.early_stop is None else EarlyStop(settings.early_stop),
    )


def resume(training: Training, progress: Progress) -> None:
    """Go to the newest checkpoint of a run, and say what may keep it from being bit-exact."""
    for name, (then, now) in training.resume().items():
        progress.note(
            f"{training.run.ref.name}: goes on with other {name} ({now}, before {then}): "
            "the result may differ in its last bits from an uninterrupted run's"
        )


def schedule_of(settings: TrainSettings, rows_per_epoch: int) -> Schedule:
    """Return how long a run is: whole batches only.

    Args:
        settings: The run's settings.
        rows_per_epoch: Rows that one pass over the training rows yields.

    Raises:
        ConfigError: The budget is smaller than one batch.
    """
    batch, budget = settings.activations.batch_rows, settings.budget
    rows = budget.rows or int((budget.epochs or 0) * rows_per_epoch)
    if rows < batch:
        raise ConfigError(
            field="budget.rows" if budget.rows else "budget.epochs",
            found=budget.rows or budget.epochs,
            expected=f"at least one batch: activations.batch_rows is {batch} and there are "
            f"{rows_per_epoch} training rows",
            hint="use smaller batches, more epochs, or generate more tokens",
        )
    steps = rows // batch
    return Schedule(steps, batch, objectives.dead_after_rows(settings.loss, steps * batch))


def hookpoints(settings: TrainSettings) -> tuple[str, ...]:
    """Return what a run reads."""
    return settings.dictionary.involved


def _announce(training: Training, stream: Stream, progress: Progress) -> None:
    """Say what is trained and how well its rows are mixed."""
    schedule, sources = training.trainer.schedule, training.rows.sources(stream)
    progress.note(
        f"{_many(training.trainer.dictionary.d_sae, 'feature')}, "
        f"{_many(schedule.steps, 'step')} of {_many(schedule.batch_rows, 'row')}; "
        f"mixing window {_many(stream.window_rows, 'row')}, "
        f"{stream.mixing:.2f} rows of the same context per row and batch, variance of a "
        f"document's features times {stream.inflation:.2f}"
        + (f"; rows of {', '.join(map(str, sources))}" if sources else "")
    )


def _many(n: int, thing: str) -> str:
    return f"{n:,} {thing}" if n == 1 else f"{n:,} {thing}s"
