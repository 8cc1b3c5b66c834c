"""Errors as the command line reports them: kind, message, hint, exit code."""

import re
from dataclasses import dataclass
from typing import Any

import typer

from saestore.errors import (
    ArtefactNotFoundError,
    ConfigError,
    FeatureNotFoundError,
    HookpointNotFoundError,
    QueryError,
    SaestoreError,
    nearest,
)
from saestore_cli.numbers import size


FAILED = 1
"""Exit code when what was asked for could not be done."""
MISTAKE = 2
"""Exit code when what was typed is wrong."""
INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT."""

MISTAKES = (
    ArtefactNotFoundError,
    ConfigError,
    FeatureNotFoundError,
    HookpointNotFoundError,
    QueryError,
)
"""Errors that mean a wrong name, setting or question; the others mean a failed run."""


@dataclass(frozen=True)
class Report:
    """One error, ready to be shown.

    Attributes:
        kind: Class name of the error, or `UsageError` for a malformed command.
        message: What was found and expected.
        found: What was found, if it can be said apart.
        expected: What was expected, likewise.
        hint: What to do now.
        exit_code: Exit code of the process.
    """

    kind: str
    message: str
    found: Any
    expected: str | None
    hint: str
    exit_code: int

    @classmethod
    def of(cls, error: SaestoreError) -> "Report":
        """Return the report of an error of our tree."""
        return cls(
            kind=type(error).__name__,
            message=error.message,
            found=error.found,
            expected=error.expected or None,
            hint=error.hint,
            exit_code=MISTAKE if isinstance(error, MISTAKES) else FAILED,
        )

    @classmethod
    def of_usage(
        cls, error: typer.TyperException, commands: list[str], options: list[str]
    ) -> "Report":
        """Return the report of a malformed command line.

        Args:
            error: What the parser said.
            commands: Commands that exist, for a suggestion.
            options: Options of the command that was called.
        """
        text = error.format_message().split(". Did you mean")[0].split(" (Possible options")[0]
        text = re.sub(r"\s+", " ", text).rstrip(".")
        text = text.replace("Value error, ", "").split(", unable to parse")[0]
        text = text.replace("Input should be", "expected")
        named = re.search(r"No such (command|option):? '?([^'\s]+)'?", text)
        hint = _usage(error)
        choice = re.search(r"'([^']*)' is not one of (.*)$", text)
        if named:
            known = commands if named.group(1) == "command" else options
            close = nearest(named.group(2), known, n=1)
            hint = f"did you mean {close[0]}?" if close else hint
        elif choice and (
            close := nearest(choice.group(1), re.findall("'([^']*)'", choice.group(2)))
        ):
            hint = f"did you mean {close[0]}?"
        return cls("UsageError", text[:1].lower() + text[1:], None, None, hint, error.exit_code)

    @classmethod
    def of_memory(cls, error: Exception) -> "Report":
        """Return the report of memory that the machine does not have."""
        said = " ".join(str(error).split())
        asked = re.search(r"allocate (\d+) bytes", said)
        wanted = size(int(asked.group(1))) if asked else ""
        return cls(
            kind="MemoryError",
            message=f"memory is full: {f'could not allocate {wanted} more' if wanted else said}",
            found=None,
            expected="memory for one batch, the weights and what training keeps beside them",
            hint="lower dictionary.d_sae, activations.batch_rows or forward_contexts, or see "
            "optimizer.states and optimizer.accumulate",
            exit_code=FAILED,
        )

    @classmethod
    def of_bug(cls, error: Exception) -> "Report":
        """Return the report of an error that is not of our tree: a defect of saestore."""
        return cls(
            kind=type(error).__name__,
            message=f"unexpected {type(error).__name__}: {error}",
            found=None,
            expected=None,
            hint="this is a defect of saestore: run it again with --debug and report the traceback",
            exit_code=FAILED,
        )


def _usage(error: typer.TyperException) -> str:
    """Return how the command that was called is used."""
    context = getattr(error, "ctx", None)
    if context is None:
        return "`saestore --help` lists the commands"
    usage = re.sub(r"\s+", " ", context.get_usage()).removeprefix("Usage: ")
    usage = usage.replace("{", "").replace("}", "")
    return f"{usage}; `{context.command_path} --help` says more"
