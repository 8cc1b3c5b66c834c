"""The `saestore` command: one boundary that turns every error into a message, a hint and a code."""

import os
import sys
import traceback
from collections.abc import Sequence

import typer

from saestore.errors import SaestoreError
from saestore_cli.options import Format
from saestore_cli.report import INTERRUPTED, Report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    Args:
        arguments: What follows `saestore`; absent, this process's arguments.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(given)
        sys.stdout.flush()
    except KeyboardInterrupt:
        _say("interrupted; run the same command again to resume")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough, as `| head` does: that is no error.
        _forget_stdout()
        return 0
    return code


def _run(given: list[str]) -> int:
    from saestore_cli.app import build

    root = build()
    try:
        with root.make_context("saestore", list(given)) as context:
            root.invoke(context)
    except typer.Exit as done:
        return done.exit_code
    except typer.TyperException as error:
        if not error.format_message().strip():
            return error.exit_code  # no command was given, and the help has been printed
        commands, options = _known(root, given)
        return _fail(Report.of_usage(error, commands, options), error, given)
    except (BrokenPipeError, KeyboardInterrupt):
        raise
    except Exception as error:  # noqa: BLE001 - the outermost boundary
        return _fail(_report(error), error, given)
    return 0


def _report(error: Exception) -> Report:
    if isinstance(error, SaestoreError):
        return Report.of(error)
    if isinstance(error, ModuleNotFoundError):
        return _missing(error)
    if _out_of_memory(error):
        return Report.of_memory(error)
    return Report.of_bug(error)


def _out_of_memory(error: Exception) -> bool:
    """Return whether memory was asked for that there is not: torch has types of its own for that."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "not enough memory" in str(error)


def _missing(error: ModuleNotFoundError) -> Report:
    from saestore.api.extras import missing_extra

    known = missing_extra(error, purpose="this command")
    return Report.of_bug(error) if known is None else Report.of(known)


def _fail(report: Report, error: Exception, given: list[str]) -> int:
    from saestore_cli.output import output_for

    if "--debug" in given:
        traceback.print_exception(error, file=sys.stderr)
    output_for(_format(given)).error(report)
    return report.exit_code


def _format(given: list[str]) -> Format:
    """Return how to answer, before or without a parsed command line."""
    wanted = os.environ.get("SAESTORE_OUTPUT", "")
    for before, each in zip(["", *given], given, strict=False):
        if before == "--output":
            wanted = each
        elif each.startswith("--output="):
            wanted = each.removeprefix("--output=")
    return Format.JSON if wanted == Format.JSON else Format.TEXT


def _known(root: typer.core.TyperGroup, given: list[str]) -> tuple[list[str], list[str]]:
    """Return the names of commands and options where the command line went wrong."""
    here: object = root
    for word in given:
        if isinstance(here, typer.core.TyperGroup) and word in here.commands:
            here = here.commands[word]
    commands = list(here.commands) if isinstance(here, typer.core.TyperGroup) else []
    parameters = getattr(here, "params", [])
    return commands, [option for each in parameters for option in each.opts]


def _say(line: str) -> None:
    sys.stderr.write(f"\n{line}\n")


def _forget_stdout() -> None:
    """Let the interpreter's last flush go nowhere instead of failing."""
    try:
        descriptor = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
