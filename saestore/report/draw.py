"""Plots drawn by matplotlib, each into one pair of axes; no global state, no window, no network."""

import io
import math
from collections.abc import Sequence
from functools import singledispatch
from typing import TYPE_CHECKING, Any

from saestore.errors import MissingExtraError
from saestore.report import labels
from saestore.report.document import Bands, Density, Document, Lines, Plot, Points, Values


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

COLOURS = ("#3366cc", "#d95f02", "#1b9e77", "#8856a7", "#c51b7d", "#666666")
"""Told apart by most people who see few colours, and on paper."""
INK, FAINT = "#22272e", "#d8dee4"
_SIZE = (5.2, 2.9)
"""Inches of one plot."""
_DECADES = 3
"""Decades of a log scale on which three numbers each have room."""
_THICK = 2.4
"""How much wider the first of several curves is than the last: equal ones are both seen."""
_INSIDE = (300.0, 150.0)
"""Width and height between a plot's axes, in points: about, for the names of points."""
_MARGIN = 0.12
"""Room around points, as a share of their span."""
_HEAD = 0.9
"""Inches above the plots of a picture."""
_STYLE: Any = {
    "text.parse_math": False,  # names may hold dollars
    "svg.fonttype": "none",
    "svg.hashsalt": "saestore",  # the same plot, the same bytes
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8c959f",
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": "#57606a",
    "ytick.color": "#57606a",
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "font.family": ["DejaVu Sans"],
}


def svg(plot: Plot) -> str:
    """Return a plot as an SVG element, without the XML header.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    with _style():
        figure = _figure(_SIZE)
        draw(plot, figure.subplots())
        target = io.StringIO()
        figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None})
    text = target.getvalue()
    return text[text.index("<svg") :]


def png(document: Document) -> bytes:
    """Return all plots of a document as one picture, its title and numbers above them.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    columns = min(2, max(1, len(document.plots)))
    rows = max(1, math.ceil(len(document.plots) / columns))
    with _style():
        height = rows * _SIZE[1] + _HEAD
        figure = _figure((columns * _SIZE[0], height), top=1 - _HEAD / height)
        top = 1 - 0.3 * _HEAD / height
        figure.text(0.02, top, document.title, va="center", fontsize=15, fontweight="bold")
        numbers = "    ".join(f"{name} {value}" for name, value in document.figures)
        grid = figure.subplots(rows, columns, squeeze=False)
        figure.text(0.02, 1 - 0.8 * _HEAD / height, f"{document.summary}\n{numbers}", va="center")
        for place, axes in enumerate(grid.flat):
            if place < len(document.plots):
                draw(document.plots[place], axes)
            else:
                axes.set_axis_off()
        target = io.BytesIO()
        figure.savefig(target, format="png", dpi=130, metadata={"Software": None})
    return target.getvalue()


@singledispatch
def draw(plot: Any, axes: "Axes") -> None:
    """Draw one plot."""
    raise TypeError(plot, axes)


@draw.register(Lines)
def _(plot: Lines, axes: "Axes") -> None:
    _title(plot.title, axes)
    thinner = _THICK / max(len(plot.curves), 1)
    for number, ((name, values), colour) in enumerate(
        zip(plot.curves.items(), _colours(), strict=False)
    ):
        known = _numbers(values, log=plot.log)
        axes.plot(
            plot.steps[name], known, color=colour, label=name, marker=_marker(known),
            linewidth=1.4 + thinner * (len(plot.curves) - 1 - number),
        )  # fmt: skip
    if plot.log and any(x is not None and x > 0 for each in plot.curves.values() for x in each):
        axes.set_yscale("log")
        _plain(axes.yaxis)
    if plot.from_zero:
        axes.set_ylim(bottom=0)
    if len(plot.curves) > 1:
        axes.legend(ncols=2)


