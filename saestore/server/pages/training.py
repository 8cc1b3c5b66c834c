"""Plots and sheets of a report as a page has them: no more than there is room for."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from saestore.report.document import Bands, Density, Lines, Plot, Sheet, Values
from saestore.server.pages.drawing import script


_STEPS = 200
"""Steps of a curve that are drawn, at most: as many as there are points across."""
_ROWS = 400
"""Lines of all sheets of a page, at most."""


def fitting(sheets: Sequence[Sheet]) -> list[Sheet]:
    """Return the sheets that have room, and the names of those that have none."""
    kept: list[Sheet] = []
    room = _ROWS
    for sheet in sheets:
        room -= len(sheet.rows)
        if room < 0 and kept:
            title = f"{sheet.title}: in SQL, and by `saestore show`"
            kept.append(Sheet(title, sheet.columns, ()))
        else:
            kept.append(sheet)
    return kept


def _thinned(x: Sequence[int], curves: Mapping[str, Sequence[float | None]]) -> dict[str, Any]:
    """Return curves with no more steps than can be told apart, the first and the last among them."""
    n = len(x)
    kept = (
        sorted({round(i * (n - 1) / (_STEPS - 1)) for i in range(_STEPS)})
        if n > _STEPS
        else range(n)
    )
    return {
        "x": [x[i] for i in kept],
        "curves": {
            name: [None if (v := values[i]) is None else float(f"{v:.5g}") for i in kept]
            for name, values in curves.items()
        },
        "of": n,
    }


def curves(plots: Sequence[Plot]) -> Iterator[Mapping[str, Any]]:
    """Yield what the script draws of each plot, and its title."""
    for plot in plots:
        yield {"title": plot.title, "json": script({"title": plot.title, **_curve(plot)})}


def _curve(plot: Plot) -> dict[str, Any]:
    """Return what the script draws."""
    if isinstance(plot, Lines):
        steps = sorted({step for each in plot.steps.values() for step in each})
        known: dict[str, dict[int, float | None]] = {
            name: dict(zip(plot.steps[name], values, strict=True))
            for name, values in plot.curves.items()
        }
        lines = {name: [values.get(step) for step in steps] for name, values in known.items()}
        return {**_thinned(steps, lines), "log": plot.log, "zero": plot.from_zero}
    if isinstance(plot, Bands):
        bands: dict[str, Values] = {}
        for name, (low, middle, high) in plot.bands.items():
            bands |= {f"{name}, lowest": low, name: middle, f"{name}, highest": high}
        return {**_thinned(plot.steps, bands), "bands": True, "zero": True}
    if isinstance(plot, Density):
        shares = [[share[n] for share in plot.shares] for n in range(len(plot.bins))]
        stacked = dict(zip(plot.bins, shares, strict=True))
        return {**_thinned(plot.steps, stacked), "stacked": True}
    points = sorted((x, y, name) for name, (x, y) in plot.points.items())
    return {
        "points": [[x, y, name, name in plot.front] for x, y, name in points],
        "across": plot.across,
        "up": plot.up,
        "beside": plot.beside,
    }
