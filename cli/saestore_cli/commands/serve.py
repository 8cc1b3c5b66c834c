"""Pages and a JSON API over a lake."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saestore_cli.session import Session, command


if TYPE_CHECKING:
    from saestore.server import Place


def add(app: typer.Typer) -> None:
    """Add `serve`."""
    command(
        app,
        "serve",
        "saestore serve --lake demo-lake --open",
        "saestore serve --live auto --annotate",
        "saestore serve --host 0.0.0.0 --token-file token",
        "saestore serve --port 0 --output json",
        uses=("lake", "device", "no_progress"),
        panel="Look",
    )(serve)


def serve(
    session: Session,
    *,
    host: Annotated[
        str | None,
        typer.Option(
            "--host",
            metavar="ADDRESS",
            help="Address to listen on; absent, SAESTORE_SERVER_HOST, else 127.0.0.1. Beyond this machine "
            "a token is required.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            min=0,
            max=65_535,
            help="Port, 0 for a free one; absent, SAESTORE_SERVER_PORT, else 24576.",
            show_default=False,
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            metavar="FILE",
            help="File that holds the token; absent, SAESTORE_SERVER_TOKEN.",
            show_default=False,
        ),
    ] = None,
    live: Annotated[
        str | None,
        typer.Option(
            "--live",
            metavar="MODEL",
            help="Run texts: name or directory of the language model, or auto for the one that each store "
            "says it is of.",
            show_default=False,
        ),
    ] = None,
    annotate: Annotated[
        bool,
        typer.Option("--annotate", metavar="", help="Let annotations be written."),
    ] = False,
    browser: Annotated[
        bool, typer.Option("--open", metavar="", help="Open a browser on it.")
    ] = False,
    access_log: Annotated[
        bool,
        typer.Option("--access-log", metavar="", help="Write a line of each request to stderr."),
    ] = False,
) -> None:
    """Serve pages and a JSON API over the lake.

    They read the lake, and write annotations where --annotate allows it. Every SAESTORE_SERVER_* variable
    is a setting of the server; the reference lists them. Ctrl-C ends it, requests in progress first.
    """
    from saestore.api import config, serving
    from saestore_schemas.server import ServerSettings

    settings = config.from_environment(
        ServerSettings,
        host=host,
        port=port,
        token=None if token_file is None else serving.token_in(token_file),
        annotate=annotate or None,
    )
    lake = session.lake

    def started(place: "Place") -> None:
        session.output.serving(
            place.url, lake=lake.lake.storage.url, live=live, annotate=settings.annotate
        )
        if browser:
            import webbrowser

            webbrowser.open(place.url)

    lake.serve(
        settings,
        live=live,
        started=started,
        log="info" if access_log else "warning",
        progress=session.progress,
    )
