"""Activation stores: merging the parts of several processes, scattering rows."""

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
        uses=("lake", "no_progress"),
        panel=PANEL,
    )(merge)
    command(
        app,
        "shuffle",
        "saestore shuffle pile-8M pile-8M-scattered",
        "saestore train run.toml --set activations.name=pile-8M-scattered",
        uses=("lake", "no_progress"),
        panel=PANEL,
    )(shuffle)


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


def shuffle(
    session: Session,
    store: Annotated[
        str,
        typer.Argument(metavar="STORE", help="The store to copy.", show_default=False),
    ],
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Name of the copy.", show_default=False),
    ],
    seed: Annotated[int, typer.Option(min=0, help="Draws the order of the rows.")] = 0,
) -> None:
    """Copy a store with its rows permuted within each shard, to mix them with little memory.

    Training reads the copy like any store; contexts have to be read from the original. Which row of
    it each row is stands in the copy. A copy that was interrupted continues when the same command
    is given again.
    """
    made = session.lake.shuffle(store, name, seed=seed, progress=session.progress)
    session.output.finished(made.ref, made.manifest, {})
