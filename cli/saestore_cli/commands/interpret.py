"""What features stand for: a run of `interpret`, what it would take, runs side by side."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from saestore_cli.options import ResumeOption, SetOption
from saestore_cli.session import Session, command


COMPARE = "compare"
"""First word of `interpret compare RUN…`."""


def add(app: typer.Typer) -> None:
    """Add `interpret`."""
    command(
        app,
        "interpret",
        "saestore interpret configs/interpret/openai.toml --dry-run",
        "saestore interpret configs/interpret/openai.toml --set budget.tokens=2000000",
        "saestore interpret demo/topk-32 --features 17,204 --set endpoint.model=gpt-4o-mini",
        'saestore interpret run.toml demo/topk-32 --where "density < 0.01 AND max >= 3"',
        "saestore interpret demo/topk-32 --set endpoint.model=local "
        "--set endpoint.base_url=http://127.0.0.1:8080/v1",
        "saestore interpret run.toml --replay published/cassette.jsonl",
        "saestore interpret compare demo/topk-32",
        uses=("lake", "no_progress"),
        panel="The main job",
    )(interpret)


def interpret(
    session: Session,
    *,
    given: Annotated[
        list[str],
        typer.Argument(
            metavar="[CONFIG.toml] [SERIES/NAME[/ANALYSIS]] | compare RUN…",
            help="Settings file, a dictionary (or one of its analyses) instead of the file's, or both. Or the "
            "word compare, and runs or analyses.",
            show_default=False,
        ),
    ],
    features: Annotated[
        str | None,
        typer.Option(
            "--features", metavar="I,J,K", help="Only these features.", show_default=False
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            "--where",
            metavar="SQL",
            help="Only features of which this holds: a condition on the view features, or a SELECT.",
            show_default=False,
        ),
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(
            "--sample",
            metavar="N",
            min=1,
            help="Only so many features, drawn evenly over their density.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", metavar="", help="Say what it would take; nobody is asked."),
    ] = False,
    replay: Annotated[
        str | None,
        typer.Option(
            "--replay",
            metavar="CASSETTE",
            help="Take every answer from a run's cassette; nobody is asked, no key is needed.",
            show_default=False,
        ),
    ] = None,
    cassettes: Annotated[
        list[str] | None,
        typer.Option(
            "--cassette",
            metavar="CASSETTE",
            help="Look here before the endpoint is asked; may be repeated.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            metavar="",
            help="Replace a run of that name that had other settings; its answers are kept and used again.",
        ),
    ] = False,
    overrides: SetOption = None,
    resume: ResumeOption = False,
) -> None:
    """What features stand for: a language model explains them and its explanations are scored.

    Any OpenAI-compatible endpoint is asked; its key comes from SAESTORE_LLM_KEY or OPENAI_API_KEY. Only the
    lake is read: no language model of study, tokenizer or data set.

    Every answer is kept as it comes. A run that was interrupted, killed, or stopped by its budget goes on
    when the same command is given again, and asks nothing twice.

    With compare, finished runs side by side: scores of their explainers, differences on the same features,
    tokens and cost.
    """
    del resume
    if given[0] == COMPARE:
        session.output.compared_interpretations(
            session.lake.compare_interpretations(_named(given[1:]))
        )
        return
    from saestore.api.config import load_settings

    config, options = _asked(given)
    options |= _selection(features, where, sample)
    settings: Any = load_settings("interpret", config, overrides or (), options=options)
    if dry_run:
        found = session.lake.estimate_interpretation(settings, progress=session.progress)
        session.output.estimated_interpretation(found, settings)
        return
    made = session.lake.interpret(
        settings,
        replay=replay,
        cassettes=cassettes or (),
        overwrite=overwrite,
        progress=session.progress,
    )
    session.output.interpreted(made)


def _named(names: Sequence[str]) -> Sequence[str]:
    from saestore.errors import ConfigError

    if not names:
        raise ConfigError(
            field=COMPARE,
            found="no name",
            expected="runs, SERIES/NAME/ANALYSIS/RUN, or analyses",
            hint="saestore ls --kind interpretation lists runs",
        )
    return names


def _asked(given: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """Return the settings file, and the settings that stand instead of its."""
    from saestore_cli import arguments

    found = arguments.of_one(
        given, expected="one dictionary", hint="interpret them one after the other"
    )
    if not found.dictionaries:
        return found.config, {}
    name = found.dictionaries[0].removeprefix("features/")
    series, _, rest = name.partition("/")
    own, slash, analysis = rest.partition("/")
    named: dict[str, Any] = {"features": f"{series}/{own}"}
    return found.config, {**named, **({"analysis": analysis} if slash else {})}


def _selection(features: str | None, where: str | None, sample: int | None) -> Mapping[str, Any]:
    """Return the settings of a selection that is given by options."""
    from saestore.errors import ConfigError

    ways = {
        "--features": features,
        "--where": where,
        "--sample": sample,
    }
    chosen = [name for name, value in ways.items() if value is not None]
    if len(chosen) > 1:
        raise ConfigError(
            field=chosen[1],
            problem=f"stands beside {chosen[0]}",
            expected="one way of choosing features",
            hint="put both conditions into --where",
        )
    if features is not None:
        try:
            numbers = [int(each) for each in features.split(",") if each.strip()]
        except ValueError:
            numbers = []
        if not numbers:
            raise ConfigError(
                field="--features",
                found=features,
                expected="numbers with commas between",
                hint="for example --features 17,204",
            )
        return {"select": {"kind": "list", "features": numbers}}
    if where is not None:
        return {"select": {"kind": "sql", "where": where}}
    return {} if sample is None else {"select": {"kind": "sample", "n": sample}}
