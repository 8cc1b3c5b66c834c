"""Activation stores: merging the parts of several processes."""

from typing import Annotated

import typer

from saestore_cli.session import Session, command


PANEL = "Activation stores"


def add(app: typer.Typer) -> None:
    """Add the commands about stores."""
    command(
        app,
        "merge",
        "saestore merge pile-8M",
        "saestore generate run.toml --shard 0/2 & saestore generate run.toml --shard 1/2; wait",
        uses=("lake", "no_progress"),
        panel=PANEL,
    )(merge)


def merge(
    session: Session,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="The store whose parts are finished, as `saestore ls` prints it.",
            show_default=False,
        ),
    ],
) -> None:
    """Make a store of the parts that `generate --shard` left; then remove them.

    The bytes are those that one process would have written. Parts that are missing or not finished
    are named. A merge that was killed continues when the same command is given again.
    """
    lake = session.lake
    store = lake.merge(name, progress=session.progress)
    session.output.finished(store.ref, store.manifest, {})
