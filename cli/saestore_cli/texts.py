"""Texts as a command line gives them: in quotes, in files, on stdin."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from saestore.errors import ConfigError


STDIN = "-"

TextOption = Annotated[
    list[str] | None,
    typer.Option(
        "--text", metavar="TEXT", help="A text, in quotes; may be repeated.", show_default=False
    ),
]
FileOption = Annotated[
    list[str] | None,
    typer.Option(
        "--file",
        metavar="FILE",
        help="A file that is one text, in UTF-8; - is stdin. May be repeated.",
        show_default=False,
    ),
]
LmOption = Annotated[
    str | None,
    typer.Option(
        "--lm",
        metavar="MODEL",
        help="Hub name or directory of the language model, if it is not where the store says.",
        show_default=False,
    ),
]


def given(texts: Sequence[str] | None, files: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Return texts with what each is called: quoted ones by number, files by their names.

    Raises:
        ConfigError: A file is missing, or not UTF-8; or a text is empty.
    """
    found = list(texts or [])
    names = [f"text {n + 1}" for n in range(len(found))]
    for file in files or []:
        found.append(_read(file))
        names.append("stdin" if file == STDIN else file)
    for text, name in zip(found, names, strict=True):
        if not text:
            raise ConfigError(
                field="text",
                problem=f"{name} is empty: nothing can fire in it",
                expected="text with one token or more",
            )
    return found, names


def _read(file: str) -> str:
    try:
        data = sys.stdin.buffer.read() if file == STDIN else Path(file).read_bytes()
    except OSError as error:
        raise ConfigError(
            field="--file",
            found=file,
            problem=f"cannot read {file}: {error.strerror or error}",
            expected="a file to read, or - for stdin",
        ) from error
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(
            field="--file",
            found=file,
            problem=f"{file} is not UTF-8: byte {error.start} is {data[error.start]:#04x}",
            expected="text in UTF-8",
            hint=f"convert it first, for example: iconv -t UTF-8 {file}",
        ) from error


def refuse_mix(
    command: str,
    texts: Sequence[str] | None,
    files: Sequence[str] | None,
    contexts: Sequence[int] | None,
) -> None:
    """Refuse a command that names nothing to look at, or texts and stored contexts.

    Raises:
        ConfigError: It does.
    """
    if contexts and (texts or files):
        raise ConfigError(
            field="--context",
            problem="stored contexts and texts stand together",
            expected="one or the other",
            hint="ask about them one after the other",
        )
    if not (texts or files or contexts):
        raise ConfigError(
            field=command,
            problem="there is no text",
            expected="--text, --file or --context",
            hint=f'for example: saestore {command} demo/topk-32 --text "Return the number of rows."',
        )


def refuse_one(texts: Sequence[str]) -> None:
    """Refuse one text where two are compared, before a language model is loaded.

    Raises:
        ConfigError: There is only one.
    """
    if len(texts) == 1:
        raise ConfigError(
            field="overlap",
            problem="there is one text",
            expected="two or more",
            hint="repeat --text or --file",
        )
