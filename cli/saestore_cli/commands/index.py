"""The MongoDB index of a lake: made, looked at, compared, dropped."""

from typing import TYPE_CHECKING

import typer

from saestore_cli.report import FAILED
from saestore_cli.session import Session, command


if TYPE_CHECKING:
    from saestore.index import Synced


def add(app: typer.Typer) -> None:
    """Add `index` and its commands."""
    group = typer.Typer(
        help="The lake's index in MongoDB, at SAESTORE_MONGO_URI: sync, status, verify, drop, rebuild.",
        no_args_is_help=True,
    )
    command(
        group,
        "sync",
        "saestore index sync --lake demo-lake",
        "saestore index sync --output json",
        uses=("lake", "no_progress"),
    )(sync)
    command(group, "status", "saestore index status --output json")(status)
    command(
        group, "verify", "saestore index verify --lake demo-lake", uses=("lake", "no_progress")
    )(verify)
    command(group, "drop", "saestore index drop")(drop)
    command(
        group, "rebuild", "saestore index rebuild --lake demo-lake", uses=("lake", "no_progress")
    )(rebuild)
    app.add_typer(group, name="index", rich_help_panel="Look")


def sync(session: Session) -> None:
    """Make the index say what the lake says.

    What it says already is not touched; what the lake has no more is removed. Interrupted or killed, it
    goes on when run again. Nothing is only in the index: without it, everything reads from the lake.

    Exit code 1 if an artefact cannot be read, and so is not in it.
    """
    with session.lake.index() as index:
        _told(session, index.sync(progress=session.progress))


def status(session: Session) -> None:
    """How the index stands to the lake, told by counting.

    Exit code 1 if it is not the lake's, or something is missing or too much in it.
    """
    with session.lake.index() as index:
        found = index.status()
    session.output.index_status(found)
    if not found.current:
        raise typer.Exit(FAILED)


def verify(session: Session) -> None:
    """Compare every document of the index with the lake; each difference is listed.

    Exit code 1 if there are any.
    """
    with session.lake.index() as index:
        found = index.verify(progress=session.progress)
        session.output.index_verified(index.label, found)
    if found:
        raise typer.Exit(FAILED)


def drop(session: Session) -> None:
    """Remove the index; the lake has everything, and other collections of the database stay."""
    with session.lake.index() as index:
        session.output.index_dropped(index.drop())


def rebuild(session: Session) -> None:
    """Drop the index, whichever lake it was of, and make it again of this one."""
    with session.lake.index() as index:
        _told(session, index.rebuild(progress=session.progress))


def _told(session: Session, found: "Synced") -> None:
    session.output.synced(found)
    if found.unreadable:
        raise typer.Exit(FAILED)
