"""Settings: what there is to set, whether a file is right, its JSON Schema."""

from enum import StrEnum
from typing import Annotated

import typer

from saestore_cli.options import ConfigArgument, SetOption
from saestore_cli.session import Session, command


class Verb(StrEnum):
    """Verbs that take a settings file."""

    GENERATE = "generate"
    TRAIN = "train"
    EVALUATE = "evaluate"
    ANALYZE = "analyze"
    INTERPRET = "interpret"
    IMPORT = "import"


VerbArgument = Annotated[
    Verb,
    typer.Argument(
        metavar="VERB", help="generate, train, evaluate, analyze or import.", show_default=False
    ),
]


def add(app: typer.Typer) -> None:
    """Add `config` and its commands."""
    group = typer.Typer(
        help="Settings files: print, check, JSON Schema.",
        no_args_is_help=True,
    )
    command(group, "show", "saestore config show train > train.toml", uses=())(show)
    command(
        group,
        "check",
        "saestore config check train.toml",
        "saestore config check run.toml --verb train --set dictionary.activation.k=64",
        uses=(),
    )(check)
    command(group, "schema", "saestore config schema train > train.schema.json", uses=())(schema)
    app.add_typer(group, name="config", rich_help_panel="Settings")


def show(session: Session, verb: VerbArgument) -> None:
    """Print a settings file with every setting, its default and what it means."""
    from saestore.api import template

    session.output.document(template.toml(verb.value), kind="toml")


def check(
    session: Session,
    config: ConfigArgument,
    verb: Annotated[
        Verb | None,
        typer.Option(
            help="Whose settings these are; absent, told from the file.", show_default=False
        ),
    ] = None,
    overrides: SetOption = None,
) -> None:
    """Check a settings file without running anything; all problems are listed at once."""
    from saestore.api import config as library

    chosen = verb.value if verb else library.verb_of(config)
    settings = library.load_settings(chosen, config, overrides or ())
    session.output.checked(str(config), chosen, settings)


def schema(session: Session, verb: VerbArgument) -> None:
    """Print the JSON Schema of a verb's settings; editors complete and check with it."""
    from saestore.api import template

    session.output.document(template.json_schema(verb.value), kind="json")
