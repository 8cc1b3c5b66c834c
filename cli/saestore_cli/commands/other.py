"""The rest: a model's hookpoints, removal."""

from typing import Annotated

import typer

from saestore_cli.commands.look import NameArgument
from saestore_cli.session import Session, command


PANEL = "More"


def add(app: typer.Typer) -> None:
    """Add the remaining commands."""
    command(
        app,
        "hookpoints",
        "saestore hookpoints EleutherAI/pythia-70m",
        "saestore hookpoints models/smollm2 --match 'blocks.*.hook_resid_post'",
        uses=(),
        panel=PANEL,
    )(hookpoints)
    command(app, "remove", "saestore remove features/demo/topk-32/default", panel=PANEL)(remove)


def hookpoints(
    session: Session,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Hub name or local Hugging Face directory.",
            show_default=False,
        ),
    ],
    match: Annotated[
        str | None,
        typer.Option(metavar="GLOB", help="Only names that match.", show_default=False),
    ] = None,
) -> None:
    """List a language model's hookpoints with their widths."""
    from saestore.api import models

    session.output.hookpoints(model, models.hookpoints(model, match))


def remove(session: Session, name: NameArgument) -> None:
    """Remove an artefact from which no other was made."""
    session.output.removed(session.lake.remove(name))
