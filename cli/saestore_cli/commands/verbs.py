"""The four verbs and the demo: settings in, one library call, a summary out."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saestore_cli import arguments
from saestore_cli.arguments import Arguments
from saestore_cli.options import (
    ConfigArgument,
    ResumeOption,
    SetOption,
    ShardOption,
    TimeLimitOption,
    seconds,
)
from saestore_cli.session import Session, command


if TYPE_CHECKING:
    from saestore.lake import Ref

PANEL = "The main job"

_USES = ("lake", "device", "no_progress")


def add(app: typer.Typer) -> None:
    """Add the verbs."""
    command(
        app,
        "generate",
        "saestore generate configs/generate/pythia.toml",
        "saestore generate run.toml --set tokens=100000 --set corpus.context_size=128",
        "saestore generate run.toml --shard 0/2",
        uses=_USES,
        panel=PANEL,
    )(generate)
    command(
        app,
        "train",
        "saestore train configs/train/topk.toml --lake lake",
        "saestore train run.toml --set name=topk-64 --set dictionary.activation.k=64",
        "saestore train run.toml --time-limit 12h",
        uses=_USES,
        panel=PANEL,
    )(train)
    command(
        app,
        "evaluate",
        "saestore evaluate configs/evaluate/quality.toml --set dictionary=demo/topk-32",
        "saestore evaluate run.toml --set splice=false",
        "saestore evaluate --compare demo/topk-32 demo/batchtopk-32 --out scores.parquet",
        uses=_USES,
        panel=PANEL,
    )(evaluate)
    command(
        app,
        "analyze",
        "saestore analyze demo/topk-32",
        "saestore analyze configs/analyze/small.toml demo/topk-32",
        "saestore analyze run.toml --set name=first-million --set rows=1000000",
        "saestore analyze run.toml --shard 0/2",
        uses=_USES,
        panel=PANEL,
    )(analyze)
    command(
        app,
        "demo",
        "saestore demo --lake demo-lake",
        "saestore demo --corpus books/ --tokens 100000",
        uses=_USES,
        panel=PANEL,
    )(demo)


def generate(
    session: Session,
    config: ConfigArgument,
    overrides: SetOption = None,
    resume: ResumeOption = False,
    shard: ShardOption = None,
) -> None:
    """Text to activations: run a language model and store what it computes.

    A run that was killed continues where it stopped when the same command is given again, and ends
    with the same bytes.

    Several processes share the work with --shard, or under torchrun without it; `saestore merge`
    then makes the store, the same bytes as one process would.
    """
    del resume
    given = Arguments(config, ())
    _in_parts(session, "generate", given, overrides, shard, _activations)


def _in_parts(
    session: Session,
    verb: str,
    given: Arguments,
    overrides: SetOption,
    shard: ShardOption,
    ref_of: Callable[[Any], "Ref"],
) -> None:
    """Run a verb, or one of the parts that several processes share."""
    from saestore.api.config import load_settings
    from saestore.lake.parts import Part

    settings = load_settings(verb, given.config, overrides or (), options=given.options)
    if shard is None and Part.of_environment(os.environ) is None:
        _verb(session, verb, settings, ref_of)
        return
    lake = session.lake
    states = getattr(lake, f"{verb}_part")(settings, shard, progress=session.progress)
    ref = ref_of(settings)
    if states:
        session.output.part(ref, states)
    else:
        session.output.finished(ref, lake.lake.manifest(ref), {})


def train(
    session: Session,
    config: ConfigArgument,
    overrides: SetOption = None,
    resume: ResumeOption = False,
    time_limit: TimeLimitOption = None,
) -> None:
    """Activations to a dictionary: train it on a store.

    A run that was killed continues from its newest checkpoint when the same command is given again,
    and ends with the same bytes. Ctrl-C, SIGTERM and --time-limit leave a checkpoint at the step
    they come in.

    With a section `sweep`, several dictionaries are trained in one pass over the rows.
    """
    from saestore.api.config import load_settings

    del resume
    settings = load_settings("train", config, overrides or ())
    lake, sweep = session.lake, getattr(settings, "sweep", None)
    work = lake.train if sweep is None else lake.sweep
    work(
        settings,  # type: ignore[arg-type] # the verb's own
        progress=session.progress,
        time_limit_s=None if time_limit is None else seconds(time_limit),
    )
    if sweep is not None:
        session.output.page(lake.show(f"sweeps/{sweep.name}"))
        return
    ref = _dictionary(settings)
    session.output.finished(ref, lake.lake.manifest(ref), {})


def evaluate(
    session: Session,
    given: Annotated[
        list[str],
        typer.Argument(
            metavar="[CONFIG.toml] [DICTIONARY]",
            help="Settings file, a dictionary instead of the file's, or both; with --compare, the "
            "dictionaries.",
            show_default=False,
        ),
    ],
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", metavar="", help="Measure several dictionaries on the same rows."
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="With --compare, write all scores to a file: .parquet, .csv or .json.",
            show_default=False,
        ),
    ] = None,
    overrides: SetOption = None,
    resume: ResumeOption = False,
) -> None:
    """How good a dictionary is: reconstruction, sparsity, loss.

    With --compare, several dictionaries on the same rows and contexts, side by side; evaluations that
    were finished before are not made again.
    """
    from saestore_cli import answers, comparing

    del resume
    asked = comparing.asked(given, compare=compare, out=out)
    lake = session.lake
    for name in asked.dictionaries:  # a name that is not there is told before anything else
        if "@" not in name:
            lake.manifest(f"dictionaries/{name}")
    settings = comparing.settings(asked, overrides or ())
    if not compare:
        made = lake.evaluate(settings, progress=session.progress)
        session.output.finished(made.ref, made.manifest, made.values)
        return
    found = lake.compare(asked.dictionaries, settings, progress=session.progress)
    if out is None:
        session.output.compared(found)
    else:
        answers.into(found.table, out)
        session.output.wrote(out, rows=found.table.num_rows)


def analyze(
    session: Session,
    given: Annotated[
        list[str],
        typer.Argument(
            metavar="[CONFIG.toml] [DICTIONARY]",
            help="Settings file, a dictionary instead of the file's, or both; a dictionary alone is "
            "analyzed with the default settings.",
            show_default=False,
        ),
    ],
    overrides: SetOption = None,
    resume: ResumeOption = False,
    shard: ShardOption = None,
) -> None:
    """A dictionary to feature tables: what every feature does.

    A run that was killed encodes what it had not yet when the same command is given again, and ends
    with the same bytes.

    Several processes share the encoding with --shard, or under torchrun without it; the same command
    without --shard then makes the tables, the same bytes as one process would.
    """
    del resume
    found = arguments.of_one(
        given, expected="one dictionary", hint="analyze them one after the other"
    )
    _in_parts(session, "analyze", found, overrides, shard, _analysis)


def demo(
    session: Session,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Hub name or local directory of a model; absent, SmolLM2-135M.",
            show_default=False,
        ),
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Text, JSONL or Parquet file, folder or glob; absent, the Python standard library.",
            show_default=False,
        ),
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to read.")] = 250_000,
) -> None:
    """The whole job on a small model, from text to a SQL answer.

    Run it again to resume: nothing that was finished is done twice.
    """
    from saestore.api import demo as library

    lake = session.lake
    result = library.run(lake, model=model, corpus=corpus, tokens=tokens, progress=session.progress)
    session.output.demo(result)


def _verb(
    session: Session,
    verb: str,
    settings: Any,
    ref_of: Callable[[Any], "Ref"],
) -> None:
    lake = session.lake
    made = getattr(lake, verb)(settings, progress=session.progress)
    ref = getattr(made, "ref", None) or ref_of(settings)
    session.output.finished(ref, lake.lake.manifest(ref), getattr(made, "values", {}))


def _activations(settings: Any) -> "Ref":
    from saestore.lake import Ref

    return Ref("activations", settings.name)


def _dictionary(settings: Any) -> "Ref":
    from saestore.lake import Ref

    return Ref("dictionary", f"{settings.series}/{settings.name}")


def _analysis(settings: Any) -> "Ref":
    from saestore.lake import checkpoint

    return checkpoint.beside("features", settings.dictionary, settings.name)
