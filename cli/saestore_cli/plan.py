"""The plan of a question as a tree: the last step on top, what it took its rows from below."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.text import Text

from saestore.words import visible
from saestore_cli.numbers import many


if TYPE_CHECKING:
    from saestore.features import Step

_LONGEST = 80
"""Characters of one detail; JSON has them whole."""


def lines(step: "Step", lead: str = "", below: str = "") -> Iterator[Text]:
    """Yield a plan's lines.

    Args:
        step: Its last step.
        lead: What stands before its name.
        below: What stands before the lines of the steps before it.
    """
    line = Text(lead, style="dim").append(step.name, style="not dim bold")
    for name, value in step.details.items():
        line.append(f"  {name.lower()}: {cut(value)}", style="not dim")
    yield line.append(f"  {many(step.rows, 'rows')}, {step.seconds * 1000:.1f} ms")
    for number, each in enumerate(step.steps, 1):
        last = number == len(step.steps)
        yield from lines(
            each, f"{below}{'└ ' if last else '├ '}", f"{below}{'  ' if last else '│ '}"
        )


def cut(text: str) -> str:
    """Return what a line of it can hold, without control characters."""
    shown = visible(text)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…"
