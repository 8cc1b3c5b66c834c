"""The SQL shell at a terminal: editing over several lines, completion, and a history that stays."""

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from saestore.errors import MissingExtraError, SaestoreError
from saestore.features import named_queries
from saestore_cli.shell import HELP, QuitError, Shell, attempt


if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

WELCOME = "SQL ends with ; · .help lists commands · Tab completes · Ctrl-D leaves\n"


def state_folder() -> Path:
    """Return where this program keeps what it remembers of a person: XDG_STATE_HOME's."""
    home = os.environ.get("XDG_STATE_HOME", "")
    return (Path(home) if home else Path.home() / ".local" / "state") / "saestore"


def converse(shell: Shell, fail: Callable[[SaestoreError], None], **terminal: Any) -> None:
    """Ask a person for statements, and answer them, until they leave.

    Args:
        shell: The open shell.
        fail: Where errors go.
        terminal: `input` and `output` of prompt_toolkit, where it is not this terminal.

    Raises:
        MissingExtraError: prompt_toolkit is not installed.
    """
    prompt = _prompt(shell, **terminal)
    while True:
        try:
            attempt(shell, prompt.prompt("sql> "), fail)
        except KeyboardInterrupt:
            continue  # Ctrl-C gives up the line
        except (EOFError, QuitError):
            return


def _prompt(shell: Shell, **terminal: Any) -> "PromptSession[str]":
    try:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.application import get_app
        from prompt_toolkit.filters import Condition
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            package="prompt_toolkit",
            extra="shell",
            purpose="typing into the SQL shell",
        ) from error
    return PromptSession(
        history=_history(),
        completer=_completer(shell),
        complete_while_typing=False,
        multiline=Condition(lambda: not shell.complete(get_app().current_buffer.text)),
        prompt_continuation=lambda width, *_: "...> ".rjust(width),
        **terminal,
    )


def _history() -> Any:
    """Return what was typed before; in a home that cannot be written, only what is until the end."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    file = state_folder() / "sql_history"
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with file.open("a"):
            return FileHistory(file)
    except OSError:
        return InMemoryHistory()


def _completer(shell: Shell) -> Any:
    from prompt_toolkit.completion import Completer, Completion

    class Names(Completer):
        @override
        def get_completions(self, document: Any, complete_event: Any) -> Iterable[Completion]:
            del complete_event
            typed, names = suggestions(shell, document.text_before_cursor)
            return (Completion(name, start_position=-len(typed)) for name in names)

    return Names()


_TABLE_NEXT = re.compile(
    r".*\b(FROM|JOIN|DESCRIBE|SUMMARIZE|TABLE)\s+\w*", re.IGNORECASE | re.DOTALL
)


def suggestions(shell: Shell, text: str) -> tuple[str, list[str]]:
    """Return the last word of a text, and what it may become, likeliest first.

    After a dot command its arguments; after FROM and JOIN tables; elsewhere the columns of the
    tables that the text names, or of all, then tables and reserved words, in the case that is typed.

    Args:
        shell: The open shell.
        text: What stands before the cursor.
    """
    if text.lstrip().startswith("."):
        typed = _last(r"\S*", text)
        return typed, _starting(typed, _arguments(shell, text.lstrip()))
    typed = _last(r"\w*", text)
    columns = shell.asked.columns
    if _TABLE_NEXT.fullmatch(text):
        return typed, _starting(typed, columns)
    named = [table for table in columns if re.search(rf"\b{table}\b", text)]
    near = dict.fromkeys(name for table in named or columns for name in columns[table])
    if text.removesuffix(typed).endswith("."):
        return typed, _starting(typed, near)
    words = shell.asked.keywords
    cased = words if typed.isupper() else [word.lower() for word in words]
    return typed, _starting(typed, [*near, *columns, *cased])


def _last(pattern: str, text: str) -> str:
    match = re.search(f"{pattern}$", text)
    return match.group() if match else ""


def _arguments(shell: Shell, text: str) -> Iterable[str]:
    """Return what a command with a dot may be, or be followed by."""
    name, *given = text.split(" ")
    if not given:
        return [each.split(" ", 1)[0] for each in HELP]
    if name == ".schema":
        return shell.asked.columns
    if name == ".in":
        return [ref.name for ref in shell.every]
    if name != ".run":
        return ()
    query = named_queries().get(given[0])
    if len(given) == 1 or query is None:
        return named_queries()
    return [f"{param.name}=" for param in query.params]


def _starting(typed: str, names: Iterable[str]) -> list[str]:
    found = dict.fromkeys(names)
    return [name for name in found if name.lower().startswith(typed.lower()) and name != typed]
