"""Options that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    """How a command answers."""

    TEXT = "text"
    JSON = "json"


class TableFormat(StrEnum):
    """How `query` writes its answer."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    JSONL = "jsonl"
    PARQUET = "parquet"


LakeOption = Annotated[
    str | None,
    typer.Option(
        "--lake",
        metavar="PATH",
        help="Folder or URL of the lake; absent, SAESTORE_LAKE, else ./lake.",
        show_default=False,
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="NAME",
        help="Torch device: auto, cpu, cuda, cuda:1, mps; absent, SAESTORE_DEVICE, else auto.",
        show_default=False,
    ),
]
OutputOption = Annotated[
    Format | None,
    typer.Option(
        "--output",
        help="Answer as text or as JSON; absent, SAESTORE_OUTPUT, else text.",
        show_default=False,
    ),
]
ProgressOption = Annotated[
    bool, typer.Option("--no-progress", metavar="", help="Draw no progress bars.")
]
DebugOption = Annotated[
    bool, typer.Option("--debug", metavar="", help="Show tracebacks of errors.")
]
ConfigArgument = Annotated[
    Path,
    typer.Argument(
        metavar="CONFIG.toml",
        help="Settings file; `saestore config show VERB` writes one to start from.",
        show_default=False,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="A.B.C=VALUE",
        help="Change one setting; may be repeated. Values as in TOML, bare words are strings.",
        show_default=False,
    ),
]
ResumeOption = Annotated[
    bool,
    typer.Option(
        "--resume",
        metavar="",
        help="Accepted for clarity: running the same command again always resumes.",
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Make only part I of N, from 0; absent, torchrun's RANK and WORLD_SIZE, else all.",
        show_default=False,
    ),
]
TimeLimitOption = Annotated[
    str | None,
    typer.Option(
        "--time-limit",
        metavar="DURATION",
        help="Stop with a checkpoint after this long, such as 90m or 12h; absent, "
        "SAESTORE_TIME_LIMIT_S, else never.",
        show_default=False,
    ),
]
AnalysisOption = Annotated[
    str | None,
    typer.Option(
        "--analysis",
        metavar="NAME",
        help="Which analysis of the dictionary; absent, the only one.",
        show_default=False,
    ),
]


_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def seconds(duration: str) -> float:
    """Return a duration in seconds.

    >>> seconds("90m"), seconds("1.5h"), seconds("20")
    (5400.0, 5400.0, 20.0)

    Raises:
        ConfigError: It is not a number above 0 with s, m, h or d behind it.
    """
    from saestore.errors import ConfigError

    number, unit = duration.strip(), 1
    if number[-1:] in _SECONDS:
        number, unit = number[:-1], _SECONDS[number[-1]]
    try:
        found = float(number) * unit
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise ConfigError(
            field="--time-limit",
            found=duration,
            expected="a number above 0 with s, m, h or d behind it",
            hint="for example 45m, 12h or 1.5d",
        )
    return found


def examples(*lines: str) -> str:
    """Return the end of a command's help: one example a line."""
    shown = "\n\n".join(line.replace("[", "\\[") for line in lines)
    return f"[bold]Examples[/bold]\n\n{shown}"
