"""Small pieces of a page: the console, bars of text, curves, two-column facts."""

import math
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, TextIO, cast

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typing_extensions import override

from saestore.numbers import value


WIDEST = 100
"""Columns used on a wide terminal: longer lines are hard to read."""
NARROW = 80
"""Columns when there is no terminal."""

BLOCKS = "▁▂▃▄▅▆▇█"

_FLAT = 1e-5
"""Share of a number that rounding to four digits hides."""


class Terminal(Console):
    """A console that lets a closed pipe be handled at the command's boundary."""

    @override
    def on_broken_pipe(self) -> None:
        raise  # noqa: PLE0704 - called by rich while it handles BrokenPipeError


class Trimmed:
    """A stream without spaces at the ends of lines: what a file or a pipe should get."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text whose lines end where they seem to."""
        return self._stream.write(re.sub(r"[ ]+(?=\n|$)", "", text))

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def terminal(stream: TextIO | None = None, *, width: int | None = None) -> Console:
    """Return a console that prints text as it is: no markup, emoji or highlighting.

    Args:
        stream: Where; absent, stdout.
        width: Columns; absent, the terminal's up to 100, or 80 (or `COLUMNS`) without one.
    """
    stream = stream or sys.stdout
    if not stream.isatty():
        stream = cast("TextIO", Trimmed(stream))
    console = Terminal(file=stream, markup=False, emoji=False, highlight=False)
    if width is None and not console.is_terminal:
        columns = os.environ.get("COLUMNS", "")
        width = int(columns) if columns.isdigit() else NARROW
    console.width = width or min(console.width, WIDEST)
    return console


def coloured(console: Console) -> bool:
    """Return whether colours can be seen: a colour terminal, and no `NO_COLOR`."""
    return console.color_system is not None and not console.no_color


def bars(counts: Sequence[float]) -> str:
    """Return one block character for each count; the smallest count above 0 is still seen.

    >>> bars([0, 1, 4, 8])
    ' ▁▄█'
    """
    largest = max(counts, default=0)
    if largest <= 0:
        return " " * len(counts)
    steps = len(BLOCKS)
    return "".join(
        " " if n <= 0 else BLOCKS[max(0, min(steps - 1, round(n / largest * steps) - 1))]
        for n in counts
    )


def curve(values: Sequence[float | None], width: int) -> str:
    """Return a line of blocks from the smallest to the largest value, at most `width` long.

    What differs by less than the numbers beside it can show is flat.

    >>> curve([0.0, 0.5, 1.0], 8)
    '▁▅█'
    """
    known = [x for x in values if x is not None]
    if not known or width < 1:
        return ""
    lowest, span = min(known), max(known) - min(known)
    if span <= _FLAT * max(map(abs, known)):
        span = 0.0
    picked = values
    if len(values) > width:
        picked = [values[i * (len(values) - 1) // max(width - 1, 1)] for i in range(width)]
    top = len(BLOCKS) - 1
    return "".join(
        " " if x is None else BLOCKS[round((x - lowest) / span * top) if span else 0]
        for x in picked
    )


def scatter(points: Sequence[tuple[float, float, str]], *, width: int, height: int) -> list[str]:
    r"""Return points (x, y, mark) on a grid, x on a log scale where it is positive.

    A place that several points share shows the last one's mark.

    >>> print("\n".join(scatter([(1, 0.5, "a"), (100, 1, "b")], width=9, height=3)))
               1 ┤        b
                 │
             0.5 ┤a
                 └─────────
                  1     100
    """
    log = all(x > 0 for x, _, _ in points)
    xs = [math.log10(x) if log else x for x, _, _ in points]
    ys = [y for _, y, _ in points]
    grid = [[" "] * width for _ in range(height)]
    for x, y, (_, _, mark) in zip(xs, ys, points, strict=True):
        column = round(_share(x, xs) * (width - 1))
        grid[height - 1 - round(_share(y, ys) * (height - 1))][column] = mark
    ends = {0: max(ys), height - 1: min(ys)}
    lines = [
        f"{value(ends[n]) if n in ends else '':>{_AXIS}} {'┤' if n in ends else '│'}{''.join(row)}"
        for n, row in enumerate(grid)
    ]
    low, high = value(min(x for x, _, _ in points)), value(max(x for x, _, _ in points))
    lines.append(f"{'':{_AXIS}} └{'─' * width}")
    lines.append(f"{'':{_AXIS}}  {low}{high:>{max(width - len(low), len(high) + 1)}}")
    return [line.rstrip() for line in lines]


_AXIS = 12
"""Columns of the numbers beside a plot."""


def _share(x: float, among: Sequence[float]) -> float:
    """Return where a number lies between the smallest and the largest, from 0 to 1."""
    low, high = min(among), max(among)
    return (x - low) / (high - low) if high > low else 0.5


def plain_table(*columns: str) -> Table:
    """Return an empty table; a name that begins with > stands to the right.

    Numbers are never cut: where there is no room, the first column is folded.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for name in columns:
        right = name[0] == ">"
        table.add_column(
            name.lstrip(">"),
            justify="right" if right else "left",
            no_wrap=right,
            overflow="ellipsis" if right else "fold",
        )
    return table


def facts(rows: Sequence[tuple[str, Text | str]]) -> Table:
    """Return names and what stands beside them, in two columns."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(ratio=1, overflow="fold")
    for name, content in rows:
        grid.add_row(name, content)
    return grid


def pairs(items: Sequence[tuple[str, float | int | str | None]]) -> str:
    """Return `name value` pairs on one line."""
    return "   ".join(f"{name} {value(x)}" for name, x in items)
