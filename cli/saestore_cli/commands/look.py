"""Looking at a lake: what it holds, what an artefact is, where it came from."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from saestore_cli.options import AnalysisOption
from saestore_cli.session import Session, command


PANEL = "Look"

FEATURE = "feature"
"""First word of `show feature SERIES/NAME INDEX`."""

FEATURE_WORDS = 3

_EXAMPLES = 5
_AROUND = 20


class Kind(StrEnum):
    """What a lake holds."""

    ACTIVATIONS = "activations"
    DICTIONARY = "dictionary"
    FEATURES = "features"
    EVALUATION = "evaluation"
    SWEEP = "sweep"
    INTERPRETATION = "interpretation"


NameArgument = Annotated[
    str,
    typer.Argument(
        metavar="ARTEFACT",
        help="Name of an artefact, as `saestore ls` prints it.",
        show_default=False,
    ),
]


def add(app: typer.Typer) -> None:
    """Add the commands that look."""
    command(
        app,
        "ls",
        "saestore ls --lake demo-lake",
        "saestore ls --kind dictionary --output json",
        panel=PANEL,
    )(ls)
    command(
        app,
        "show",
        "saestore show demo",
        "saestore show demo/topk-32@latest",
        "saestore show features/demo/topk-32/default",
        "saestore show feature demo/topk-32 17 --n 3 --around 12",
        panel=PANEL,
    )(show)
    command(
        app,
        "report",
        "saestore report dictionaries/demo/topk-32 --to topk-32.html",
        "saestore report demo/topk-32@latest --to now.png",
        "saestore report sweeps/k-and-lr --to sweep.html",
        "saestore report features/demo/topk-32/default --to features.html",
        "saestore report demo/topk-32 --feature 17 --feature 42 --to two.html",
        (
            'saestore report demo/topk-32 --query "SELECT feature FROM features WHERE density < 0.01 '
            'ORDER BY max DESC LIMIT 20" --to twenty.html'
        ),
        uses=("lake", "no_progress"),
        panel=PANEL,
    )(report)
    command(app, "lineage", "saestore lineage features/demo/topk-32/default", panel=PANEL)(lineage)


def ls(
    session: Session,
    kind: Annotated[
        Kind | None,
        typer.Option(help="Only this kind of artefact.", show_default=False),
    ] = None,
) -> None:
    """List what the lake holds, unfinished runs included."""
    lake = session.lake
    session.output.listing(lake.lake.storage.url, lake.ls(kind.value if kind else None))


def show(
    session: Session,
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="ARTEFACT | feature SERIES/NAME INDEX",
            help="An artefact's name; or the word feature, a dictionary and a feature's index.",
            show_default=False,
        ),
    ],
    analysis: AnalysisOption = None,
    n: Annotated[
        int | None,
        typer.Option("--n", min=0, help="Examples of each group; absent, 5.", show_default=False),
    ] = None,
    around: Annotated[
        int | None,
        typer.Option(
            "--around",
            min=0,
            help="Tokens on each side of an example's peak; absent, 20.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Show an artefact, or one feature with its contexts.

    A feature is read from the index at SAESTORE_MONGO_URI if that is set, can be reached and has it as it
    is in the lake; else from the lake. It is the same.
    """
    from saestore.errors import ConfigError

    if what[0] == FEATURE and len(what) > 1:
        if len(what) != FEATURE_WORDS or not what[2].lstrip("-").isdigit():
            raise ConfigError(
                field="show feature",
                found=" ".join(what[1:]),
                expected="SERIES/NAME and the index of a feature",
                hint="for example: saestore show feature demo/topk-32 17",
            )
        name = f"{what[1]}/{analysis}" if analysis else what[1]
        found = session.lake.find_feature(name, int(what[2]))
        session.output.feature(
            found, n=_EXAMPLES if n is None else n, around=_AROUND if around is None else around
        )
        return
    if len(what) > 1:
        raise ConfigError(
            field="show",
            found=" ".join(what),
            expected="one artefact, or feature SERIES/NAME INDEX",
            hint="name one artefact at a time; `saestore ls` lists them",
        )
    if any(each is not None for each in (analysis, n, around)):
        raise ConfigError(
            field="show",
            found=what[0],
            expected="feature SERIES/NAME INDEX",
            hint="--analysis, --n and --around are about one feature",
        )
    session.output.page(session.lake.show(what[0]))


def report(
    session: Session,
    name: NameArgument,
    to: Annotated[
        Path,
        typer.Option(
            "--to",
            metavar="FILE",
            help="Where: a name that ends in .html, or in .png but for features.",
            show_default=False,
        ),
    ],
    *,
    feature: Annotated[
        list[int] | None,
        typer.Option(
            "--feature",
            metavar="N",
            help="A feature that gets a section; may be repeated.",
            show_default=False,
        ),
    ] = None,
    query: Annotated[
        str | None,
        typer.Option(
            "--query",
            metavar="SQL",
            help="Features that get a section: a question whose answer has a column `feature`.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a dictionary's curves, a sweep, or features of an analysis, as one HTML page.

    The page needs nothing but a browser: no server, no network. Of a dictionary, a checkpoint of a run
    under way and a sweep it can be a picture too.

    Of an analysis it lists all features, to sort and search. With --feature or --query it lists those,
    and has a section of each: statistics, histograms, logits, tokens, related features and contexts.
    """
    session.output.reported(
        session.lake.report(
            name, to, features=feature or (), query=query, progress=session.progress
        )
    )


def lineage(session: Session, name: NameArgument) -> None:
    """What an artefact was made from, and what from it."""
    lake = session.lake
    session.output.lineage(lake.lineage(name), lake.children(name))
