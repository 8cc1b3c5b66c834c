"""All commands, put together. Their bodies import what they need, so that `--help` stays fast."""

from typing import Annotated

import typer
from typer.core import TyperGroup

import saestore
from saestore_cli.commands import (
    annotations,
    between,
    exchange,
    index,
    interpret,
    look,
    lookups,
    other,
    query,
    serve,
    settings,
    stores,
    verbs,
    verify,
)


def build() -> TyperGroup:
    """Return the `saestore` command."""
    app = typer.Typer(
        name="saestore",
        help="Text to activations, sparse dictionaries, features and SQL, in one lake of files.",
        epilog="New here? `saestore demo` runs the whole job on a small model.",
        rich_markup_mode="rich",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback()(_root)
    for module in (
        verbs,
        interpret,
        stores,
        look,
        lookups,
        annotations,
        between,
        index,
        verify,
        query,
        serve,
        exchange,
        settings,
        other,
    ):
        module.add(app)
    root = typer.main.get_command(app)
    if not isinstance(root, TyperGroup):
        raise TypeError(type(root))
    return root


def _version(*, wanted: bool) -> None:
    if wanted:
        typer.echo(f"saestore {saestore.__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            metavar="",
            help="Print the version.",
            callback=lambda value: _version(wanted=value),
            is_eager=True,
        ),
    ] = False,
) -> None:
    pass
