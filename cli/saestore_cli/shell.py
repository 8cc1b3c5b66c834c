"""The SQL shell: statements over several lines, commands with a dot, answers as `query` prints them.

It knows no terminal: lines go in, one at a time. `shell_prompt` reads them from a person.
"""

import shlex
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from saestore.errors import QueryError, SaestoreError, nearest
from saestore.features.statements import empty, split
from saestore.features.views import VIEWS


if TYPE_CHECKING:
    import pyarrow as pa

    from saestore.api import OpenLake
    from saestore.features import Limits
    from saestore_cli.output import Output


HELP = {
    ".help": "this list",
    ".tables": "the tables, and what they hold",
    ".schema [TABLE]": "the columns of one table, or of all",
    ".queries": "the queries that are ready, with their parameters",
    ".run NAME [PARAM=VALUE ...]": "ask one of them",
    ".in [SERIES/NAME[/ANALYSIS]]": "ask within one analysis, or within all again",
    ".explain SQL": "how a question is answered, and how much is read for it",
    ".quit": "leave; Ctrl-D does too",
}
"""Commands with a dot; anything else is SQL and ends with a semicolon."""


class QuitError(Exception):
    """The person wants to leave."""


class Shell:
    """One sitting: `with` it, then `feed` it lines.

    Attributes:
        asked: The open connection.
        every: The lake's analyses.
        pending: What was typed of a statement that has not ended.
    """

    def __init__(
        self,
        lake: "OpenLake",
        output: "Output",
        show: "Callable[[pa.Table], None]",
        *,
        analysis: str | None,
        limits: "Limits",
    ) -> None:
        """Open the lake.

        Args:
            lake: The lake.
            output: Where lists and plans go.
            show: Where answers go.
            analysis: As `--in`.
            limits: What each question may take.

        Raises:
            SaestoreError: There is no such analysis, or tables are damaged.
        """
        self._lake, self._output, self._show, self._limits = lake, output, show, limits
        self.asked = lake.session(analysis=analysis, limits=limits)
        self.every = self.asked.every
        self.pending = ""
        self._commands: dict[str, Callable[[str], None]] = {
            ".help": self._help,
            ".tables": self._tables,
            ".schema": self._schema,
            ".queries": lambda _: output.queries(lake.queries()),
            ".run": self._run,
            ".in": self._within,
            ".explain": lambda sql: output.explained(self.asked.explain(sql.rstrip().rstrip(";"))),
            ".quit": self._quit,
            ".exit": self._quit,
        }

    def __enter__(self) -> "Shell":
        """Return it."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the lake."""
        self.asked.__exit__(None, None, None)

    def feed(self, line: str) -> None:
        """Take one line: answer what it ends, keep what it begins.

        Raises:
            QuitError: It says to leave.
            SaestoreError: What it ended could not be answered; nothing is pending then.
        """
        if not self.pending and line.lstrip().startswith("."):
            self._command(line.strip())
            return
        statements, rest = split(f"{self.pending}\n{line}" if self.pending else line)
        self.pending = ""
        for statement in statements:
            self._show(self.asked.answer(statement))
        self.pending = rest

    def end(self) -> None:
        """Answer what stands there without a semicolon.

        Raises:
            SaestoreError: It could not be answered.
        """
        rest, self.pending = self.pending, ""
        if not empty(rest):
            self._show(self.asked.answer(rest))

    def complete(self, text: str) -> bool:
        """Return whether a text can be fed: nothing in it waits for its end."""
        return text.lstrip().startswith(".") or not split(text)[1]

    def _command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        command = self._commands.get(name.lower())
        if command is None:
            close = nearest(name, list(self._commands))
            raise QueryError(
                f"there is no command {name}",
                found=name,
                expected=f"one of {', '.join(self._commands)}",
                hint=f"did you mean {close[0]}?" if close else ".help lists them",
            )
        command(rest.strip())

    def _help(self, _: str) -> None:
        self._lines(HELP.items())

    def _tables(self, _: str) -> None:
        self._lines(VIEWS.items())

    def _lines(self, pairs: Iterable[tuple[str, str]]) -> None:
        listed = list(pairs)
        width = max(len(name) for name, _ in listed)
        self._output.document("".join(f"{a:<{width}}  {b}\n" for a, b in listed), kind="text")

    def _schema(self, rest: str) -> None:
        name = rest.strip().rstrip(";")
        if name:
            self._show(self.asked.schema(name))
        else:
            self._lines((view, ", ".join(names)) for view, names in self.asked.columns.items())

    def _run(self, rest: str) -> None:
        try:
            name, *given = shlex.split(rest) or [""]
        except ValueError as error:
            raise _malformed(rest) from error
        pairs = [each.partition("=") for each in given]
        if not name or not all(equals for _, equals, _ in pairs):
            raise _malformed(rest)
        self._show(self.asked.named(name, {key: value for key, _, value in pairs}))

    def _within(self, rest: str) -> None:
        following = self._lake.session(analysis=rest or None, limits=self._limits)
        self.asked.__exit__(None, None, None)
        self.asked = following
        names = ", ".join(ref.name for ref in following.analyses) or "no analysis"
        self._output.document(f"in {names}\n", kind="text")

    def _quit(self, _: str) -> None:
        raise QuitError


def _malformed(rest: str) -> QueryError:
    return QueryError(
        f".run {rest}: not a query's name with its parameters",
        found=rest,
        expected=".run NAME PARAM=VALUE ...",
        hint="for example: .run features_on_token token=' the' n=5; .queries lists them",
    )


def read(shell: Shell, lines: Iterable[str]) -> None:
    """Answer what stands in lines, until it ends or something cannot be answered.

    Raises:
        SaestoreError: That.
    """
    try:
        for line in lines:
            shell.feed(line.rstrip("\n"))
        shell.end()
    except QuitError:
        return


def attempt(shell: Shell, text: str, fail: Callable[[SaestoreError], None]) -> None:
    """Answer what a person typed; an error is said, and Ctrl-C ends one question.

    Raises:
        QuitError: They want to leave.
    """
    try:
        for line in text.split("\n"):
            shell.feed(line)
    except SaestoreError as error:
        shell.pending = ""
        fail(error)
    except KeyboardInterrupt:
        shell.pending = ""
        fail(QueryError("cancelled", hint="the shell goes on; .quit leaves it"))
