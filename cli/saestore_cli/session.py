"""What every command gets: the lake, where to answer, where to report progress."""

import functools
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from saestore_cli.options import (
    DebugOption,
    DeviceOption,
    Format,
    LakeOption,
    OutputOption,
    ProgressOption,
    examples,
)


if TYPE_CHECKING:
    from saestore.api import OpenLake
    from saestore.progress import Progress
    from saestore_cli.output import Output


@dataclass(frozen=True)
class Session:
    """One run of one command.

    Attributes:
        output: Where the answer goes.
        output_format: Which form it takes.
        lake_path: `--lake`, or None.
        device: `--device`, or None.
        no_progress: `--no-progress`, or `SAESTORE_NO_PROGRESS`.
    """

    output: "Output"
    output_format: Format
    lake_path: str | None
    device: str | None
    no_progress: bool

    @property
    def lake(self) -> "OpenLake":
        """The lake that was named, opened."""
        from saestore.api import open_lake

        return open_lake(self.lake_path, device=self.device)

    @property
    def progress(self) -> "Progress":
        """Where a verb reports."""
        from saestore_cli.progress import reporter

        return reporter(draw=not self.no_progress)


_SHARED: dict[str, tuple[Any, Any]] = {
    "lake": (LakeOption, None),
    "device": (DeviceOption, None),
    "no_progress": (ProgressOption, False),
    "output": (OutputOption, None),
    "debug": (DebugOption, False),
}
"""Options a command may share, and their defaults."""

_ALWAYS = ("output", "debug")


def command(
    app: typer.Typer,
    name: str,
    *lines: str,
    uses: tuple[str, ...] = ("lake",),
    panel: str | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command: its function gets a `Session`, the shared options are added to its own.

    Args:
        app: Where it belongs.
        name: What it is called.
        lines: Examples, shown at the end of its help.
        uses: Shared options it takes beside `--output` and `--debug`.
        panel: Its group in `saestore --help`.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(**given: Any) -> None:
            shared = {key: given.pop(key, default) for key, (_, default) in _SHARED.items()}
            function(open_session(shared), **given)

        own = list(inspect.signature(function).parameters.values())[1:]
        added = [
            inspect.Parameter(
                key,
                inspect.Parameter.KEYWORD_ONLY,
                default=_SHARED[key][1],
                annotation=_SHARED[key][0],
            )
            for key in (*uses, *_ALWAYS)
        ]
        parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own] + added
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        app.command(
            name, help=paragraphs(function), epilog=examples(*lines), rich_help_panel=panel
        )(run)
        return function

    return register


def paragraphs(function: Callable[..., None]) -> str:
    """Return a function's docstring with each paragraph on one line, to be wrapped anew."""
    blocks = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(block.split()) for block in blocks)


def open_session(shared: dict[str, Any]) -> Session:
    """Return the session that the shared options describe, and warn about the environment."""
    from saestore.api import config
    from saestore_cli.output import output_for

    machine = config.machine_settings()
    chosen = shared["output"] or Format(machine.output)
    output = output_for(chosen)
    for line in config.unknown_variables(os.environ):
        output.warning(line)
    return Session(
        output=output,
        output_format=chosen,
        lake_path=shared["lake"],
        device=shared["device"],
        no_progress=shared["no_progress"] or machine.no_progress,
    )