@draw.register(Bands)
def _(plot: Bands, axes: "Axes") -> None:
    _title(plot.title, axes)
    for (name, band), colour in zip(plot.bands.items(), _colours(), strict=False):
        low, middle, high = (_numbers(each, log=False) for each in band)
        axes.fill_between(plot.steps, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(plot.steps, middle, color=colour, label=name, marker=_marker(middle))
    axes.set_ylim(bottom=0)
    if len(plot.bands) > 1:
        axes.legend()


@draw.register(Density)
def _(plot: Density, axes: "Axes") -> None:
    _title(plot.title, axes)
    from matplotlib.colors import PowerNorm  # noqa: PLC0415 - optional

    columns = list(zip(*plot.shares, strict=True))
    picture = axes.imshow(
        columns,
        aspect="auto",
        cmap="Blues",
        norm=PowerNorm(0.5, vmin=0, vmax=1),
        interpolation="nearest",
        extent=(-0.5, len(plot.steps) - 0.5, len(plot.bins) - 0.5, -0.5),
    )
    axes.grid(visible=False)
    axes.set_yticks(range(len(plot.bins)), plot.bins, fontsize=7)
    shown = sorted({round(i * (len(plot.steps) - 1) / 4) for i in range(5)})
    axes.set_xticks(shown, [f"{plot.steps[i]:,}" for i in shown])
    bar = axes.figure.colorbar(picture, ax=axes, fraction=0.045, pad=0.02)
    bar.set_ticks([0, 0.1, 0.5, 1], labels=["0", "10 %", "50 %", "100 %"])
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)


@draw.register(Points)
def _(plot: Points, axes: "Axes") -> None:
    axes.set_title(plot.title)
    axes.set_xlabel(f"{plot.across}\n{plot.beside}" if plot.beside else plot.across)
    axes.set_ylabel(plot.up)
    front = [plot.points[name] for name in plot.front]
    axes.plot([x for x, _ in front], [y for _, y in front], color=COLOURS[1], alpha=0.5, zorder=1)
    for name, (x, y) in plot.points.items():
        best = name in plot.front
        axes.scatter(x, y, s=26, color=COLOURS[1] if best else COLOURS[0], zorder=2)
    for name, place in _named(plot).items():
        axes.annotate(
            name, plot.points[name], xytext=(place.right, place.up), textcoords="offset points",
            fontsize=7, ha=place.side,
        )  # fmt: skip
    if plot.points and all(x > 0 for x, _ in plot.points.values()):
        axes.set_xscale("log")
        _plain(axes.xaxis)
    axes.margins(_MARGIN)


def _named(plot: Points) -> dict[str, labels.Place]:
    """Return where the names of points stand that have room, those of the front first."""
    names = [*plot.front, *(name for name in plot.points if name not in plot.front)]
    log = all(x > 0 for x, _ in plot.points.values())
    across = [math.log(x) if log else x for x, _ in (plot.points[name] for name in names)]
    up = [plot.points[name][1] for name in names]
    width, height = _INSIDE
    where = list(zip(_spread(across, width), _spread(up, height), strict=True))
    found = labels.places(where, names, width=width, height=height)
    return {name: place for name, place in zip(names, found, strict=True) if place is not None}


def _spread(numbers: Sequence[float], length: float) -> list[float]:
    """Return where numbers lie on an axis of some length, its margins counted."""
    low, high = min(numbers, default=0.0), max(numbers, default=0.0)
    share = [(x - low) / (high - low) if high > low else 0.5 for x in numbers]
    return [length * (each + _MARGIN) / (1 + 2 * _MARGIN) for each in share]


def _title(title: str, axes: "Axes") -> None:
    axes.set_title(title)
    axes.set_xlabel("step")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.margins(x=0.01)


def _plain(axis: "Axis") -> None:
    """Give an axis on a log scale plain numbers: 1, 2 and 5 times powers of ten, as far as they fit."""
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator  # noqa: PLC0415 - optional

    low, high = axis.get_view_interval()
    near = high <= low * 10**_DECADES
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if near else (1,)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _colours() -> list[str]:
    return list(COLOURS)


def _numbers(values: Values, *, log: bool) -> list[float]:
    """Return a curve with gaps where it is undefined."""
    return [math.nan if x is None or (log and x <= 0) else x for x in values]


def _marker(values: Sequence[float]) -> str | None:
    """Return how points are marked: where a line would not show, as dots."""
    return "." if len(values) < 3 else None  # noqa: PLR2004 - a line has two ends


def _figure(inches: tuple[float, float], *, top: float = 1.0) -> "Figure":
    from matplotlib.figure import Figure  # noqa: PLC0415 - optional, and slow
    from matplotlib.layout_engine import ConstrainedLayoutEngine  # noqa: PLC0415

    return Figure(figsize=inches, layout=ConstrainedLayoutEngine(rect=(0, 0, 1, top)))


def _style() -> Any:
    """Return the context in which plots look alike.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: ICN001, PLC0415 - optional, and slow; rc_context lives there
    except ModuleNotFoundError as error:
        raise MissingExtraError(package="matplotlib", extra="report", purpose="a report") from error
    return matplotlib.rc_context(_STYLE)
