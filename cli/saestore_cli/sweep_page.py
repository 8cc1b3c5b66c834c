"""A sweep in a terminal: its dictionaries, and their scores against L0."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from saestore.numbers import count, value
from saestore_cli.drawing import plain_table, scatter


if TYPE_CHECKING:
    from saestore.report.artefacts import SweepItem, SweepPage

_SHORT = {
    "l0": "L0",
    "explained_variance": "EV",
    "ce_recovered[zero]": "CE recovered (zero)",
    "ce_recovered[mean]": "CE recovered (mean)",
    "dead[all]": "dead",
}
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_HEIGHT = 12
_PLOTS = 2


def draw(page: "SweepPage", console: Console) -> None:
    """Print the table of a sweep and its scores against L0."""
    shown = [name for name in _SHORT if any(name in item.scores for item in page.items)]
    table = plain_table(" ", "dictionary", "its own", *(f">{_SHORT[name]}" for name in shown))
    best = {name for names in page.fronts.values() for name in names}
    marks = dict(zip((item.name for item in page.items), _LETTERS, strict=False))
    for item in page.items:
        mark = marks.get(item.name, "·")
        table.add_row(
            Text(mark, style="bold green" if item.name in best else ""),
            _last(item.name),
            _change(item),
            *(value(item.scores.get(name)) for name in shown),
        )
    console.print(table)
    console.print(Text(_source(page), style="dim"))
    for item in page.items:
        if item.status != "trained":
            told = item.message or "ended early: nothing got better"
            console.print(f"{item.name} {item.status.replace('_', ' ')}: {told}")
    for name in list(page.fronts)[:_PLOTS]:
        points = [(*xy, marks.get(item, "·")) for item, xy in page.points(name).items()]
        console.print()
        console.print(Text(f"{_SHORT[name]} against L0 (log scale)", style="bold"))
        for line in scatter(points, width=min(console.width - 12, 60), height=_HEIGHT):
            console.print(Text(line), soft_wrap=True)
        front = ", ".join(map(_last, page.fronts[name]))
        console.print(f"  none is both sparser and better than {front}")
        if page.diverged:
            console.print(f"  left out, diverged: {', '.join(map(_last, page.diverged))}")


def _last(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _change(item: "SweepItem") -> str:
    parts = [f"{name.rsplit('.', 1)[-1]}={_plain(each)}" for name, each in item.change.items()]
    return " ".join(parts) or "nothing"


def _plain(found: object) -> str:
    if isinstance(found, dict):
        return "{" + " ".join(f"{name}={_plain(each)}" for name, each in found.items()) + "}"
    return value(found) if isinstance(found, (int, float)) else str(found)


def _source(page: "SweepPage") -> str:
    """Return on which rows the scores were measured."""
    every = [item.evaluation or "" for item in page.items if not item.diverged]
    newest = sum(each not in _OTHER for each in every)
    counted = {"scores of newest evaluations": newest}
    counted |= {words: every.count(kind) for kind, words in _OTHER.items()}
    found = [(words, n) for words, n in counted.items() if n]
    if len(found) == 1:
        return found[0][0]
    return "; ".join(f"{words}: {count(n)}" for words, n in found)


_OTHER = {
    "evaluate_every": "scores on held-out rows at the end of training",
    "": "scores of the last training batch: `saestore evaluate` measures held-out rows",
}
"""What is no evaluation, and what it says."""
