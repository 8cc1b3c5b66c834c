"""Comparing: features of two dictionaries, and two analyses of one."""

from pathlib import Path
from typing import Annotated

import typer

from saestore_cli.session import Session, command


PANEL = "Look"

OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FILE",
        help="Write a line of each feature to a file: .parquet, .csv or .json.",
        show_default=False,
    ),
]


def add(app: typer.Typer) -> None:
    """Add the commands that compare."""
    command(
        app,
        "match",
        "saestore match demo/topk-32 demo/batchtopk-32",
        "saestore match demo/topk-32 demo/batchtopk-32 --feature 17 --feature 42",
        "saestore match demo/topk-32/default other/seed-1/default --rows 5000000 --out matches.parquet",
        uses=("lake", "device", "no_progress"),
        panel=PANEL,
    )(match)
    command(
        app,
        "diff",
        "saestore diff demo/topk-32/default demo/topk-32/more",
        "saestore diff demo/topk-32/books demo/topk-32/code --n 30 --out differences.csv",
        panel=PANEL,
    )(diff)


def match(
    session: Session,
    one: Annotated[
        str,
        typer.Argument(metavar="SERIES/NAME[/ANALYSIS]", help="A dictionary.", show_default=False),
    ],
    other: Annotated[
        str,
        typer.Argument(
            metavar="SERIES/NAME[/ANALYSIS]",
            help="The dictionary whose features may be partners.",
            show_default=False,
        ),
    ],
    *,
    rows: Annotated[
        int,
        typer.Option(
            min=0,
            help="Rows that both analyses have, about so many, as whole contexts drawn at random; 0, all.",
        ),
    ] = 1_000_000,
    draws: Annotated[
        int, typer.Option(min=0, help="Permutations that say what matches by chance; 0, none.")
    ] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the permutations.")] = 0,
    feature: Annotated[
        list[int] | None,
        typer.Option(
            "--feature",
            metavar="N",
            help="List these; may be repeated. Absent, those that match best.",
            show_default=False,
        ),
    ] = None,
    n: Annotated[int, typer.Option("--n", min=0, help="How many, if none are named.")] = 10,
    out: OutOption = None,
) -> None:
    """Which features of one dictionary are which of another.

    By the cosine of decoder vectors; and, where both were analysed on one store, by the correlation of
    their values, and of firing with firing, over the rows that both have. Of each feature the best partner,
    whether it is so mutually, its partner where each has at most one and the sum is largest, and how
    likely so good a match is by chance.
    """
    from saestore_cli import answers

    found = session.lake.match(
        one, other, rows=rows or None, draws=draws, seed=seed, progress=session.progress
    )
    if out is None:
        session.output.matched(found, features=feature, n=n)
    else:
        answers.into(found.table, out)
        session.output.wrote(out, rows=found.table.num_rows)


def diff(
    session: Session,
    one: Annotated[
        str,
        typer.Argument(metavar="SERIES/NAME/ANALYSIS", help="An analysis.", show_default=False),
    ],
    other: Annotated[
        str,
        typer.Argument(
            metavar="SERIES/NAME/ANALYSIS",
            help="Another one of the same dictionary.",
            show_default=False,
        ),
    ],
    *,
    n: Annotated[int, typer.Option("--n", min=0, help="Features to list.")] = 10,
    out: OutOption = None,
) -> None:
    """What changed between two analyses of a dictionary: how often features fire, how strongly, on what.

    Of features that fire more or less often, the z of two proportions over rows that are not in both;
    which woke and which fell silent.
    """
    from saestore_cli import answers

    found = session.lake.diff(one, other)
    if out is None:
        session.output.differs(found, n=n)
    else:
        answers.into(found.table, out)
        session.output.wrote(out, rows=found.table.num_rows)
