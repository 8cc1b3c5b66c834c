"""Questions in SQL, and the questions that are ready."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saestore_cli.options import Format, TableFormat
from saestore_cli.session import Session, command


if TYPE_CHECKING:
    from saestore.features import Limits
    from saestore_cli.answers import Shown


MemoryOption = Annotated[
    str | None,
    typer.Option(
        "--memory",
        metavar="SIZE",
        help="Most memory, such as 4GiB; absent, half of the machine's.",
        show_default=False,
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        help="CPU threads; absent, SAESTORE_THREADS, else all.",
        show_default=False,
    ),
]

_SCREEN = 100
"""Rows printed as a table unless `--limit` says otherwise."""


def add(app: typer.Typer) -> None:
    """Add `query`."""
    command(
        app,
        "query",
        'saestore query "SELECT feature, density FROM features ORDER BY density DESC LIMIT 5"',
        "saestore query --list",
        'saestore query --explain "SELECT value FROM firings WHERE feature = 17"',
        "saestore query top_contexts --param feature=17 --in demo/topk-32",
        "saestore query --sql-shell",
        'saestore query "SELECT * FROM firings" --format parquet --out firings.parquet',
        panel="Look",
    )(query)


def query(
    session: Session,
    *,
    question: Annotated[
        str | None,
        typer.Argument(
            metavar="SQL | NAME",
            help="SQL over the lake's tables, or the name of a query that is ready.",
            show_default=False,
        ),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            "--param",
            metavar="NAME=VALUE",
            help="A parameter, `$name` in the SQL; may be repeated.",
            show_default=False,
        ),
    ] = None,
    analysis: Annotated[
        str | None,
        typer.Option(
            "--in",
            metavar="SERIES/NAME[/ANALYSIS]",
            help="Which analysis a named query is about; absent, the only one.",
            show_default=False,
        ),
    ] = None,
    listed: Annotated[
        bool, typer.Option("--list", metavar="", help="List the queries that are ready.")
    ] = False,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            metavar="",
            help="Say how it is answered, and how much of each table is read for it.",
        ),
    ] = False,
    shell: Annotated[
        bool,
        typer.Option(
            "--sql-shell",
            metavar="",
            help="Ask one question after the other, with completion and a history; from a pipe, the "
            "statements that it holds.",
        ),
    ] = False,
    form: Annotated[
        TableFormat | None,
        typer.Option(
            "--format",
            help="How to write the answer; absent, by the suffix of --out, else a table.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write to a file.", show_default=False),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            min=0,
            help=f"At most so many rows, 0 for all; absent, {_SCREEN} on screen and all in files.",
            show_default=False,
        ),
    ] = None,
    memory: MemoryOption = None,
    threads: ThreadsOption = None,
    time_limit: Annotated[
        str | None,
        typer.Option(
            "--time-limit",
            metavar="DURATION",
            help="Give up after this long, such as 30s or 5m; absent, never.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Ask a question in SQL, or one that is ready.

    Every analysis of the lake is in the same tables.

    Of analyses: features, firings, contexts, tokens, vocabulary, documents, examples, histograms,
    logits, logit_stats; each says which series, dictionary and analysis a line belongs to. Of
    explanations: interpretations, interpretation_scores, interpretation_answers. Of
    evaluations: scores, feature_scores. Of training: metrics, timings, sweeps. Of the lake: artefacts.

    SQL only reads, and only this lake: no other file, no network, no extension.
    """
    from saestore_cli import answers

    lake = session.lake
    if listed:
        session.output.queries(lake.queries())
        return
    limits = answers.limits(memory, threads, time_limit)
    chosen = answers.format_of(form, out, json=session.output_format is Format.JSON)
    if limit is None and chosen is TableFormat.TABLE and out is None:
        limit = _SCREEN
    shown = answers.Shown(session.output, chosen, out, limit)
    if shell:
        answers.alone("--sql-shell", question=question, out=out, explain=explain, param=param)
        _converse(session, shown, analysis, limits)
        return
    ask = answers.question(question, param or [], analysis)
    if explain:
        found = lake.explain(ask.text, ask.params, analysis=analysis, limits=limits)
        session.output.explained(found)
        return
    shown.tell(
        lake.stream_named(ask.text, shown.take, ask.params, analysis=analysis, limits=limits)
        if ask.named
        else lake.stream(ask.text, shown.take, ask.params, limits=limits)
    )


def _converse(session: Session, shown: "Shown", analysis: str | None, limits: "Limits") -> None:
    """Answer what a person types, or what a pipe holds."""
    from saestore_cli import shell
    from saestore_cli.report import Report

    with shell.Shell(
        session.lake, session.output, shown.show, analysis=analysis, limits=limits
    ) as opened:
        if not sys.stdin.isatty():
            shell.read(opened, sys.stdin)
            return
        from saestore_cli import shell_prompt

        sys.stderr.write(shell_prompt.WELCOME)
        shell_prompt.converse(opened, lambda error: session.output.error(Report.of(error)))
